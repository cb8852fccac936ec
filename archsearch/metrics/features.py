"""Features of the real pictures, cached; real-against-real draws; features of the generated pictures."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from archsearch.data.cache import cached_tensors
from archsearch.metrics.base import Reference, require_images
from archsearch.metrics.extractor import FeatureExtractor


@runtime_checkable
class BringsFeatures(Protocol):
    """A reference that answers for its features itself: it holds more pictures than fit in memory, or features alone."""

    def features(self, extractor: FeatureExtractor, rows: Tensor | None = None) -> Tensor:
        """Return the features of all its pictures, or of those with indices ``rows``: float32 of shape (N, num_features)."""
        ...


def real_features(extractor: FeatureExtractor, data: Reference) -> Tensor:
    """Return the features of all pictures of ``data``, float32 of shape (N, num_features), in their order.

    Computed once for a network and the data's fingerprint, and kept in the cache.
    """
    if isinstance(data, BringsFeatures):
        return data.features(extractor)
    return cached_tensors(features_key(extractor, data.fingerprint), lambda: {"features": extractor(data.images)})["features"]


def some_features(extractor: FeatureExtractor, data: Reference, rows: Tensor) -> Tensor:
    """Return the features of the pictures ``rows`` (n,) of ``data`` without computing those of the others: (n, num_features).

    Nothing is kept in the cache.
    """
    if isinstance(data, BringsFeatures):
        return data.features(extractor, rows)
    return extractor(data.images[rows])


def features_key(extractor: FeatureExtractor, fingerprint: str) -> dict[str, object]:
    """Under which key the cache keeps the features of the data with this fingerprint."""
    return {"kind": "features", "schema": 1, "extractor": extractor.key, "data": fingerprint}


def reference_features(extractor: FeatureExtractor, data: Reference) -> Tensor:
    """Return the features of the reference set of every distance: the train pictures, (n_train, num_features).

    Images are sampled from train captions ("seen captions"), so these are the pictures they should be like.
    """
    return real_features(extractor, data)[data.train]


def draw_rows(total: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split ``total`` rows into a draw as large as the generated set, and the rest: indices of rest and draw.

    The draw has ``min(count, total // 2)`` rows: beyond half the reference set it stays at half.
    """
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    size = min(count, total // 2)
    return order[size:], order[:size]


def draw_floor(reference: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split the reference set into a draw as large as the generated set, and the rest: real against real.

    Args:
        reference: Features of shape (n, d), n ≥ 4.
        count: Number of generated images. Above n / 2 the draw is n / 2, so a biased distance's floor is then too high.
        seed: Seed of the draw.

    Returns:
        The rest of shape (n - m, d) and the draw of shape (m, d), m = min(count, n // 2).
    """
    rest, draw = draw_rows(len(reference), count, seed)
    return reference[rest], reference[draw]


class FeatureBuffer:
    """Features of the generated images seen so far."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        self._extractor = extractor
        self._batches: list[Tensor] = []

    def add(self, images: Tensor) -> None:
        """Add uint8 images of shape (B, 3, H, W)."""
        self._batches.append(self._extractor(images))

    def all(self, name: str, minimum: int) -> Tensor:
        """Return all features, (N, num_features).

        Raises:
            ArchsearchError: Fewer than ``minimum`` images were added.
        """
        require_images(name, sum(map(len, self._batches)), minimum)
        return torch.cat(self._batches)

    def clear(self) -> None:
        """Forget them."""
        self._batches.clear()
