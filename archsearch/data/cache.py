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

from archsearch.errors import ArchsearchError
from archsearch.files import write_bytes

_log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Return the folder of cached features: ``$ARCHSEARCH_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("ARCHSEARCH_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("archsearch")


def cached_tensors(key: dict[str, Any], build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of ``key``, building and keeping them on the first call.

    The file's name is the SHA-256 of the key's canonical JSON; the key itself is in the file's metadata. Two processes
    that ask at the same time build once. A file that is cut short or unreadable is built again, with a warning.

    Args:
        key: Everything the tensors depend on, as JSON values.
        build: Computes the tensors, named.

    Raises:
        ArchsearchError: The cache folder cannot be written.
    """
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
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in build().items()}
        write_bytes(path, save(tensors, metadata={"key": canonical}))
        return tensors
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
    """Return the tensors in ``path``, or None if there is no such file or it is not what was written for this key."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            if (file.metadata() or {}).get("key") != canonical:
                return None
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError):
        return None
