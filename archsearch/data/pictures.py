"""From a source's records to square pictures of one size, streamed: what is unusable is left out and counted."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from archsearch.data.cache import cached_rows
from archsearch.data.record import Record, Source
from archsearch.data.rows import RowWriter
from archsearch.data.skips import SkipCounter, Skipped, warn_of
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError

Progress = Callable[[str, float], None]
READING = "reading pictures"
_BATCH = 256


@dataclass(frozen=True)
class CaptionedImages:
    """Pictures, one caption each, and which of them are near-duplicates of one another.

    Attributes:
        images: uint8 tensor of shape (N, 3, size, size), read through a memory map.
        captions: N captions.
        families: N keys; near-duplicates share one, and a family never straddles the split.
        key: What the pictures depend on, as JSON values; what is computed from them is cached under it.
        skipped: What was left out, by reason.
    """

    images: Tensor
    captions: tuple[str, ...]
    families: tuple[str, ...]
    key: dict[str, Any]
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.captions) == len(self.families):
            raise ValueError(
                f"images, captions and families must have one length, but got "
                f"{len(self.images)}, {len(self.captions)} and {len(self.families)}."
            )


def read_pictures(spec: DataSpec, sources: Mapping[str, Source], report: Progress) -> CaptionedImages:
    """Read, caption and resize the pictures of ``sources``, or take them from the cache if nothing has changed.

    Pictures lie on white and are turned as their EXIF data say, cut to the square in their middle, and resized (Lanczos). One
    whose shorter side is less than half of ``spec.size`` is left out: it would only be enlarged. Memory does not grow with
    the number of pictures, captions aside.

    Raises:
        InputError: No picture is usable, or the files have not the form that the source reads.
        ArchsearchError: The cache cannot be written.
    """
    shape = spec.model_dump(mode="json", exclude={"held_out", "text", "tokens"}, exclude_none=True)
    key = {"kind": "pictures", "schema": 2, "spec": shape, "versions": {name: s.versions() for name, s in sources.items()}}
    key["state"] = {name: source.state(spec) for name, source in sources.items()}
    report(READING, 0.0)
    found = cached_rows(key, lambda rows: _fill(rows, spec, sources, report))
    report(READING, 1.0)
    skipped = tuple(Skipped(s["reason"], s["count"], tuple(s["examples"])) for s in from_bytes(found["skipped"]))
    warn_of(skipped, f"data.source {', '.join(sources)}")
    return CaptionedImages(
        found["images"], tuple(from_bytes(found["captions"])), tuple(from_bytes(found["families"])), key, skipped
    )


def _fill(rows: RowWriter, spec: DataSpec, sources: Mapping[str, Source], report: Progress) -> None:
    captions: list[str] = []
    families: list[str] = []
    batch: list[Tensor] = []
    skips = SkipCounter()
    for style, record in _interleaved(spec, sources):
        try:
            caption = _caption(record)
            picture = _square(record, spec.size)
        except _UnusableError as reason:
            skips.add(str(reason), record.name)
            continue
        captions.append(f"{caption}, {style} style" if style else caption)
        families.append(record.family or f"picture-{hashlib.sha256(picture.numpy().tobytes()).hexdigest()[:32]}")
        batch.append(picture)
        if len(batch) == _BATCH:
            rows.append("images", torch.stack(batch))
            batch.clear()
            report(READING, len(captions) / spec.limit if spec.limit else 0.0)
        if len(captions) == spec.limit:
            break
    if batch:
        rows.append("images", torch.stack(batch))
    if not captions:
        told = "; ".join(map(str, skips.all())) or "there are none"
        where = f"data.path: {spec.path}" if spec.path else f"data.source: {', '.join(sources)}"
        raise InputError(f"{where}: no usable picture: {told}.")
    rows.append("captions", to_bytes(captions))
    rows.append("families", to_bytes(families))
    rows.append("skipped", to_bytes([skipped.to_dict() for skipped in skips.all()]))


def _interleaved(spec: DataSpec, sources: Mapping[str, Source]) -> Iterator[tuple[str | None, Record]]:
    """The records with the style that their captions are to name; of several sources in turn, so that a limit keeps all."""
    mixed = len(sources) > 1
    for records in zip_longest(*(source.records(spec) for source in sources.values())):
        for source, record in zip(sources.values(), records, strict=True):
            if record is not None:
                yield source.style if mixed else None, record


class _UnusableError(Exception):
    """Why a record is left out."""


def _caption(record: Record) -> str:
    if record.problem is not None:
        raise _UnusableError(record.problem)
    if record.caption is None:
        raise _UnusableError("no caption")
    try:
        text = record.caption.decode("utf-8-sig") if isinstance(record.caption, bytes) else record.caption
    except UnicodeDecodeError as error:
        raise _UnusableError("caption not UTF-8") from error
    caption = " ".join(text.split())
    if not caption:
        raise _UnusableError("empty caption")
    return caption


def _square(record: Record, size: int) -> Tensor:
    """Return the picture as a uint8 tensor of shape (3, size, size)."""
    if record.open is None:
        raise _UnusableError("missing picture")
    try:
        with record.open() as file:
            if min(file.size) * 2 < size:
                raise _UnusableError("tiny picture")
            file.draft("RGB", (2 * size, 2 * size))  # a JPEG decodes faster at a fraction of its size, twice ours or more
            drawing = ImageOps.exif_transpose(file).convert("RGBA")
    except FileNotFoundError as error:
        raise _UnusableError("missing picture") from error
    # Pillow raises SyntaxError for a broken PNG, and whatever its decoders raise on broken bytes.
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        TypeError,
        OverflowError,
        Image.DecompressionBombError,
    ) as error:
        raise _UnusableError("corrupt picture") from error
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


def to_bytes(value: Any) -> Tensor:
    """JSON values as a uint8 tensor of UTF-8 text: a cache file holds tensors only."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def from_bytes(encoded: Tensor) -> Any:
    """The values that :func:`to_bytes` was given."""
    return json.loads(encoded.numpy().tobytes())
