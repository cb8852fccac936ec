"""Scoring pictures: which captions to sample them from, where they and the real ones lie, and their
scores.
"""

import hashlib
import json
import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from archsearch.data.pictures import Progress
from archsearch.data.records import (
    PICTURE_BYTES,
    NotTextError,
    Record,
    SkipCounter,
    Skipped,
    UnusableError,
    caption_text,
    records_of,
    square,
)
from archsearch.data.sources import Folder
from archsearch.data.spec import DataSpec
from archsearch.documents import parse_json
from archsearch.errors import InputError
from archsearch.files import check_regular, in_utf8, read_bytes, write_bytes
from archsearch.metrics.base import (
    Metric,
    Reference,
    cached_features,
    draw_rows,
    real_features,
)
from archsearch.metrics.networks import FeatureExtractor, Networks
from archsearch.metrics.registry import METRICS, check_settings
from archsearch.metrics.spec import MetricSettings, Prompts

# fmt: off
COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey",
    "gray", "cyan", "magenta", "turquoise", "teal", "violet", "indigo", "beige", "maroon", "golden",
    "silver",
)
# fmt: on
_COLOUR = re.compile(rf"(?<![\w-])({'|'.join(COLOURS)})(?![\w-])", re.IGNORECASE)
_STYLE = re.compile(r", ([^,]+) style$", re.IGNORECASE)


@dataclass(frozen=True)
class PromptSet:
    """Captions to sample.

    Attributes:
        captions: The captions.
        index: For seen captions int64 (n,): which pictures of the data they are from. None for
            recombinations.
    """

    captions: tuple[str, ...]
    index: Tensor | None


def prompts_for(data: Reference, which: Prompts, count: int, seed: int) -> PromptSet:
    """Choose captions to sample, the same for every network.

    Args:
        data: The data that the network learned from.
        which: ``seen``: captions of training pictures, spread evenly over them. ``recombined``: see
            :func:`recombinations`.
        count: How many at most; there are fewer where the data allow no more.
        seed: Seed of the choice of recombinations.

    Raises:
        InputError: ``recombined``, and the captions allow none.
    """
    if which == "seen":
        index = seen_rows(data.train, count)
        return PromptSet(tuple(data.captions[i] for i in index.tolist()), index)
    trained = [data.captions[i] for i in data.train.tolist()]
    return PromptSet(tuple(recombinations(trained, data.captions, count, seed)), None)


def seen_rows(train: Tensor, count: int) -> Tensor:
    """Indices of ``count`` training pictures, spread evenly, or of all where there are fewer."""
    count = min(count, len(train))
    return train[torch.linspace(0, len(train) - 1, count).long()]


def recombinations(
    captions: Sequence[str], known: Collection[str], count: int, seed: int
) -> list[str]:
    """Captions that join an object and an attribute of ``captions`` in a way that ``known`` does
    not.

    Taken object by object in turn, each with its attributes in a random order, so that few captions
    of one object are among them.

    Args:
        captions: Captions of the training pictures.
        known: Captions of all pictures; none of them is returned, nor another spelling of one
            (grey, gray).
        count: How many at most.
        seed: Seed of both orders; equal arguments give an equal list.

    Returns:
        Different captions, at most ``count``.

    Raises:
        InputError: No caption names a colour or a style, or every combination is known.
    """
    parts = sorted({found for caption in captions for found in _parts(caption)})
    taken = {_spelled(caption) for caption in (*known, *captions)}
    rng = random.Random(seed)
    choices: list[list[str]] = []
    for kind, before, after in sorted({(kind, before, after) for kind, before, _, after in parts}):
        attributes = sorted({attribute for of, _, attribute, _ in parts if of == kind})
        others = [f"{before}{attribute}{after}" for attribute in attributes]
        others = [caption for caption in others if _spelled(caption) not in taken]
        taken |= {_spelled(caption) for caption in others}  # two spellings of a new caption are one
        rng.shuffle(others)
        if others:
            choices.append(others)
    if not choices:
        raise InputError(
            f"recombinations: none can be made of these {len(captions)} captions: they must name a "
            f"colour ({', '.join(COLOURS[:4])}, …) or end in ', NAME style', and at least one "
            "object must lack a colour or style that another has."
        )
    rng.shuffle(choices)
    turns = range(max(map(len, choices)))
    return [others[turn] for turn in turns for others in choices if turn < len(others)][:count]


def _parts(caption: str) -> Iterator[tuple[str, str, str, str]]:
    # Yield (kind, before, attribute, after) for a style, and for a colour where there is only one
    # and it is not the whole caption.
    if style := _STYLE.search(caption):
        start, end = style.span(1)
        yield "style", caption[:start], caption[start:end], caption[end:]
    colours = list(_COLOUR.finditer(caption))
    if len(colours) == 1:
        start, end = colours[0].span()
        before, after = caption[:start], caption[end:]
        if re.search(r"\w", _STYLE.sub("", before + after)):
            yield "colour", before, caption[start:end].lower(), after


def _spelled(caption: str) -> str:
    return caption.lower().replace("gray", "grey")


BATCH = 64
FEWEST_PICTURES = 3
_SMALLEST_SIDE = 8


@dataclass(frozen=True)
class PictureFolder:
    """The usable pictures of a folder, which are to be scored or, as a reference, to be compared
    with.

    As a reference all of them are compared with. A tenth of them, drawn by a fixed seed, is what
    nothing is fitted to.

    Attributes:
        folder: The folder.
        records: The pictures, sorted by their path in it.
        captions: One each, or none at all where some picture has none.
        size: Side of the square they are read as.
        fingerprint: SHA-256 over names, contents, captions and size.
        skipped: What was left out, by reason.
        progress: Is told which share of the pictures has been read.
    """

    folder: Path
    records: tuple[Record, ...]
    captions: tuple[str, ...]
    size: int
    fingerprint: str
    skipped: tuple[Skipped, ...]
    progress: Progress

    @property
    def train(self) -> Tensor:
        """Indices of all pictures, int64 (n,)."""
        return torch.arange(len(self.records))

    @property
    def held_out(self) -> Tensor:
        """Indices of a tenth of the pictures, but two at least, int64."""
        count = len(self.records)
        return draw_rows(count, max(2, round(0.1 * count)), seed=0)[1].sort().values

    @property
    def images(self) -> Tensor:
        """All pictures at once, uint8 of shape (N, 3, size, size)."""
        return torch.cat([images for images, _ in self.batches(range(len(self.records)))])

    def features(self, extractor: FeatureExtractor, rows: Tensor | None = None) -> Tensor:
        """Features of all pictures, or of some: float32 (N, num_features). They are read batch by
        batch, and those of all pictures are cached.
        """

        def read(indices: Tensor) -> Tensor:
            return torch.cat([extractor(images) for images, _ in self.batches(indices.tolist())])

        if rows is not None:
            return read(rows)
        return cached_features(extractor, self.fingerprint, lambda: read(self.train))

    def batches(self, rows: Sequence[int]) -> Iterator[tuple[Tensor, list[str]]]:
        """Read the pictures ``rows`` in batches of at most 64: uint8 (B, 3, size, size) and their
        captions, which are empty where the folder has none.

        Raises:
            InputError: A picture has gone or changed since it was found.
        """
        for start in range(0, len(rows), BATCH):
            chosen = [self.records[row] for row in rows[start : start + BATCH]]
            captions = [self.captions[row] if self.captions else "" for row in rows[start:][:BATCH]]
            yield torch.stack([self._read(record) for record in chosen]), captions
            self.progress(f"reading {self.folder.name}", (start + len(chosen)) / len(rows))

    def _read(self, record: Record) -> Tensor:
        try:
            return square(record, self.size, _SMALLEST_SIDE)
        except UnusableError as error:
            raise InputError(
                f"{self.folder / record.name}: could be read a moment ago and no longer can: "
                f"{error}."
            ) from error


def scan(folder: Path, size: int, progress: Progress | None = None) -> PictureFolder:
    """Find the pictures of a folder and the folders in it, and try each: what cannot be read or is
    tiny is left out.

    Captions are found as in a study (:class:`archsearch.data.sources.Folder`), but a picture may do
    without.

    Args:
        folder: The folder.
        size: Side of the square that pictures are read as, in pixels.
        progress: Is told which share of the pictures has been tried, and later which has been read.

    Raises:
        InputError: There is no such folder, or a caption or its file is not UTF-8, broken, or
            cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of pictures.")
    progress = progress or (lambda words, fraction: None)
    found = list(records_of("folder", Folder(), DataSpec(source="folder", path=str(folder))))
    records, captions, skips = [], [], SkipCounter()
    digest = hashlib.sha256(json.dumps(["pictures", 2, size]).encode())
    for number, record in enumerate(found, 1):
        path = folder / record.name
        try:
            caption = caption_text(record)
        except NotTextError as error:
            raise InputError(f"{path}: its caption is not UTF-8.") from error
        except UnusableError:
            caption = None
        try:
            if record.problem is not None:
                raise UnusableError(record.problem)
            square(record, size, _SMALLEST_SIDE)
        except UnusableError as reason:
            skips.add(str(reason), record.name)
        else:
            records.append(record)
            captions.append(caption)
            digest.update(json.dumps([record.name, caption]).encode())
            digest.update(hashlib.sha256(read_bytes(path, PICTURE_BYTES)).digest())
        progress(f"trying {folder.name}", number / len(found))
    known = tuple(caption for caption in captions if caption is not None)
    return PictureFolder(
        folder,
        tuple(records),
        known if len(known) == len(records) else (),
        size,
        digest.hexdigest(),
        skips.all(),
        progress,
    )


_SCHEMA = 1


class SavedReference:
    """Features and captions of real pictures, read from a file that :func:`save_reference` wrote.

    Attributes:
        size: Side at which the pictures were read.

    Raises:
        InputError: The file cannot be read, is cut short, or is another kind of file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            check_regular(path)
            with in_utf8(path) as spelled, safe_open(spelled, framework="pt", device="cpu") as file:
                described = parse_json((file.metadata() or {})["reference"], path)
                if described["schema"] != _SCHEMA:
                    raise InputError(
                        f"{path}: schema {described['schema']} of a reference file; allowed: "
                        f"{_SCHEMA}."
                    )
                self._keys: list[dict[str, Any]] = described["extractors"]
                self._features = [file.get_tensor(f"features.{i}") for i in range(len(self._keys))]
                self.train, self.held_out = file.get_tensor("train"), file.get_tensor("held_out")
            self.captions: Sequence[str] = described["captions"]
            self.fingerprint: str = described["fingerprint"]
            self.size: int = described["size"]
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such reference file.") from error
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: not a reference file, or cut short ({error}). Write one with "
                "archsearch evaluate --save-reference."
            ) from error

    @property
    def images(self) -> Tensor:
        """There are none.

        Raises:
            InputError: Always.
        """
        raise InputError(
            f"{self._path}: holds features, no pictures. Give the folder or study that it was "
            "made from."
        )

    def features(self, extractor: FeatureExtractor, rows: Tensor | None = None) -> Tensor:
        """Features of all pictures, or of some: float32 (N, num_features).

        Raises:
            InputError: The file holds those of other networks only.
        """
        if extractor.key not in self._keys:
            held = "; ".join(_described(key) for key in self._keys) or "no network"
            raise InputError(
                f"{self._path}: holds features of {held}, but those of "
                f"{_described(extractor.key)} are needed."
            )
        features: Tensor = self._features[self._keys.index(extractor.key)]
        return features if rows is None else features[rows]


def save_reference(
    path: Path, data: Reference, extractors: Sequence[FeatureExtractor], size: int
) -> None:
    """Write the features that ``extractors`` give the pictures of ``data``, with captions and
    split, as safetensors.

    Args:
        path: The file.
        data: The real pictures.
        extractors: The networks, at least one.
        size: Side at which the pictures were read.

    Raises:
        ArchsearchError: The file cannot be written.
    """
    tensors = {
        f"features.{i}": real_features(extractor, data).contiguous()
        for i, extractor in enumerate(extractors)
    }
    tensors |= {"train": data.train, "held_out": data.held_out}
    described = {
        "schema": _SCHEMA,
        "extractors": [extractor.key for extractor in extractors],
        "captions": list(data.captions),
        "fingerprint": data.fingerprint,
        "size": size,
    }
    write_bytes(
        path, safetensors.torch.save(tensors, {"reference": json.dumps(described, sort_keys=True)})
    )


def _described(key: dict[str, Any]) -> str:
    details = ", ".join(
        f"{name} {str(value)[:12]}" for name, value in key.items() if name != "name"
    )
    return f"{key.get('name', 'a network')} ({details})"


def load_networks(
    names: Iterable[str], settings: MetricSettings, networks: Networks | None = None
) -> Networks:
    """Load what the user brings for these metrics, and nothing else: what is missing is said before
    any work.

    ``networks`` that are given are returned, with what they lacked.

    Raises:
        InputError: There is no such metric, or a file one needs is missing or unusable.
    """
    networks = networks or Networks(settings)
    for name in names:
        check_settings(name, settings)
        setting = METRICS[name].needs_setting
        if setting is not None:
            getattr(networks, setting)  # which loads it
    return networks


def build_metrics(
    names: Iterable[str],
    data: Reference,
    settings: MetricSettings,
    networks: Networks | None = None,
) -> dict[str, Metric]:
    """Build metrics that share their networks. What any of them lacks is said before the first is
    built.

    Args:
        names: Keys of :data:`archsearch.metrics.registry.METRICS`.
        data: The real pictures. Their features are computed on first use, and cached.
        settings: The ``metrics:`` section.
        networks: What the metrics share, where some of it is loaded already.

    Raises:
        InputError: There is no such metric, or a file one needs is missing or unusable.
    """
    wanted = list(dict.fromkeys(names))
    networks = load_networks(wanted, settings, networks)
    return {name: METRICS[name].build(data, settings, networks) for name in wanted}


def evaluate(
    metrics: Mapping[str, Metric], images: Tensor, captions: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Score generated images with all of ``metrics``, which are reset first.

    Args:
        metrics: From :func:`build_metrics`.
        images: uint8 tensor of shape (N, 3, H, W).
        captions: The N captions they were generated from.

    Returns:
        For every metric its value and companions.

    Raises:
        ArchsearchError: Too few images.
        InputError: They are not of the form that metrics take.
    """
    starts = range(0, max(1, len(images)), BATCH)
    return evaluate_batches(
        metrics,
        ((images[start : start + BATCH], captions[start : start + BATCH]) for start in starts),
    )


def evaluate_batches(
    metrics: Mapping[str, Metric], batches: Iterable[tuple[Tensor, Sequence[str]]]
) -> dict[str, dict[str, float]]:
    """The same of images that come batch by batch, each with its captions."""
    for metric in metrics.values():
        metric.reset()
    for images, captions in batches:
        for (
            metric
        ) in metrics.values():  # all of them before the next batch: networks remember the last
            metric.update(images, captions)
    return {name: metric.compute() for name, metric in metrics.items()}


def available(settings: MetricSettings, captions: bool = True) -> list[str]:
    """Names of the metrics that can score given pictures without a file that the settings lack.

    Args:
        settings: The ``metrics:`` section.
        captions: Whether pictures and real pictures have captions, as metrics of text need them.
    """
    return [
        name
        for name, info in METRICS.items()
        if info.prompts == "seen"
        and (captions or info.axis != "text")
        and (info.needs_setting is None or getattr(settings, info.needs_setting) is not None)
    ]


def evaluate_folder(
    pictures: PictureFolder,
    data: Reference,
    settings: MetricSettings,
    names: Sequence[str] | None = None,
    networks: Networks | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Score the pictures of a folder.

    Args:
        pictures: The pictures, at least three.
        data: The real pictures.
        settings: The files that metrics need; its seed is that of all draws.
        names: The metrics; by default all that settings and captions allow.
        networks: What the metrics share, where some of it is loaded already.
        limit: Score a draw of at most this many pictures.

    Returns:
        As plain values the number of ``pictures`` scored, of those ``skipped`` and of the
        ``real_pictures``, their ``size`` in pixels, the fingerprint of the ``reference``, and under
        ``scores`` for each metric its ``value``, ``axis``, ``direction`` and companions such as
        ``low``, ``high`` and ``floor``.

    Raises:
        InputError: There are too few pictures, or a metric needs captions or a file that are not
            there.
    """
    count = len(pictures.records)
    if count < FEWEST_PICTURES:
        raise InputError(
            f"{pictures.folder}: at least {FEWEST_PICTURES} usable pictures are needed, but got "
            f"{count}."
        )
    names = names or available(settings, bool(pictures.captions and data.captions))
    for name in names:
        if METRICS[name].axis == "text" and not pictures.captions:
            raise InputError(
                f"metrics: {name} needs a caption for each picture of {pictures.folder}: NAME.txt "
                "beside it, or metadata.jsonl."
            )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed))[:limit]
    metrics = build_metrics(names, data, settings, networks)
    found = evaluate_batches(metrics, pictures.batches(order.tolist()))
    scores: dict[str, dict[str, Any]] = {}
    for name, values in found.items():
        info = METRICS[name]
        scores[name] = {"value": values.pop(name), "axis": info.axis, "direction": info.direction}
        scores[name] |= {key.removeprefix(f"{name}_"): value for key, value in values.items()}
    return {
        "pictures": len(order),
        "skipped": sum(skipped.count for skipped in pictures.skipped),
        "real_pictures": len(data.train),
        "size": pictures.size,
        "reference": data.fingerprint,
        "scores": scores,
    }
