"""One record decoded: its caption as plain text, its picture upright, on white, a square."""

import errno
import struct
import zlib
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from archsearch.data.record import Record

GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""What an OSError says of a file that is not there, or a link that leads nowhere."""
_SIXTEEN_BITS = 257  # 65535 / 255
# Pillow raises SyntaxError for a broken PNG, and whatever its decoders and its reader of EXIF data raise on broken bytes.
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
    Image.DecompressionBombError,
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
    if record.caption is None:
        raise UnusableError("no caption")
    try:
        text = record.caption.decode("utf-8-sig") if isinstance(record.caption, bytes) else record.caption
        text.encode()  # JSON may hold half of a character
    except UnicodeError as error:
        raise NotTextError("caption not UTF-8") from error
    caption = " ".join(text.split())
    if not caption:
        raise UnusableError("empty caption")
    return caption


def square(record: Record, size: int, smallest: float) -> Tensor:
    """The picture as a uint8 tensor of shape (3, size, size).

    It lies on white, is turned as its EXIF data say, cut to the square in its middle, and resized (Lanczos). Grey of 16 bits
    is scaled to eight.

    Args:
        record: The record.
        size: Side of the square.
        smallest: Shortest side in pixels that a picture may have.

    Raises:
        UnusableError: It is missing, tiny, corrupt, or of a depth whose white is not known.
    """
    if record.open is None:
        raise UnusableError("missing picture")
    drawing = _drawing(record.open, size, smallest)
    canvas = Image.new("RGBA", drawing.size, "white")
    canvas.alpha_composite(drawing)
    flat = canvas.convert("RGB")
    width, height = flat.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if (width, height) != (side, side):
        flat = flat.crop((left, top, left + side, top + side))
    if side != size:
        flat = flat.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(flat)).permute(2, 0, 1).contiguous()  # (3, size, size)


def _drawing(opened: Callable[[], Image.Image], size: int, smallest: float) -> Image.Image:
    try:
        with opened() as file:
            if min(file.size) < smallest:
                raise UnusableError("tiny picture")
            file.draft("RGB", (2 * size, 2 * size))  # a JPEG decodes faster at a fraction of its size, twice ours or more
            upright = ImageOps.exif_transpose(file)
            if upright.mode.startswith("I;16"):  # Pillow would cut off all that is brighter than 255 of 65535
                numbers = np.asarray(upright).astype(np.float32) / _SIXTEEN_BITS
                upright = Image.fromarray(numbers.round().astype(np.uint8))
            if upright.mode in ("I", "F"):  # 32 bits, of which no file says which number is white
                raise UnusableError("unsupported depth")
            return upright.convert("RGBA")
    except _BROKEN as error:
        gone = isinstance(error, OSError) and error.errno in GONE
        raise UnusableError("missing picture" if gone else "corrupt picture") from error
