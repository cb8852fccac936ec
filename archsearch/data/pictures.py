"""From a source's records to square pictures of one size, streamed: what is unusable is left out and counted."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from archsearch.data.cache import cached_rows
from archsearch.data.decode import UnusableError, caption_text, square
from archsearch.data.record import Record, Source, records_of
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

    How a picture is read: :func:`archsearch.data.decode.square`. One whose shorter side is less than half of ``spec.size`` is left
    out: it would only be enlarged. Memory does not grow with the number of pictures, captions aside.

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
            if record.problem is not None:
                raise UnusableError(record.problem)
            caption = caption_text(record)
            picture = square(record, spec.size, spec.size / 2)
        except UnusableError as reason:
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
    for records in zip_longest(*(records_of(name, source, spec) for name, source in sources.items())):
        for source, record in zip(sources.values(), records, strict=True):
            if record is not None:
                yield source.style if mixed else None, record


def to_bytes(value: Any) -> Tensor:
    """JSON values as a uint8 tensor of UTF-8 text: a cache file holds tensors only."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def from_bytes(encoded: Tensor) -> Any:
    """The values that :func:`to_bytes` was given."""
    return json.loads(encoded.numpy().tobytes())
