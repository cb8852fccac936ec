"""Kernel distances between sets of features: the unbiased squared MMD (Gretton et al. 2012, eq. 3), and its resamples.

Letters: x real features (N, d), y generated ones (n, d). Kernel matrices are summed block by block in double precision, so that
30,000 pictures need no 30,000² of memory.
"""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from archsearch.data.cache import cached_tensors
from archsearch.metrics.base import Reference
from archsearch.metrics.bootstrap import multiplicities, resamples
from archsearch.metrics.distance import FeatureMetric
from archsearch.metrics.extractor import FeatureExtractor
from archsearch.metrics.features import draw_rows
from archsearch.metrics.networks import Networks
from archsearch.metrics.settings import MetricSettings

Kernel = Callable[[Tensor, Tensor], Tensor]
_BLOCK = 2048


class KernelMetric(FeatureMetric):
    """The unbiased squared MMD between the features of the train pictures and of the generated images.

    All features of both sides enter, no random subsets, so the value is exact and repeats; being unbiased it may be slightly
    negative. The interval resamples the generated pictures; pairs of one and the same picture are left out, in resamples too.
    """

    scale = 1.0

    def __init__(self, extractor: FeatureExtractor, data: Reference, settings: MetricSettings) -> None:
        super().__init__(extractor, data, settings)
        key = {"kind": "kernel sums", "schema": 1, "metric": [self.name, self.version], "extractor": extractor.key}
        sums = cached_tensors(key | {"data": data.fingerprint}, lambda: _row_sums(self._reference, self.kernel))
        self._rows, self._diagonal = sums["rows"], sums["diagonal"]  # (N,) each: Σⱼ k(xᵢ, xⱼ) and k(xᵢ, xᵢ)

    @staticmethod
    @abstractmethod
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        """Return k of each row of (n, d) with each of (m, d): (n, m)."""

    def _score(self, generated: Tensor) -> tuple[float, Tensor]:
        n, total = len(generated), len(self._reference)
        counts = torch.cat([torch.ones(1, n, dtype=torch.double), multiplicities(resamples(n))])  # (1 + R, n)
        pairs = torch.zeros(len(counts), dtype=torch.double)  # Σ over pairs of different pictures
        across = torch.zeros(n, dtype=torch.double)  # mean of k(·, yⱼ) over x
        for start in range(0, n, _BLOCK):
            block = generated[start : start + _BLOCK].double()
            rows = torch.arange(len(block))
            for other in range(0, n, _BLOCK):
                matrix = self.kernel(block, generated[other : other + _BLOCK].double())
                if other == start:
                    matrix[rows, rows] = 0
                pairs += (counts[:, start : start + _BLOCK] @ matrix * counts[:, other : other + _BLOCK]).sum(1)
            for real in torch.split(self._reference, _BLOCK):
                across[start : start + _BLOCK] += self.kernel(block, real.double()).sum(1) / total
        within_x = (self._rows.sum() - self._diagonal.sum()) / (total * (total - 1))
        different = (n**2 - counts.square().sum(1)).clamp_min(1)  # a resample of one picture alone has no pair
        values = self.scale * (within_x + pairs / different - 2 * counts @ across / n)
        return float(values[0]), values[1:]

    def _between(self, rest: Tensor, draw: Tensor) -> float:
        return self.scale * mmd(rest, draw, self.kernel)

    def _real_against_real(self, count: int) -> list[float]:
        """As the base class does it, but from the sums over all pairs: a draw costs only its own pairs."""
        values = []
        for seed in self._floor_seeds():
            rest, draw = draw_rows(len(self._reference), count, seed)
            n, m = len(rest), len(draw)
            inside = float(_row_sums(self._reference[draw], self.kernel)["rows"].sum())
            own = float(self._diagonal[draw].sum())
            across = float(self._rows[draw].sum()) - inside
            outside = float(self._rows.sum()) - 2 * across - inside
            within_rest = (outside - float(self._diagonal[rest].sum())) / (n * (n - 1))
            values.append(self.scale * (within_rest + (inside - own) / (m * (m - 1)) - 2 * across / (n * m)))
        return values


class PolynomialKid(KernelMetric):
    """KID: the squared MMD under k(a, b) = (a·b / d + 1)³ (Bińkowski et al. 2018, eq. 4)."""

    @staticmethod
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        """Return (a·b / d + 1)³ of each pair of rows."""
        return (a @ b.T / a.shape[1] + 1) ** 3


class KidEffnet(PolynomialKid):
    """KID on EfficientNet-Lite0 features: not comparable with published KID, which uses InceptionV3."""

    name = "kid_effnet"
    version = 1

    def __init__(self, data: Reference, settings: MetricSettings, networks: Networks | None = None) -> None:
        super().__init__((networks or Networks(settings)).effnet, data, settings)


def mmd(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    """Return the unbiased estimate of MMD² between sets that may differ in size, so that no picture is thrown away.

    Args:
        x: Features of shape (n, d), n ≥ 2.
        y: Features of shape (m, d), m ≥ 2.
        kernel: From (n, d) and (m, d) to the kernel's values (n, m).
    """

    def within(features: Tensor) -> float:
        sums, size = _row_sums(features, kernel), len(features)
        return float(sums["rows"].sum() - sums["diagonal"].sum()) / (size * (size - 1))

    across = sum(float(kernel(a.double(), b.double()).sum()) for a in torch.split(x, _BLOCK) for b in torch.split(y, _BLOCK))
    return within(x) + within(y) - 2 * across / (len(x) * len(y))


def polynomial_mmd(x: Tensor, y: Tensor) -> float:
    """Return ``mmd`` under KID's kernel. Equals torchmetrics' ``poly_mmd`` on sets of one size."""
    return mmd(x, y, PolynomialKid.kernel)


def _row_sums(x: Tensor, kernel: Kernel) -> dict[str, Tensor]:
    """For each row of x (n, d) the sum of its kernel with all rows, and with itself: ``rows`` and ``diagonal``, (n,) each."""
    rows = torch.zeros(len(x), dtype=torch.double)
    diagonal = torch.zeros(len(x), dtype=torch.double)
    for start in range(0, len(x), _BLOCK):
        block = x[start : start + _BLOCK].double()
        for other in range(0, len(x), _BLOCK):
            matrix = kernel(block, x[other : other + _BLOCK].double())
            rows[start : start + _BLOCK] += matrix.sum(1)
            if other == start:
                diagonal[start : start + _BLOCK] = matrix.diagonal()
    return {"rows": rows, "diagonal": diagonal}
