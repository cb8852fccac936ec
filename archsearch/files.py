"""Paths as users write them, and writing files so that a reader never sees half of one: temporary
file, fsync, rename.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from archsearch.errors import ArchsearchError


def expanded(path: str | Path) -> Path:
    """``path`` with a leading ``~`` resolved; that of a user who is not known stays as it is, and
    is then not found.
    """
    return Path(os.path.expanduser(path))


def write_through(path: Path, write: Callable[[Path], object], mode: int = 0o644) -> None:
    """Let ``write`` fill a file beside ``path``, which then takes its place: for what is too large
    to be held as bytes, or, with ``mode``, not for everybody to read.

    Raises:
        ArchsearchError: The file cannot be written (disk full, no permission); an existing file is
            left as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(descriptor)
        temporary = Path(name)
        try:
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(mode)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ArchsearchError(f"{path}: cannot be written: {error.strerror or error}.") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically.

    Raises:
        ArchsearchError: As ``write_through``.
    """
    write_through(path, lambda temporary: temporary.write_bytes(content))


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` atomically, as UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN and infinity are refused: they are not
    JSON.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
