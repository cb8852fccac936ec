"""The cache of what was read and encoded: a folder of ``.npy`` files for each key."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_path

from archsearch.errors import ArchsearchError
from archsearch.files import expanded

if TYPE_CHECKING:
    from torch import Tensor

_SCHEMA = 1
_META = "meta.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What the cache holds under one key.

    Attributes:
        tensors: Tensors by name, read through memory maps of their own: changing one leaves its
            file alone.
        values: JSON values by name.
    """

    tensors: "dict[str, Tensor]"
    values: dict[str, Any]


class EntryWriter:
    """Writes an entry of the cache into ``folder``: tensors row by row, so that none need fit into
    memory.

    Attributes:
        values: JSON values by name, which the entry holds besides its tensors.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values: dict[str, Any] = {}
        self._written: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}

    def append(self, name: str, rows: "Tensor") -> None:
        """Add rows of shape (n, …) to the tensor ``name``; every call for a name gives the same
        dtype and shape of a row.

        Raises:
            ValueError: The dtype or the shape differs from that of the first rows.
            OSError: The disk is full.
        """
        array = rows.detach().cpu().contiguous().numpy()
        dtype, shape = self._written.get(name, (array.dtype, (0, *array.shape[1:])))
        if (dtype, shape[1:]) != (array.dtype, array.shape[1:]):
            raise ValueError(
                f"'{name}' has rows of {dtype} {shape[1:]}, but got {array.dtype} "
                f"{array.shape[1:]}."
            )
        if name not in self._written:
            self._write_header(name, "wb", dtype, shape)
        with (self.folder / f"{name}.npy").open("ab") as file:
            file.write(array.data)
        self._written[name] = dtype, (shape[0] + len(array), *shape[1:])

    def finish(self, key: Any) -> None:
        """Complete the files, and bring them to the disk.

        Raises:
            OSError: The disk is full.
        """
        for name, (dtype, shape) in self._written.items():
            self._write_header(name, "r+b", dtype, shape)
        meta = {"schema": _SCHEMA, "key": key, "tensors": [*self._written], "values": self.values}
        (self.folder / _META).write_text(json.dumps(meta, allow_nan=False), encoding="utf-8")
        for path in self.folder.iterdir():
            with path.open("rb") as written:
                os.fsync(written.fileno())

    def _write_header(
        self, name: str, mode: str, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> None:
        # numpy pads the header so that it has one length, however many rows follow.
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        with (self.folder / f"{name}.npy").open(mode) as file:
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]


def cache_dir() -> Path:
    """Return the folder of the cache: ``$ARCHSEARCH_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("ARCHSEARCH_CACHE")
    return expanded(chosen) if chosen else user_cache_path("archsearch")


def cached_tensors(
    key: dict[str, Any], build: "Callable[[], dict[str, Tensor]]"
) -> "dict[str, Tensor]":
    """Return the tensors of ``key``, building and keeping them on the first call, as :func:`cached`
    does.

    Args:
        key: Everything the tensors depend on, as JSON values.
        build: Computes the tensors, named.

    Raises:
        ArchsearchError: The cache folder cannot be written.
    """

    def fill(entry: EntryWriter) -> None:
        for name, tensor in build().items():
            entry.append(name, tensor[None])  # one row: a tensor may have no dimension

    return {name: rows[0] for name, rows in cached(key, fill).tensors.items()}


def cached(key: dict[str, Any], fill: Callable[[EntryWriter], None]) -> Entry:
    """Return the entry of ``key``, writing it on the first call.

    The name of its folder is the SHA-256 of the key's canonical JSON. The key itself is in its
    ``meta.json``, so that what was made for another key is never used. Two processes that ask at
    the same time write once. The folder takes its name when it is complete, so that nobody reads
    half an entry. One that is damaged later is written again, with a warning.

    Args:
        key: Everything the entry depends on, as JSON values.
        fill: Writes tensors and values.

    Raises:
        ArchsearchError: The cache folder cannot be written.
    """
    canonical = json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)
    plain = json.loads(canonical)  # lists for tuples: as it is read back
    path = cache_dir() / hashlib.sha256(canonical.encode()).hexdigest()[:40]
    found = _read(path, plain)
    if found is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path.with_suffix(".lock")).acquire()
    except OSError as error:
        raise ArchsearchError(
            f"{path.parent}: the cache folder cannot be written: {error.strerror or error}. "
            "Choose another with ARCHSEARCH_CACHE=/path."
        ) from error
    with held:
        found = _read(path, plain)  # another process may have written it while this one waited
        if found is None:
            if path.exists():
                _log.warning("%s: the cached data are damaged and are built again.", path)
            _write(path, plain, fill)
            found = _read(path, plain)
    if found is None:
        raise ArchsearchError(
            f"{path}: the cached data cannot be read back. Choose another folder with "
            "ARCHSEARCH_CACHE=/path."
        )
    return found


def _write(path: Path, key: Any, fill: Callable[[EntryWriter], None]) -> None:
    aside = path.with_suffix(".partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)  # what a killed process left
        aside.mkdir()
        try:
            entry = EntryWriter(aside)
            fill(entry)
            entry.finish(key)
            shutil.rmtree(path, ignore_errors=True)
            aside.rename(path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    except OSError as error:
        raise ArchsearchError(f"{path}: cannot be written: {error.strerror or error}.") from error


def _read(path: Path, key: Any) -> Entry | None:
    import torch

    # Map the entry in ``path``; None if it is not there, damaged, or of another key.
    try:
        meta = json.loads((path / _META).read_bytes())
        if (meta["schema"], meta["key"]) != (_SCHEMA, key):
            return None
        tensors: dict[str, Tensor] = {}
        for name in meta["tensors"]:
            # Copy on write: a tensor that is changed leaves the file alone.
            array = np.load(path / f"{name}.npy", mmap_mode="c", allow_pickle=False)
            tensors[name] = torch.from_numpy(array)
        return Entry(tensors, meta["values"])
    except (OSError, EOFError, ValueError, TypeError, LookupError):
        return None
