"""Folders of pictures, for ``archsearch evaluate``: found and read as the source ``folder`` of a study does, batch by batch."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from archsearch.data.decode import NotTextError, UnusableError, caption_text, square
from archsearch.data.folder import Folder
from archsearch.data.record import Record, opener, records_of
from archsearch.data.skips import SkipCounter, Skipped
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError

SMALLEST_SIDE = 8
_SOURCE = "folder"


@dataclass(frozen=True)
class PictureFolder:
    """The usable pictures of a folder.

    Attributes:
        folder: The folder.
        paths: The pictures, sorted by their path in it.
        captions: One each, or none at all where some picture has none.
        size: Side of the square they are read as.
        digest: SHA-256 over names, contents, captions and size.
        skipped: What was left out, by reason.
    """

    folder: Path
    paths: tuple[Path, ...]
    captions: tuple[str, ...]
    size: int
    digest: str
    skipped: tuple[Skipped, ...]

    def batches(self, rows: Sequence[int], batch: int) -> Iterator[tuple[Tensor, list[str]]]:
        """Read the pictures ``rows``: uint8 (B, 3, size, size) and their captions, empty ones where the folder has none.

        Raises:
            InputError: A picture has gone or changed since it was found.
        """
        for start in range(0, len(rows), batch):
            chosen = rows[start : start + batch]
            pictures = torch.stack([self._read(self.paths[row]) for row in chosen])
            yield pictures, [self.captions[row] if self.captions else "" for row in chosen]

    def _read(self, path: Path) -> Tensor:
        try:
            return read_picture(path, self.size)
        except UnusableError as error:
            raise InputError(f"{path}: could be read a moment ago and no longer can: {error}.") from error


def scan(folder: Path, size: int, progress: Callable[[float], None] | None = None) -> PictureFolder:
    """Find the pictures of a folder and the folders in it, and try each: what cannot be read or is tiny is left out.

    Captions are found as in a study (:class:`archsearch.data.folder.Folder`), but a picture may do without.

    Raises:
        InputError: There is no such folder, or a caption or its file is not UTF-8, broken, or cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of pictures.")
    found = list(records_of(_SOURCE, Folder(), DataSpec(source=_SOURCE, path=str(folder))))
    paths, captions, skips = [], [], SkipCounter()
    digest = hashlib.sha256(json.dumps(["pictures", 2, size]).encode())
    for number, record in enumerate(found, 1):
        path = folder / record.name
        caption = _caption(record, path)
        try:
            square(record, size, SMALLEST_SIDE)
        except UnusableError as reason:
            skips.add(str(reason), record.name)
        else:
            paths.append(path)
            captions.append(caption)
            digest.update(json.dumps([record.name, caption]).encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        if progress:
            progress(number / len(found))
    known = tuple(caption for caption in captions if caption is not None)
    complete = len(known) == len(paths)
    return PictureFolder(folder, tuple(paths), known if complete else (), size, digest.hexdigest(), skips.all())


def _caption(record: Record, path: Path) -> str | None:
    try:
        return caption_text(record)
    except NotTextError as error:
        raise InputError(f"{path}: its caption is not UTF-8.") from error
    except UnusableError:
        return None


def read_picture(path: Path, size: int) -> Tensor:
    """Read a picture as a study does, :func:`archsearch.data.decode.square`: uint8 (3, size, size).

    Raises:
        UnusableError: It cannot be read, or a side has less than 8 pixels.
    """
    return square(Record(path.name, None, opener(path)), size, SMALLEST_SIDE)
