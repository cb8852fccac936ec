"""Artifacts: the files of a run that other machines need, in a place that all of them reach.

A run's folder is the working copy. What is made there is pushed, what another machine has made is
fetched when it is asked for. Where no such place is named, the folder is the place, and nothing is
copied.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from archsearch.errors import ArchsearchError, InputError
from archsearch.files import write_through
from archsearch.study.storage import masked

OBJECT_STORES = frozenset({"s3", "gs", "gcs", "az", "abfs", "oss"})
"""Where no folder needs to be made: to make one could make a bucket whose name was mistyped."""


@dataclass(frozen=True)
class Artifact:
    """A file that is there."""

    name: str
    size: int
    modified: float
    """Seconds since 1970."""


class Artifacts:
    """The files of one study.

    Args:
        folder: The working copy.
        address: A folder, or a URL of fsspec: ``s3://bucket/path``. None is the working copy.

    Raises:
        InputError: The address is of a kind that fsspec does not know, or lacks a package for.
    """

    def __init__(self, folder: Path, address: str | None = None) -> None:
        self.folder = folder
        self.shared = address is not None
        """Whether there is a place beside the working copy."""
        self.address = masked(address or str(folder))
        try:  # without a cache: other machines write there too
            if address is None or os.path.isdir(address):  # a path may hold what URLs mean by ::
                self._fs: fsspec.AbstractFileSystem = LocalFileSystem()
                root = str(Path(address or folder).resolve())
            else:
                self._fs, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise InputError(
                f"artifacts: {self.address}: {error}. Allowed is a folder, or an address that "
                "fsspec knows and whose package is installed (s3://… needs s3fs)."
            ) from error
        self._root = str(root).rstrip("/")

    def push(self, *names: str) -> None:
        """Copy files of the working copy to the place; one that is not there is passed over.

        Raises:
            ArchsearchError: The place cannot be written.
        """
        for name in names if self.shared else ():
            file, target = self.folder / name, f"{self._root}/{name}"
            if not file.is_file():
                continue
            with self._told("written"):
                if isinstance(self._fs, LocalFileSystem):  # so that nobody reads half of it
                    write_through(Path(target), lambda path, file=file: shutil.copyfile(file, path))  # type: ignore[misc]
                else:
                    if not OBJECT_STORES.intersection(_protocols(self._fs)):
                        self._fs.makedirs(os.path.dirname(target), exist_ok=True)
                    self._fs.put_file(str(file), target)

    def fetch(self, name: str) -> Path | None:
        """A file in the working copy, brought there where it is not; None where nobody has it.

        Raises:
            ArchsearchError: The place cannot be read.
        """
        path = self.folder / name
        return path if path.is_file() or self.copy(name, path) else None

    def copy(self, name: str, path: Path) -> bool:
        """Copy a file of the place to ``path``; False where it is not there.

        Raises:
            ArchsearchError: The place cannot be read.
        """
        if not self.shared:
            return False
        with self._told("read"):
            source = f"{self._root}/{name}"
            if not self._fs.isfile(source):
                return False
            write_through(path, lambda temporary: self._fs.get_file(source, str(temporary)))
            return True

    def fetch_all(self, folder: str) -> None:
        """Bring everything below a folder that the working copy lacks."""
        for artifact in self.found(folder) if self.shared else ():
            self.fetch(artifact.name)

    def found(self, folder: str) -> list[Artifact]:
        """Every file below a folder of the place.

        Raises:
            ArchsearchError: The place cannot be read.
        """
        with self._told("read"):
            infos: dict[str, dict[str, Any]] = self._fs.find(f"{self._root}/{folder}", detail=True)
        return [
            Artifact(path[len(self._root) + 1 :], int(info.get("size") or 0), _modified(info))
            for path, info in infos.items()
            if not os.path.basename(path).startswith(".")  # half written
        ]

    def remove(self, name: str) -> None:
        """Remove a file, here and in the place."""
        (self.folder / name).unlink(missing_ok=True)
        if self.shared:
            with self._told("written"), suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._root}/{name}")

    def check(self) -> None:
        """Refuse a place that cannot be written, at the start, not after the first training.

        Raises:
            InputError: It cannot.
        """
        try:
            self.push("space.yaml")
        except ArchsearchError as error:
            raise InputError(str(error)) from error

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except ArchsearchError:
            raise
        except Exception as error:  # each file system has classes of its own
            words = masked(str(error)).strip() or type(error).__name__
            raise ArchsearchError(
                f"artifacts: {self.address}: cannot be {what}: {words.splitlines()[0]}."
            ) from error


def _protocols(system: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def _modified(info: dict[str, Any]) -> float:
    """When a file was written, as its file system says it."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "modified", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0
