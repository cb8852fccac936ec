"""What every source is made of: records of pictures with captions, the files that hold them, how
they are decoded, and what is left out of them.
"""

import errno
import hashlib
import io
import os
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from archsearch.data.spec import DataSpec
from archsearch.errors import InputError
from archsearch.files import read_bytes

_COMMON = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# What Pillow opens but does not decode by itself: it asks another program (Ghostscript, for EPS)
# or the system, or only tells what it is.
_NOT_DECODED = ("BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "WMF")
OTHER_PICTURES = frozenset(
    {
        *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".raw", ".rw2"),
        *(".emf", ".eps", ".svg", ".svgz", ".wmf"),
        *(".exr", ".hdr", ".heic", ".heif", ".hif", ".jxl", ".jxr", ".xcf"),
    }
)
"""Endings of pictures that are not read: they are counted, not passed over."""
UNREAD = "picture in a format that is not read"
# What an OSError says of a file that is not there, or of a link that leads nowhere
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# What the reader of files says of one that it does not read
REFUSED = {errno.EINVAL: "not a regular file", errno.EFBIG: "too large"}
_EXAMPLES = 3
_SIXTEEN_BITS = 257  # 65535 / 255
# Pillow raises SyntaxError for a broken PNG, and whatever its decoders and its reader of EXIF data
# raise on broken bytes.
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class Record:
    """One picture and its caption, not decoded yet.

    Attributes:
        name: What a message calls it: a file's name, a key.
        caption: The caption; bytes are read as UTF-8. None where there is none.
        open: Decodes the picture; may raise what Pillow raises. None where there is no picture.
        family: Near-duplicates share a key, and a family never straddles the split. None: pictures
            that are equal at the size of the data are a family.
        problem: Why it cannot be used, where the source knows that already: it is then skipped and
            counted.
    """

    name: str
    caption: str | bytes | None
    open: Callable[[], Image.Image] | None
    family: str | None = None
    problem: str | None = None


class Source(Protocol):
    """Delivers captioned pictures in an order that never changes. A class that names this one as
    its base gets the defaults.

    Attributes:
        takes: Which of the keys in :data:`archsearch.data.spec.SOURCE_KEYS` belong to it.
        needs: Those that it cannot do without.
        style: What captions call its style where sources are mixed; None where they call it
            nothing, or always do.
        largest: Largest size in pixels that its pictures are good for, or None.
    """

    takes: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    style: str | None = None
    largest: int | None = None

    def versions(self) -> dict[str, str]:
        """Return what decides the pictures besides the spec and the user's files: versions of
        packages and of rules.

        Raises:
            InputError: A package is missing.
        """

    def state(self, spec: DataSpec) -> Any:
        """Return what changes when the user's files do, as a JSON value: the cache is used only
        while it stays the same.

        Raises:
            InputError: There is nothing under ``spec.path``.
        """
        return None

    def licences(self, spec: DataSpec) -> dict[str, str]:
        """Return under which licence the pictures may be used, by what is licensed; nothing where
        only the user knows.

        Raises:
            InputError: The files have not the form that the source reads.
        """
        return {}

    def records(self, spec: DataSpec) -> Iterator[Record]:
        """Yield the pictures one after the other.

        Raises:
            InputError: The files have not the form that the source reads.
        """


def records_of(name: str, source: Source, spec: DataSpec) -> Iterator[Record]:
    """The records of the source called ``name``; what cannot be read is told as the user's file,
    not as ours.

    Raises:
        InputError: A file cannot be read, or has not the form that the source reads.
    """
    try:
        yield from source.records(spec)
    except OSError as error:
        where = error.filename or f"data.source: {name}"
        raise InputError(f"{where}: cannot be read: {error.strerror or error}.") from error


PICTURE_BYTES = 256 * 1024**2
"""So large a file of a picture may be."""


@lru_cache(maxsize=1)
def picture_formats() -> tuple[str, ...]:
    """Names of the formats that Pillow decodes by itself."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - set(_NOT_DECODED)))


@lru_cache(maxsize=1)
def picture_endings() -> tuple[str, ...]:
    """Endings of the files that are read as pictures, in small letters, the most common first."""
    formats = {*picture_formats(), "MPO"}  # photographs of two lenses, which the JPEG reader opens
    known = (e for e, of in sorted(Image.registered_extensions().items()) if of in formats)
    return tuple(dict.fromkeys([*_COMMON, *known]))


def opener(picture: Path | bytes) -> Callable[[], Image.Image]:
    """What decodes a picture file, a regular one, or the bytes of one, when it is called."""

    def open_picture() -> Image.Image:
        content = read_bytes(picture, PICTURE_BYTES) if isinstance(picture, Path) else picture
        return Image.open(io.BytesIO(content), formats=picture_formats())

    return open_picture


def match_names(wanted: Iterable[str], files: Iterable[str]) -> dict[str, str]:
    """Which file each name means, as other systems write names: Windows and macOS do not tell ``A``
    from ``a`` nor the two Unicode forms of ``ä``, and Windows writes ``a\\b`` for ``a/b``.

    A name means the very file that is called so; else the only one that is called alike and that
    no other name is the very name of. What means none is left out.

    Args:
        wanted: Names, relative to a folder.
        files: What lies in it.
    """
    there = set(files)
    plain = {name: PurePosixPath(name).as_posix() for name in wanted}  # without ./
    found = {name: form for name, form in plain.items() if form in there}
    alike: dict[str, list[str]] = {}
    for file in there - set(found.values()):
        alike.setdefault(_folded(file), []).append(file)
    for name in plain.keys() - found.keys():
        form = PurePosixPath(name.replace("\\", "/")).as_posix()
        same = [form] if form in there else alike.get(_folded(form), [])
        if len(same) == 1:
            found[name] = same[0]
    return found


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def files_below(folder: Path) -> list[Path]:
    """Every file below ``folder``, hidden ones aside, in the order of their paths.

    Links are followed, but not into a folder that the link lies in. One that leads nowhere is
    listed as well: it is a missing file.
    """
    found: list[Path] = []
    around = {str(folder): {os.path.realpath(folder)}}  # a folder's and those that it lies in
    for parent, folders, names in os.walk(folder, followlinks=True):
        above = around.pop(parent)
        visible = [name for name in folders if not name.startswith(".")]
        folders.clear()
        for path in (os.path.join(parent, name) for name in visible):
            real = os.path.realpath(path)
            if real not in above:
                folders.append(os.path.basename(path))
                around[path] = above | {real}
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def listing_of(files: Iterable[Path], root: Path) -> dict[str, Any]:
    """Names, sizes and times of change of ``files`` in short: their number and one SHA-256.

    A file whose content changes while its size and time stay the same is not noticed. A link that
    leads nowhere has neither.
    """
    digest, count = hashlib.sha256(), 0
    for path in files:
        try:
            stat = path.stat()
            seen = f"{stat.st_size}\0{stat.st_mtime_ns}"
        except OSError:
            seen = "gone"
        digest.update(
            f"{path.relative_to(root).as_posix()}\0{seen}\n".encode(errors="surrogateescape")
        )
        count += 1
    return {"files": count, "sha256": digest.hexdigest()}


def caption_of(row: Mapping[str, Any], spec: DataSpec, name: str) -> str | None:
    """The caption in a row of a data set: text, or one of a list of texts; None if there is none.

    Args:
        row: Column or key → value.
        spec: Says under which keys captions are looked for.
        name: Name of the picture, from which the choice among several captions follows.
    """
    for key in spec.caption_keys:
        value = row.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, list | tuple):
            return choose([text for text in value if isinstance(text, str)], name)
    return None


def choose(captions: list[str], name: str) -> str | None:
    """One of a picture's captions: always the same, whatever their order; a different place for
    different pictures.
    """
    usable = [caption for caption in captions if caption.strip()] or captions
    return min(
        usable,
        key=lambda caption: hashlib.sha256(
            f"{name}\0{caption}".encode(errors="surrogatepass")
        ).digest(),
        default=None,
    )


class UnusableError(Exception):
    """Why a record is left out."""


class NotTextError(UnusableError):
    """A caption is there, but not as text."""


def caption_text(record: Record) -> str:
    """The caption, its white space made plain.

    Raises:
        NotTextError: It is not UTF-8.
        UnusableError: There is none, or it is empty.
    """
    caption = record.caption
    if caption is None:
        raise UnusableError("no caption")
    try:
        text = caption.decode("utf-8-sig") if isinstance(caption, bytes) else caption
        text.encode()  # JSON may hold half of a character
    except UnicodeError as error:
        raise NotTextError("caption not UTF-8") from error
    if not text.strip():
        raise UnusableError("empty caption")
    return " ".join(text.split())


def square(record: Record, size: int, smallest: float) -> Tensor:
    """The picture as a uint8 tensor of shape (3, size, size).

    It lies on white, is turned as its EXIF data say, cut to the square in its middle, and resized
    (Lanczos). Grey of 16 bits is scaled to eight.

    Args:
        record: The record.
        size: Side of the square.
        smallest: Shortest side in pixels that a picture may have.

    Raises:
        UnusableError: It is missing, tiny, too large to be decoded, corrupt, or of a depth whose
            white is not known.
    """
    drawing = _decoded(record, size, smallest)
    canvas = Image.new("RGBA", drawing.size, "white")
    canvas.alpha_composite(drawing)
    flat = canvas.convert("RGB")
    width, height = flat.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if width != height:
        flat = flat.crop((left, top, left + side, top + side))
    if side != size:
        flat = flat.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(flat)).permute(2, 0, 1).contiguous()  # (3, size, size)


def _decoded(record: Record, size: int, smallest: float) -> Image.Image:
    # Upright and with a channel of opacity.
    if record.open is None:
        raise UnusableError("missing picture")
    try:
        with record.open() as file:
            if min(file.size) < smallest:
                raise UnusableError("tiny picture")
            # A JPEG decodes faster at a fraction of its size, twice ours or more.
            file.draft("RGB", (2 * size, 2 * size))
            upright = ImageOps.exif_transpose(file)
            if upright.mode.startswith("I;16"):
                # Pillow would cut off all that is brighter than 255 of 65535.
                numbers = np.asarray(upright).astype(np.float32) / _SIXTEEN_BITS
                upright = Image.fromarray(numbers.round().astype(np.uint8))
            if upright.mode in ("I", "F"):  # 32 bits, of which no file says which number is white
                raise UnusableError("unsupported depth")
            return upright.convert("RGBA")
    except Image.DecompressionBombError as error:
        raise UnusableError("too large picture") from error
    except _BROKEN as error:
        number = error.errno if isinstance(error, OSError) else None
        why = f"picture {REFUSED[number]}" if number in REFUSED else "corrupt picture"
        raise UnusableError("missing picture" if number in GONE else why) from error


@dataclass(frozen=True)
class Skipped:
    """Pictures left out for one reason.

    Attributes:
        reason: Such as ``"corrupt picture"``.
        count: How many.
        examples: The names of the first few.
    """

    reason: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.examples) else ""
        return f"{self.count} {self.reason} ({', '.join(self.examples)}{more})"


class SkipCounter:
    """Counts what is left out."""

    def __init__(self) -> None:
        self._skipped: dict[str, Skipped] = {}

    def add(self, reason: str, name: str) -> None:
        """Count one more."""
        known = self._skipped.get(reason, Skipped(reason, 0, ()))
        printable = name.encode(errors="backslashreplace").decode()  # a file's name need not be
        examples = (*known.examples, printable)[:_EXAMPLES]
        self._skipped[reason] = Skipped(reason, known.count + 1, examples)

    def all(self) -> tuple[Skipped, ...]:
        """One entry a reason, the most frequent first."""
        return tuple(sorted(self._skipped.values(), key=lambda s: (-s.count, s.reason)))
