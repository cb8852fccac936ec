"""Kernel distances between sets of features."""

from collections.abc import Sequence

import torch
from torch import Tensor

from archsearch.data.prepare import Prepared
from archsearch.metrics.base import Direction, check_batch
from archsearch.metrics.effnet import EfficientNetLite0
from archsearch.metrics.features import FeatureBuffer, draw_floor, reference_features
from archsearch.metrics.settings import MetricSettings


class KidEffnet:
    """KID on EfficientNet-Lite0 features: the unbiased squared MMD under KID's polynomial kernel.

    Reference set: the train pictures. All features of both sides enter, no random subsets, so the value is exact and
    repeats; being unbiased it may be slightly negative. ``kid_effnet_floor`` is the same statistic between a seeded
    draw of as many train pictures as there are images, and the rest of them: what a perfect generator would get, give
    or take. Not comparable with published KID, which uses InceptionV3.
    """

    name = "kid_effnet"
    version = 1
    direction: Direction = "minimize"

    def __init__(self, data: Prepared, settings: MetricSettings) -> None:
        extractor = EfficientNetLite0()
        self._reference = reference_features(extractor, data).double()  # (n_train, 1280)
        self._seed = settings.seed
        self._generated = FeatureBuffer(extractor)

    def update(self, images: Tensor, captions: Sequence[str]) -> None:
        """Add generated images, uint8 of shape (B, 3, H, W)."""
        check_batch(images, captions)
        self._generated.add(images)

    def compute(self) -> dict[str, float]:
        """Return ``kid_effnet`` and ``kid_effnet_floor``."""
        generated = self._generated.all(self.name, 2).double()
        rest, draw = draw_floor(self._reference, len(generated), self._seed)
        return {
            self.name: polynomial_mmd(self._reference, generated),
            f"{self.name}_floor": polynomial_mmd(rest, draw),
        }

    def reset(self) -> None:
        """Forget the generated images."""
        self._generated.clear()


def polynomial_mmd(x: Tensor, y: Tensor) -> float:
    """Return the unbiased estimate of MMD² under k(a, b) = (a·b / d + 1)³ (Bińkowski et al. 2018, eq. 4).

    Equals torchmetrics' ``poly_mmd`` but takes sets of different size, so that no reference feature is thrown away.

    Args:
        x: Features of shape (n, d), n ≥ 2.
        y: Features of shape (m, d), m ≥ 2.
    """
    n, m, d = len(x), len(y), x.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / d + 1) ** 3

    def off_diagonal_mean(k: Tensor, size: int) -> Tensor:
        return (k.sum() - k.diagonal().sum()) / (size * (size - 1))

    within_x = off_diagonal_mean(kernel(x, x), n)
    within_y = off_diagonal_mean(kernel(y, y), m)
    return float(within_x + within_y - 2 * torch.mean(kernel(x, y)))
