"""Real pictures to compare with that no study prepared: a folder, or the features of one, saved."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from archsearch.data.cache import cached_tensors
from archsearch.errors import InputError
from archsearch.files import write_bytes
from archsearch.metrics.base import Reference
from archsearch.metrics.evaluate import BATCH
from archsearch.metrics.extractor import FeatureExtractor
from archsearch.metrics.features import features_key, real_features
from archsearch.metrics.folder import PictureFolder

_HELD_OUT, _SEED, _SCHEMA = 0.1, 0, 1


class FolderReference:
    """The pictures of a folder: all are compared with, and a tenth of them, drawn by a fixed seed, is what nothing is fitted to."""

    def __init__(self, pictures: PictureFolder, progress: Callable[[float], None] | None = None) -> None:
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
        """Features of all pictures, or of some: float32 (N, num_features), read batch by batch; those of all are cached."""

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
                    raise InputError(f"{path}: schema {described['schema']} of a reference file; allowed: {_SCHEMA}.")
                self._features = [file.get_tensor(f"features.{i}") for i in range(len(described["extractors"]))]
                self.train, self.held_out = file.get_tensor("train"), file.get_tensor("held_out")
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such reference file.") from error
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: not a reference file, or cut short ({error}). Write one with archsearch evaluate --save-reference."
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
        raise InputError(f"{self._path}: holds features, no pictures. Give the folder or study that it was made from.")

    def features(self, extractor: FeatureExtractor, rows: Tensor | None = None) -> Tensor:
        """Features of all pictures, or of some: float32 (N, num_features).

        Raises:
            InputError: The file holds those of other networks only.
        """
        if extractor.key not in self._keys:
            held = "; ".join(_described(key) for key in self._keys) or "no network"
            raise InputError(f"{self._path}: holds features of {held}, but those of {_described(extractor.key)} are needed.")
        features: Tensor = self._features[self._keys.index(extractor.key)]
        return features if rows is None else features[rows]


def save_reference(path: Path, data: Reference, extractors: Sequence[FeatureExtractor], size: int) -> None:
    """Write the features that ``extractors`` give the pictures of ``data``, with captions and split, as safetensors.

    Args:
        path: The file.
        data: The real pictures.
        extractors: The networks, at least one.
        size: Side at which the pictures were read.

    Raises:
        ArchsearchError: The file cannot be written.
    """
    tensors = {f"features.{i}": real_features(extractor, data).contiguous() for i, extractor in enumerate(extractors)}
    tensors |= {"train": data.train, "held_out": data.held_out}
    described = {
        "schema": _SCHEMA,
        "extractors": [extractor.key for extractor in extractors],
        "captions": list(data.captions),
        "fingerprint": data.fingerprint,
        "size": size,
    }
    write_bytes(path, safetensors.torch.save(tensors, {"reference": json.dumps(described, sort_keys=True)}))


def _described(key: dict[str, Any]) -> str:
    details = ", ".join(f"{name} {str(value)[:12]}" for name, value in key.items() if name != "name")
    return f"{key.get('name', 'a network')} ({details})"
