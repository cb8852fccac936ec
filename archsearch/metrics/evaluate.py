"""Scoring pictures: prompts, references, folders."""

import hashlib
import json
import random
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from archsearch.data.cache import cached_tensors
from archsearch.data.records import (
    NotTextError,
    Record,
    SkipCounter,
    Skipped,
    UnusableError,
    caption_text,
    opener,
    records_of,
    square,
)
from archsearch.data.sources import Folder
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError
from archsearch.files import write_bytes
from archsearch.metrics.base import Metric, Prompts, Reference, features_key, real_features
from archsearch.metrics.networks import FeatureExtractor, MetricSettings, Networks
from archsearch.metrics.registry import build_metric, check_settings, metric_info

PROMPTS_VERSION = 1  # raised whenever equal data would give other captions
COLOURS = (
    *(
        "red",
        "orange",
        "yellow",
        "green",
        "blue",
        "purple",
        "pink",
        "brown",
        "black",
        "white",
        "grey",
        "gray",
    ),
    *(
        "cyan",
        "magenta",
        "turquoise",
        "teal",
        "violet",
        "indigo",
        "beige",
        "maroon",
        "golden",
        "silver",
    ),
)
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
    """Indices of ``count`` training pictures, spread evenly; of all of them where they are fewer."""
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
    objects = sorted({parts for caption in captions for parts in _parts(caption)})
    attributes: dict[str, list[str]] = {}
    for kind, _, attribute, _ in objects:
        attributes.setdefault(kind, []).append(attribute)
    taken = {_spelled(caption) for caption in known} | {_spelled(caption) for caption in captions}
    rng = random.Random(seed)
    choices: list[list[str]] = []
    for kind, before, after in sorted(
        {(kind, before, after) for kind, before, _, after in objects}
    ):
        others = [f"{before}{attribute}{after}" for attribute in sorted(set(attributes[kind]))]
        others = [caption for caption in others if _spelled(caption) not in taken]
        taken |= {_spelled(caption) for caption in others}  # two spellings of a new caption are one
        rng.shuffle(others)
        if others:
            choices.append(others)
    if not choices:
        raise InputError(
            f"recombinations: none can be made of these {len(captions)} captions: they must "
            "name a colour "
            f"({', '.join(COLOURS[:4])}, …) or end in ', NAME style', "
            "and at least one object must lack a colour or style that another has."
        )
    rng.shuffle(choices)
    rounds = max(map(len, choices))
    found = [others[turn] for turn in range(rounds) for others in choices if turn < len(others)]
    return found[:count]


def _parts(caption: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield (kind, before, attribute, after): a style, and a colour where there is one only and it
    is not all there is.
    """
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
        """Read the pictures ``rows``: uint8 (B, 3, size, size) and their captions, empty ones where
        the folder has none.

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
            raise InputError(
                f"{path}: could be read a moment ago and no longer can: {error}."
            ) from error


def scan(folder: Path, size: int, progress: Callable[[float], None] | None = None) -> PictureFolder:
    """Find the pictures of a folder and the folders in it, and try each: what cannot be read or is
    tiny is left out.

    Captions are found as in a study (:class:`archsearch.data.sources.Folder`), but a picture may do
    without.

    Raises:
        InputError: There is no such folder, or a caption or its file is not UTF-8, broken, or
            cannot be read.
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
    return PictureFolder(
        folder, tuple(paths), known if complete else (), size, digest.hexdigest(), skips.all()
    )


def _caption(record: Record, path: Path) -> str | None:
    try:
        return caption_text(record)
    except NotTextError as error:
        raise InputError(f"{path}: its caption is not UTF-8.") from error
    except UnusableError:
        return None


def read_picture(path: Path, size: int) -> Tensor:
    """Read a picture as a study does, :func:`archsearch.data.records.square`: uint8 (3, size,
    size).

    Raises:
        UnusableError: It cannot be read, or a side has less than 8 pixels.
    """
    return square(Record(path.name, None, opener(path)), size, SMALLEST_SIDE)


BATCH = 64


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
        networks.load(metric_info(name).needs_setting)
    return networks


def build_metrics(
    names: Iterable[str],
    data: Reference,
    settings: MetricSettings,
    networks: Networks | None = None,
) -> dict[str, Metric]:
    """Build metrics that share their networks; what any of them lacks is said before the first is
    built.

    Raises:
        InputError: There is no such metric, or a file one needs is missing or unusable.
    """
    wanted = list(dict.fromkeys(names))
    networks = load_networks(wanted, settings, networks)
    return {name: build_metric(name, data, settings, networks) for name in wanted}


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


_HELD_OUT, _SEED, _SCHEMA = 0.1, 0, 1


class FolderReference:
    """The pictures of a folder: all are compared with, and a tenth of them, drawn by a fixed seed,
    is what nothing is fitted to.
    """

    def __init__(
        self, pictures: PictureFolder, progress: Callable[[float], None] | None = None
    ) -> None:
        self._pictures = pictures
        self._progress = progress
        self.captions: Sequence[str] = pictures.captions
        count = len(pictures.paths)
        self.train = torch.arange(count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))
        self.held_out = order[: max(2, round(count * _HELD_OUT))].sort().values
        self.fingerprint = pictures.digest

    @property
    def images(self) -> Tensor:
        """All pictures at once, uint8 of shape (N, 3, size, size)."""
        return torch.cat([images for images, _ in self._batches(range(len(self.train)))])

    def features(self, extractor: FeatureExtractor, rows: Tensor | None = None) -> Tensor:
        """Features of all pictures, or of some: float32 (N, num_features), read batch by batch;
        those of all are cached.
        """

        def read(indices: Sequence[int]) -> Tensor:
            found = []
            for images, _ in self._batches(indices):
                found.append(extractor(images))
                if self._progress:
                    self._progress(sum(map(len, found)) / len(indices))
            return torch.cat(found)

        if rows is not None:
            return read(rows.tolist())
        key = features_key(extractor, self.fingerprint)
        return cached_tensors(key, lambda: {"features": read(range(len(self.train)))})["features"]

    def _batches(self, indices: Sequence[int]) -> Any:
        return self._pictures.batches(indices, BATCH)


class SavedReference:
    """Features and captions of real pictures, read from a file that :func:`save_reference` wrote."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            InputError: It cannot be read, is cut short, or is another kind of file.
        """
        self._path = path
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = file.metadata() or {}
                described = json.loads(metadata["reference"])
                if described["schema"] != _SCHEMA:
                    raise InputError(
                        f"{path}: schema {described['schema']} of a reference file; allowed: "
                        f"{_SCHEMA}."
                    )
                self._features = [
                    file.get_tensor(f"features.{i}") for i in range(len(described["extractors"]))
                ]
                self.train, self.held_out = file.get_tensor("train"), file.get_tensor("held_out")
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such reference file.") from error
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: not a reference file, or cut short ({error}). Write one with "
                "archsearch evaluate --save-reference."
            ) from error
        self._keys: list[dict[str, Any]] = described["extractors"]
        self.captions: Sequence[str] = described["captions"]
        self.fingerprint: str = described["fingerprint"]
        self.size: int | None = described["size"]

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
