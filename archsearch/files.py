"""Paths as users write them, text that can be shown, reading files that others wrote, and writing
files so that a reader never sees half of one: temporary file, fsync, rename.
"""

import errno
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from archsearch.errors import ArchsearchError


def expanded(path: str | Path) -> Path:
    """``path`` with a leading ``~`` resolved; that of a user who is not known stays as it is, and
    is then not found.
    """
    return Path(os.path.expanduser(path))


# What a terminal would act upon instead of showing it: control characters, what turns the
# direction of a line, and half characters, as which a file's name that is not UTF-8 arrives.
UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Text, whoever wrote it, as it may be shown: what is none is escaped, tabs and ends of lines
    aside.
    """
    return UNPRINTABLE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


FILE_BYTES = 64 * 1024**2
"""The most that is read of a file which is held in memory whole: more than any table, study or
network takes."""


def read_bytes(path: Path, limit: int = FILE_BYTES) -> bytes:
    """The content of a file that anybody may have put there.

    Raises:
        OSError: It is not there, holds more than ``limit`` bytes, or is no regular file: a pipe
            without a writer would never end, nor would a link to a device.
    """
    # O_NONBLOCK: merely to open a pipe waits for its writer
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(min(found.st_size, limit) + 1)
            if found.st_size < len(content) <= limit:  # it has grown, or its size is not known
                content += file.read(limit + 1 - len(content))
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"holds more than {limit / 1024**2:g} MiB", str(path))
    return content


def check_regular(path: Path) -> None:
    """Refuse, for a library that opens files itself, one whose opening may never end.

    Raises:
        OSError: It is not there, or is no regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "is not a regular file", str(path))


def is_utf8(path: Path) -> bool:
    """Whether a path can be written as UTF-8: names of files are bytes, and may be others."""
    return not any("\ud800" <= letter <= "\udfff" for letter in str(path))


@contextmanager
def in_utf8(path: Path) -> Iterator[Path]:
    """``path`` for libraries that take names in UTF-8 alone: whatever is called otherwise they get
    by a link, in a temporary folder.
    """
    if is_utf8(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "link"
        link.symlink_to(path.absolute())
        yield link


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
    """Write ``content`` to ``path`` atomically, as UTF-8; half characters as escapes."""
    write_bytes(path, content.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN and infinity are refused: they are not
    JSON.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
