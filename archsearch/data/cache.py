"""The cache of what was read and encoded: rows in a file, read through a memory map."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import torch
from filelock import BaseFileLock, FileLock
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from archsearch.errors import ArchsearchError
from archsearch.files import expanded, write_through

_DTYPES = {
    torch.uint8: "U8",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
}


class _Spool:
    """The rows of one tensor so far, in a temporary file that has no name: nothing is left of it if
    the process dies.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.dtype, self.shape, self.rows = dtype, shape, 0


class RowWriter:
    """Collects named tensors whose first dimension grows; use it in a ``with`` statement.

    Args:
        folder: Where the temporary files lie. It must have room for all rows.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spools: dict[str, _Spool] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for spool in self._spools.values():
            spool.file.close()

    def append(self, name: str, rows: Tensor) -> None:
        """Add rows of shape (n, …) to the tensor ``name``; every call for a name gives the same
        dtype and shape of a row.

        Raises:
            ValueError: The dtype or the shape differs from that of the first rows.
            OSError: The disk is full.
        """
        rows = rows.detach().cpu().contiguous()
        shape = tuple(rows.shape[1:])
        spool = self._spools.get(name) or self._spools.setdefault(
            name, _Spool(self._folder, rows.dtype, shape)
        )
        if (spool.dtype, spool.shape) != (rows.dtype, shape):
            raise ValueError(
                f"'{name}' has rows of {spool.dtype} {spool.shape}, but got {rows.dtype} {shape}."
            )
        spool.file.write(rows.numpy().tobytes())
        spool.rows += len(rows)

    def write(self, path: Path, metadata: dict[str, str]) -> None:
        """Write all tensors into the safetensors file ``path``.

        Raises:
            OSError: The disk is full.
        """
        # Wide numbers first: every tensor then begins at a multiple of its own width, as readers by
        # memory map need it.
        ordered = sorted(self._spools.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
        header: dict[str, Any] = {"__metadata__": metadata}
        start = 0
        for name, spool in ordered:
            spool.file.flush()
            end = start + spool.file.seek(0, 2)
            header[name] = {
                "dtype": _DTYPES[spool.dtype],
                "shape": [spool.rows, *spool.shape],
                "data_offsets": [start, end],
            }
            start = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, spool in ordered:
                spool.file.seek(0)
                shutil.copyfileobj(spool.file, file, 1 << 20)


_log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Return the folder of cached features: ``$ARCHSEARCH_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("ARCHSEARCH_CACHE")
    return expanded(chosen) if chosen else user_cache_path("archsearch")


def cached_tensors(
    key: dict[str, Any], build: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the tensors of ``key``, building and keeping them on the first call.

    The file's name is the SHA-256 of the key's canonical JSON; the key itself is in the file's
    metadata, so that what was made for another key is never used. Two processes that ask at the
    same time build once. A file that is cut short or unreadable is built again, with a warning. The
    tensors are read through a memory map: changing one leaves the file alone.

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
    """Return the tensors of ``key`` as :func:`cached_tensors` does, but built row by row: none need
    fit into memory.

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
                f"{path}: the cached file cannot be read back. Choose another folder with "
                "ARCHSEARCH_CACHE=/path."
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
    """Map the tensors in ``path``; None if there is no such file or it is not what was written for
    this key.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            if (file.metadata() or {}).get("key") != canonical:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
