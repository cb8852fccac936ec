"""Folders of pictures, for ``archsearch evaluate``: found, checked, and read batch by batch."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from archsearch.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
SMALLEST_SIDE = 8
METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class PictureFolder:
    """The usable pictures of a folder.

    Attributes:
        folder: The folder.
        paths: The pictures, sorted by their path in it.
        captions: One each, or none at all where some picture has none.
        size: Side of the square they are read as.
        digest: SHA-256 over names, contents, captions and size.
        skipped: What was left out, each with the reason.
    """

    folder: Path
    paths: tuple[Path, ...]
    captions: tuple[str, ...]
    size: int
    digest: str
    skipped: tuple[str, ...]

    def batches(self, rows: Sequence[int], batch: int) -> Iterator[tuple[Tensor, list[str]]]:
        """Read the pictures ``rows``: uint8 (B, 3, size, size) and their captions, empty ones where the folder has none."""
        for start in range(0, len(rows), batch):
            chosen = rows[start : start + batch]
            pictures = torch.stack([read_picture(self.paths[row], self.size) for row in chosen])
            yield pictures, [self.captions[row] if self.captions else "" for row in chosen]


def scan(folder: Path, size: int, progress: Callable[[float], None] | None = None) -> PictureFolder:
    """Find the pictures of a folder and the folders in it, and try each: what cannot be read or is tiny is left out.

    Captions are in ``metadata.jsonl`` (``file_name`` and ``text`` a line, as the ``datasets`` library reads them), or else in
    ``NAME.txt`` beside each picture.

    Raises:
        InputError: There is no such folder, or a caption file is not UTF-8 or not of that form.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of pictures.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    texts = _captions(folder, found)
    paths, skipped = [], []
    digest = hashlib.sha256(json.dumps(["pictures", 1, size]).encode())
    for number, path in enumerate(found, 1):
        try:
            read_picture(path, size)
        except Unusable as error:
            skipped.append(f"{path.relative_to(folder)}: {error}")
        else:
            paths.append(path)
            digest.update(json.dumps([path.relative_to(folder).as_posix(), texts.get(path)]).encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        if progress:
            progress(number / len(found))
    captions = tuple(texts[path] for path in paths if path in texts)
    complete = len(captions) == len(paths)
    return PictureFolder(folder, tuple(paths), captions if complete else (), size, digest.hexdigest(), tuple(skipped))


class Unusable(Exception):  # noqa: N818 - never seen outside
    """Why a picture is left out."""


def read_picture(path: Path, size: int) -> Tensor:
    """Read a picture upright and on white, its shorter side resized to ``size`` and its centre cut out: uint8 (3, size, size).

    A picture of that size already is taken as it is.

    Raises:
        Unusable: It cannot be read, or a side has less than 8 pixels.
    """
    try:
        with Image.open(path) as file:
            drawing = ImageOps.exif_transpose(file).convert("RGBA")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise Unusable(str(error) or type(error).__name__) from error
    if min(drawing.size) < SMALLEST_SIDE:
        raise Unusable(f"{drawing.width} × {drawing.height} pixels")
    canvas = Image.new("RGBA", drawing.size, "white")
    canvas.alpha_composite(drawing)
    flat = canvas.convert("RGB")
    if flat.size != (size, size):
        flat = ImageOps.fit(flat, (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(flat)).permute(2, 0, 1).contiguous()


def _captions(folder: Path, paths: Sequence[Path]) -> dict[Path, str]:
    metadata = folder / METADATA
    if not metadata.is_file():
        beside = {path: path.with_suffix(".txt") for path in paths}
        return {path: _text(file).strip() for path, file in beside.items() if file.is_file()}
    captions = {}
    for number, line in enumerate(_text(metadata).splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, text = entry["file_name"], entry["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{metadata}:{number}: each line must be a JSON object with file_name and text.") from error
        if not isinstance(name, str) or not isinstance(text, str):
            raise InputError(f"{metadata}:{number}: file_name and text must be strings, but got {name!r} and {text!r}.")
        captions[folder / name] = text.strip()
    return captions


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start}). Captions must be.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
