"""Fréchet distances between sets of features.

Letters: x real features (N, d), y generated ones (n, d); c centred; Σ covariances with divisor n - 1, as torchmetrics takes them.
tr (Σx Σy)^½ has two forms. With n ≤ d pictures it is the sum of the roots of the eigenvalues of Yc Σx Ycᵀ / (n - 1), n × n;
otherwise of those of Σx^½ Σy Σx^½, d × d. Both are symmetric, which is faster and more exact than the roots of Σx Σy itself.
"""

import torch
from torch import Tensor

from archsearch.metrics.base import Reference
from archsearch.metrics.bootstrap import multiplicities, resamples
from archsearch.metrics.distance import FeatureMetric
from archsearch.metrics.networks import Networks
from archsearch.metrics.settings import MetricSettings

_RESAMPLES, _BLOCK = 100, 4096
_BATCH_ELEMENTS = 4_000_000  # of n × n matrices solved at once: 32 MB


class FrechetMetric(FeatureMetric):
    """Fréchet distance between Gaussians fitted to the features of the train pictures and of the generated images.

    Fewer images than features bias it upward: compare at one number of images only, and beside the floor. The interval is from
    100 resamples of the pictures; from more pictures than features, of the distance linearised at the value (:func:`influence`).
    """

    version = 2
    bounds = (0.0, torch.inf)

    def _score(self, generated: Tensor) -> tuple[float, Tensor]:
        count, size = generated.shape
        if count <= size:
            forms = _Gram(self._reference, generated)
            indices = torch.cat([torch.arange(count)[None], resamples(count, _RESAMPLES)])
            distances = forms.distances(indices)
            return float(distances[0]), distances[1:]
        value = frechet_distance(self._reference, generated)
        weights = multiplicities(resamples(count, _RESAMPLES))
        return value, value + weights @ influence(self._reference, generated) / count

    def _between(self, rest: Tensor, draw: Tensor) -> float:
        return frechet_distance(rest, draw)


class FdEffnet(FrechetMetric):
    """Fréchet distance on EfficientNet-Lite0 features. It is not FID and not comparable with it."""

    name = "fd_effnet"

    def __init__(self, data: Reference, settings: MetricSettings, networks: Networks | None = None) -> None:
        super().__init__((networks or Networks(settings)).effnet, data, settings)


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return ‖μx − μy‖² + tr(Σx + Σy − 2 (Σx Σy)^½) in double precision (Heusel et al. 2017, eq. 6).

    Args:
        x: Features of shape (n, d), n ≥ 2.
        y: Features of shape (m, d), m ≥ 2.
    """
    if len(x) < len(y):
        x, y = y, x  # the distance is symmetric; the smaller set decides what it costs
    if len(y) <= y.shape[1]:
        return float(_Gram(x, y).distances(torch.arange(len(y))[None])[0])
    mean_x, sigma_x = moments(x)
    mean_y, sigma_y = moments(y)
    root = _power(sigma_x, 0.5)
    cross = torch.linalg.eigvalsh(root @ sigma_y @ root).clamp_min(0).sqrt().sum()
    return float((mean_x - mean_y).square().sum() + sigma_x.trace() + sigma_y.trace() - 2 * cross)


def influence(x: Tensor, y: Tensor) -> Tensor:
    """How the distance moves with the weight of each generated picture: float64 of shape (n,), mean 0.

    The derivative of ``frechet_distance`` along (1 - ε) Y + ε yᵢ at ε = 0. That of tr (Σx Σy)^½ is tr(T dΣy) / 2, where
    T = Σx^½ (Σx^½ Σy Σx^½)^-½ Σx^½ is the linear map that transports Y to X (Bures' metric; Peyré and Cuturi 2019, §2.6).

    Args:
        x: Features of shape (N, d).
        y: Features of shape (n, d), n > d, so that Σy has full rank.
    """
    mean_x, sigma_x = moments(x)
    mean_y, sigma_y = moments(y)
    root = _power(sigma_x, 0.5)
    form = torch.eye(len(root), dtype=torch.double) - root @ _power(root @ sigma_y @ root, -0.5) @ root
    parts = []
    for block in torch.split(y, _BLOCK):
        centred = block.double() - mean_y
        parts.append((centred @ form * centred).sum(1) + 2 * centred @ (mean_y - mean_x))
    values = torch.cat(parts)
    return values - values.mean()


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) of features (n, d), float64, without a float64 copy of them all."""
    mean = sum(block.double().sum(0) for block in torch.split(x, _BLOCK)) / len(x)
    assert isinstance(mean, Tensor)
    sigma = torch.zeros(x.shape[1], x.shape[1], dtype=torch.double)
    for block in torch.split(x, _BLOCK):
        centred = block.double() - mean
        sigma += centred.T @ centred
    return mean, sigma / (len(x) - 1)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of a positive semidefinite matrix; of a negative one, the pseudo-inverse's."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > values[-1].clamp_min(0) * len(matrix) * torch.finfo(torch.double).eps
    powers = torch.where(kept, values, torch.ones_like(values)) ** exponent * kept
    return vectors * powers @ vectors.T  # type: ignore[no-any-return]


class _Gram:
    """All that the distance to x depends on, for y and any resample of it, as products between the rows of y - μx."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        total = x.new_zeros(x.shape[1], dtype=torch.double)
        for block in torch.split(x, _BLOCK):
            total += block.double().sum(0)
        mean = total / len(x)
        shifted = y.double() - mean
        self._trace = torch.zeros((), dtype=torch.double)
        self._through = torch.zeros(len(y), len(y), dtype=torch.double)  # Y Σx Yᵀ
        for block in torch.split(x, _BLOCK):
            centred = block.double() - mean
            self._trace += centred.square().sum() / (len(x) - 1)
            product = shifted @ centred.T  # (n, block)
            self._through += product @ product.T / (len(x) - 1)
        self._plain = shifted @ shifted.T  # Y Yᵀ

    def distances(self, indices: Tensor) -> Tensor:
        """Distances of the resamples ``indices`` (R, n): float64 of shape (R,)."""
        count = indices.shape[1]
        return torch.cat([self._some(part) for part in torch.split(indices, max(1, _BATCH_ELEMENTS // count**2))])

    def _some(self, indices: Tensor) -> Tensor:
        count = indices.shape[1]
        rows, columns = indices[:, :, None], indices[:, None, :]
        plain = self._plain[rows, columns]  # (R, n, n)
        means = plain.mean((1, 2))  # ‖μx − μy‖²
        trace = (plain.diagonal(dim1=1, dim2=2).sum(1) - count * means) / (count - 1)
        through = self._through[rows, columns]
        through = through - through.mean(1, keepdim=True)
        through = (through - through.mean(2, keepdim=True)) / (count - 1)
        cross: Tensor = torch.linalg.eigvalsh(through).clamp_min(0).sqrt().sum(1)
        return means + self._trace + trace - 2 * cross
