"""Tensors that are computed once and kept on disk."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from archsearch.data.rows import RowWriter
from archsearch.errors import ArchsearchError
from archsearch.files import expanded, write_through

_log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Return the folder of cached features: ``$ARCHSEARCH_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("ARCHSEARCH_CACHE")
    return expanded(chosen) if chosen else user_cache_path("archsearch")


def cached_tensors(key: dict[str, Any], build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of ``key``, building and keeping them on the first call.

    The file's name is the SHA-256 of the key's canonical JSON; the key itself is in the file's metadata, so that what was made
    for another key is never used. Two processes that ask at the same time build once. A file that is cut short or unreadable is
    built again, with a warning. The tensors are read through a memory map: changing one leaves the file alone.

    Args:
        key: Everything the tensors depend on, as JSON values.
        build: Computes the tensors, named.

    Raises:
        ArchsearchError: The cache folder cannot be written.
    """

    def write(path: Path, canonical: str) -> None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in build().items()}
        path.write_bytes(save(tensors, metadata={"key": canonical}))

    return _cached(key, write)


def cached_rows(key: dict[str, Any], fill: Callable[[RowWriter], None]) -> dict[str, Tensor]:
    """Return the tensors of ``key`` as :func:`cached_tensors` does, but built row by row: none need fit into memory.

    Args:
        key: Everything the tensors depend on, as JSON values.
        fill: Appends the rows.

    Raises:
        ArchsearchError: The cache folder cannot be written.
    """

    def write(path: Path, canonical: str) -> None:
        with RowWriter(path.parent) as rows:
            fill(rows)
            rows.write(path, {"key": canonical})

    return _cached(key, write)


def _cached(key: dict[str, Any], write: Callable[[Path, str], None]) -> dict[str, Tensor]:
    canonical = json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)
    path = cache_dir() / f"{hashlib.sha256(canonical.encode()).hexdigest()[:40]}.safetensors"
    found = _read(path, canonical)
    if found is not None:
        return found
    lock = _acquire(path.with_suffix(".lock"))
    try:
        found = _read(path, canonical)  # another process may have built it while this one waited
        if found is not None:
            return found
        if path.exists():
            _log.warning("%s: the cached file is damaged and is built again.", path)
        write_through(path, lambda temporary: write(temporary, canonical))
        found = _read(path, canonical)
        if found is None:
            raise ArchsearchError(
                f"{path}: the cached file cannot be read back. Choose another folder with ARCHSEARCH_CACHE=/path."
            )
        return found
    finally:
        lock.release()


def _acquire(path: Path) -> BaseFileLock:
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise ArchsearchError(
            f"{path.parent}: the cache folder cannot be written: {error.strerror or error}. "
            "Choose another with ARCHSEARCH_CACHE=/path."
        ) from error
    return lock


def _read(path: Path, canonical: str) -> dict[str, Tensor] | None:
    """Map the tensors in ``path``; None if there is no such file or it is not what was written for this key."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            if (file.metadata() or {}).get("key") != canonical:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError):
        return None
