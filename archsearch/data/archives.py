"""Archives from elsewhere: a few megabytes of one can unpack to any number."""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from archsearch.data.records import PICTURE_BYTES
from archsearch.errors import InputError

UNPACKED_BYTES = 1024**3
"""So much any archive may hold, unpacked;"""
RATIO = 100
"""a larger one so many times its own size. Pictures hardly shrink at all."""


@contextmanager
def open_archive(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar archive, packed or not, to be read with :func:`members_of` and :func:`content_of`.

    Raises:
        InputError: It cannot be read, or what is read of it within the block is damaged.
    """
    try:
        if not path.is_file():
            raise OSError("is not a regular file")
        with tarfile.open(path) as archive:
            yield archive
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        reason = str(error.args[0] if error.args else type(error).__name__).splitlines()[0]
        reason = reason.rstrip(":")
        raise InputError(
            f"{path}: cannot be read as an archive ({reason}). Is the file truncated?"
        ) from error


def members_of(archive: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """The regular files of the archive at ``path``, in their order; links and devices are none.

    Raises:
        InputError: It unpacks to more than ``UNPACKED_BYTES`` and ``RATIO`` times its size.
    """
    allowed = max(UNPACKED_BYTES, RATIO * path.stat().st_size)
    for member in archive:
        if member.offset_data + member.size > allowed and not member.issparse():
            raise InputError(
                f"{path}: unpacks to more than {allowed / 1024**3:,.1f} GiB, {RATIO} times its "
                "size: no data set does."
            )
        if member.isreg():
            yield member


def content_of(
    archive: tarfile.TarFile, member: tarfile.TarInfo, limit: int = PICTURE_BYTES
) -> bytes | None:
    """What a regular file in an archive holds; None where that is more than ``limit`` bytes."""
    if member.size > limit:
        return None
    file = archive.extractfile(member)
    assert file is not None  # of a regular file
    with file:
        return file.read()
