"""Image features: what a network must offer to carry a distance, and those of the real pictures, cached."""

from typing import Any, Protocol

import torch
from torch import Tensor

from archsearch.data.cache import cached_tensors
from archsearch.data.prepare import Prepared
from archsearch.metrics.base import require_images


class FeatureExtractor(Protocol):
    """A frozen network from images to features.

    Attributes:
        num_features: Features an image.
        key: What identifies its numbers, as JSON values.
    """

    num_features: int
    key: dict[str, Any]

    def __call__(self, images: Tensor) -> Tensor:
        """Return features of uint8 images (B, 3, H, W): float32 of shape (B, num_features), on the CPU."""
        ...


def real_features(extractor: FeatureExtractor, data: Prepared) -> Tensor:
    """Return the features of all pictures of ``data``, float32 of shape (N, num_features), in their order.

    Computed once for a network and the data's fingerprint, and kept in the cache.
    """
    key = {"kind": "features", "schema": 1, "extractor": extractor.key, "data": data.fingerprint}
    return cached_tensors(key, lambda: {"features": extractor(data.images)})["features"]


def reference_features(extractor: FeatureExtractor, data: Prepared) -> Tensor:
    """Return the features of the reference set of every distance: the train pictures, (n_train, num_features).

    Images are sampled from train captions ("seen captions"), so these are the pictures they should be like.
    """
    return real_features(extractor, data)[data.train]


def draw_floor(reference: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split the reference set into a draw as large as the generated set, and the rest: real against real.

    Args:
        reference: Features of shape (n, d), n ≥ 4.
        count: Number of generated images. Above n / 2 the draw is n / 2, so a biased distance's floor is then too high.
        seed: Seed of the draw.

    Returns:
        The rest of shape (n - m, d) and the draw of shape (m, d), m = min(count, n // 2).
    """
    order = torch.randperm(len(reference), generator=torch.Generator().manual_seed(seed))
    size = min(count, len(reference) // 2)
    return reference[order[size:]], reference[order[:size]]


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
