"""Decoded pictures with their captions, from any source, and their split."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from archsearch.data.cache import EntryWriter, cached
from archsearch.data.emoji import OpenMoji, Twemoji
from archsearch.data.iconify import Iconify
from archsearch.data.records import (
    Record,
    SkipCounter,
    Skipped,
    Source,
    UnusableError,
    caption_text,
    records_of,
    square,
)
from archsearch.data.sources import Coco, Folder, HuggingFace, WebDataset
from archsearch.data.spec import OF_SPLIT, SOURCE_KEYS, DataSpec
from archsearch.errors import InputError, nearest
from archsearch.plugins import load_plugins

# Called with what is being done and the fraction done of it, in [0, 1].
Progress = Callable[[str, float], None]
_READING = "reading pictures"
_BATCH = 256
_ATTRIBUTES = ("takes", "needs", "style", "largest", "versions", "state", "licences", "records")
_OWN: dict[str, Source] = {
    "twemoji": Twemoji(),
    "openmoji": OpenMoji(),
    "iconify": Iconify(),
    "folder": Folder(),
    "coco": Coco(),
    "webdataset": WebDataset(),
    "huggingface": HuggingFace(),
}
SOURCES: dict[str, Source] = _OWN | load_plugins("archsearch.sources", _ATTRIBUTES, _OWN)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionedImages:
    """Pictures, one caption each, and which of them are near-duplicates of one another.

    Attributes:
        images: uint8 tensor of shape (N, 3, size, size), read through a memory map.
        captions: N captions.
        families: N keys; near-duplicates share one, and a family never straddles the split.
        key: What the pictures depend on, as JSON values; what is computed from them is cached under
            it.
        skipped: What was left out, by reason.
    """

    images: Tensor
    captions: tuple[str, ...]
    families: tuple[str, ...]
    key: dict[str, Any]
    skipped: tuple[Skipped, ...] = ()


def check_source(spec: DataSpec) -> dict[str, Source]:
    """Return the sources that ``spec`` names, in their order.

    Raises:
        InputError: One is not known, a key is missing or belongs to none of them, or the pictures
            would have to be enlarged.
    """
    for name in spec.sources:
        if name not in SOURCES:
            raise InputError(
                f"data.source: '{name}' is not known.{nearest(name, SOURCES)} Allowed are: "
                f"{', '.join(SOURCES)}."
            )
    sources = {name: SOURCES[name] for name in spec.sources}
    for key in SOURCE_KEYS:
        takers = [name for name, source in sources.items() if key in source.takes]
        given = getattr(spec, key) not in (None, False)
        if given and not takers:
            owners = ", ".join(name for name, source in SOURCES.items() if key in source.takes)
            raise InputError(
                f"data.{key}: belongs to {owners or 'no source'}, but data.source is "
                f"{', '.join(sources)}."
            )
        if key != "skin_tones" and len(takers) > 1:
            raise InputError(
                f"data.source: {' and '.join(takers)} both take data.{key}, which is one; mix "
                "at most one of them."
            )
        if not given and (needing := [name for name in takers if key in sources[name].needs]):
            raise InputError(f"data.{key}: the source {needing[0]} needs it, but it is not given.")
    for name, source in sources.items():
        if source.largest is not None and spec.size > source.largest:
            raise InputError(
                f"data.size: {name}'s drawings have {source.largest} pixels a side, but size is "
                f"{spec.size}."
            )
    return sources


def licences(spec: DataSpec) -> dict[str, str]:
    """Under which licences the pictures may be used, by what is licensed; nothing where only the
    user knows.

    Raises:
        InputError: As ``check_source``, or the files have not the form that the source reads.
    """
    return {
        name: licence
        for source in check_source(spec).values()
        for name, licence in source.licences(spec).items()
    }


def load_source(spec: DataSpec, progress: Progress | None = None) -> CaptionedImages:
    """Read, caption and resize the pictures of ``spec``, or take them from the cache if nothing has
    changed since that was done.

    How a picture is read: :func:`archsearch.data.records.square`. One whose shorter side is less
    than half of ``spec.size`` is left out: it would only be enlarged. Memory does not grow with the
    number of pictures, captions aside.

    Raises:
        InputError: The spec does not fit its source, no picture is usable, or the files have not
            the form that the source reads.
        ArchsearchError: The cache cannot be written.
    """
    sources = check_source(spec)
    report = progress or (lambda description, fraction: None)
    key = {
        "kind": "pictures",
        "schema": 3,
        "spec": spec.model_dump(
            mode="json", exclude={*OF_SPLIT, "text", "tokens"}, exclude_none=True
        ),
        "versions": {name: source.versions() for name, source in sources.items()},
        "state": {name: source.state(spec) for name, source in sources.items()},
    }
    report(_READING, 0.0)
    found = cached(key, lambda entry: _fill(entry, spec, sources, report))
    report(_READING, 1.0)
    captions, families = found.values["captions"], found.values["families"]
    skipped = tuple(
        Skipped(each["reason"], each["count"], tuple(each["examples"]))
        for each in found.values["skipped"]
    )
    if skipped:
        told = "; ".join(map(str, skipped))
        _log.warning("data.source %s: left out: %s", ", ".join(sources), told)
    return CaptionedImages(found.tensors["images"], tuple(captions), tuple(families), key, skipped)


def _fill(
    entry: EntryWriter, spec: DataSpec, sources: Mapping[str, Source], report: Progress
) -> None:
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
        families.append(
            record.family or f"picture-{hashlib.sha256(picture.numpy().tobytes()).hexdigest()[:32]}"
        )
        batch.append(picture)
        if len(batch) == _BATCH:
            entry.append("images", torch.stack(batch))
            batch.clear()
            report(_READING, len(captions) / spec.limit if spec.limit else 0.0)
        if len(captions) == spec.limit:
            break
    if not captions:
        told = "; ".join(map(str, skips.all())) or "there are none"
        where = f"data.path: {spec.path}" if spec.path else f"data.source: {', '.join(sources)}"
        raise InputError(f"{where}: no usable picture: {told}.")
    if batch:
        entry.append("images", torch.stack(batch))
    skipped = [asdict(each) for each in skips.all()]
    entry.values |= {"captions": captions, "families": families, "skipped": skipped}


def _interleaved(
    spec: DataSpec, sources: Mapping[str, Source]
) -> Iterator[tuple[str | None, Record]]:
    # The records with the style that their captions are to name; of several sources in turn, so
    # that a limit keeps all.
    mixed = len(sources) > 1
    each = (records_of(name, source, spec) for name, source in sources.items())
    for records in zip_longest(*each):
        for source, record in zip(sources.values(), records, strict=True):
            if record is not None:
                yield source.style if mixed else None, record


def split_by_family(
    families: Sequence[str], held_out: float, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Put whole families on one side or the other.

    A family is held out if the hash of its key and the seed, as a number in [0, 1), is below
    ``held_out``. So the split is the same on every machine, and adding or removing pictures moves
    no other family. The price: the share is met on average only, and with a handful of families a
    side may be empty.

    Args:
        families: One key a picture.
        held_out: Share of the families to hold out, in (0, 1).
        seed: Another seed gives another, independent split.

    Returns:
        Indices of the pictures to train on, and of those held out: int64 (n_train,) and
        (n_held_out,), ascending.

    Raises:
        InputError: ``held_out`` is outside (0, 1).
    """
    if not 0 < held_out < 1:
        raise InputError(f"held_out must lie between 0 and 1, but got {held_out}.")
    train: list[int] = []
    kept_out: list[int] = []
    for index, family in enumerate(families):
        digest = hashlib.sha256(f"{seed}:{family}".encode()).digest()
        # 53 bits: exact in a double, never 1.0
        position = (int.from_bytes(digest[:8], "big") >> 11) / 2**53
        (kept_out if position < held_out else train).append(index)
    return torch.tensor(train, dtype=torch.int64), torch.tensor(kept_out, dtype=torch.int64)


def to_numbers(images: Tensor) -> Tensor:
    """Map uint8 images to float32 in [-1, 1], of the same shape."""
    return images.float() / 127.5 - 1


def to_bytes(samples: Tensor) -> Tensor:
    """Map numbers in [-1, 1] to uint8 on the CPU; what lies outside is cut off."""
    return ((samples.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
