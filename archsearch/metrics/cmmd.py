"""CMMD: kernel distance on CLIP's image embeddings."""

import torch
from torch import Tensor

from archsearch.metrics.base import Reference
from archsearch.metrics.kernel import KernelMetric
from archsearch.metrics.networks import Networks
from archsearch.metrics.settings import MetricSettings

_SIGMA = 10.0


class Cmmd(KernelMetric):
    """1000 · MMD² under k(a, b) = exp(-‖a - b‖² / (2 · 10²)) on CLIP embeddings of unit norm (Jayasumana et al. 2024, §4).

    The estimate is the unbiased one of the paper. The authors' program keeps the pairs of a picture with itself, which adds
    1000 · (1 - mean k) / n a side: nothing at their 30,000 pictures, more than the floor at a hundred. Published values are on
    ViT-L/14 at 336 px, resized without a crop; on another CLIP the scale is another.
    """

    name = "cmmd"
    version = 1
    scale = 1000.0

    def __init__(self, data: Reference, settings: MetricSettings, networks: Networks | None = None) -> None:
        super().__init__((networks or Networks(settings)).clip_images, data, settings)

    @staticmethod
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        """Return exp(-‖a - b‖² / 200) of each pair of rows."""
        squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
        return torch.exp(-squares.clamp_min(0) / (2 * _SIGMA**2))
