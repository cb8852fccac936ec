"""Precision and recall, density and coverage: are the pictures like the data, and is the data in the pictures.

Each set of features stands for the region within reach of its members: a ball around each, as wide as the distance to its k-th
neighbour of the same set. Precision and recall (Kynkäänniemi et al. 2019, k = 3) ask for the share of one set inside the region of
the other; density and coverage (Naeem et al. 2020, k = 5) count balls, and forgive outliers.
Both papers compare sets of equal size: here seeded, disjoint draws of as many train pictures as there are generated ones, up to
eight, and the mean over them.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from archsearch.metrics.base import Direction, Reference
from archsearch.metrics.bootstrap import mean_resamples, multiplicities, resamples
from archsearch.metrics.distance import FeatureMetric
from archsearch.metrics.networks import Networks
from archsearch.metrics.settings import MetricSettings

_MOST_DRAWS, _BLOCK, _RESAMPLES = 8, 2048, 200


class ManifoldMetric(FeatureMetric):
    """A score between regions in the space of EfficientNet-Lite0 features.

    The interval resamples the generated pictures; the balls stay as wide as they were, for a picture drawn twice would be its own
    nearest neighbour. What the floor is to a distance, it is here to a score of 1 or less: what real pictures get.
    """

    version = 1
    direction: Direction = "maximize"
    bounds = (0.0, 1.0)
    neighbours = 3

    def __init__(self, data: Reference, settings: MetricSettings, networks: Networks | None = None) -> None:
        super().__init__((networks or Networks(settings)).effnet, data, settings)

    def _score(self, generated: Tensor) -> tuple[float, Tensor]:
        size = min(len(generated), len(self._reference))
        order = torch.randperm(len(self._reference), generator=torch.Generator().manual_seed(self._seed))
        draws = torch.split(order[: size * min(_MOST_DRAWS, len(order) // size)], size)
        found = [self._compare(self._reference[draw], generated) for draw in draws]
        return sum(value for value, _ in found) / len(found), torch.stack([other for _, other in found]).mean(0)

    def _between(self, rest: Tensor, draw: Tensor) -> float:
        return self._compare(rest[: len(draw)], draw)[0]  # the rest is in random order already

    @abstractmethod
    def _compare(self, real: Tensor, generated: Tensor) -> tuple[float, Tensor]:
        """Return the score of features (n, d) against as many real ones, and that of its resamples (R,)."""

    def _of_generated(self, values: Tensor) -> tuple[float, Tensor]:
        """A score that is the mean of one value (n,) a generated picture."""
        return float(values.double().mean()), mean_resamples(values, _RESAMPLES)

    def _of_real(self, real: Tensor, generated: Tensor, radii: Tensor, of_generated: bool) -> tuple[float, Tensor]:
        """The share of real pictures with at least one generated picture in reach; radii (n,) are of one side or the other."""
        counts = multiplicities(resamples(len(generated), _RESAMPLES)).float()
        reached, kept = 0, torch.zeros(_RESAMPLES, dtype=torch.double)
        for start in range(0, len(real), _BLOCK):
            distances = torch.cdist(real[start : start + _BLOCK], generated)
            near = distances <= (radii if of_generated else radii[start : start + _BLOCK, None])
            reached += int(near.any(1).sum())
            kept += (near.float() @ counts.T > 0).sum(0)
        return reached / len(real), kept / len(real)


class PrecisionEffnet(ManifoldMetric):
    """Share of generated pictures in the region of the real ones."""

    name = "precision_effnet"

    def _compare(self, real: Tensor, generated: Tensor) -> tuple[float, Tensor]:
        return self._of_generated(balls(real, generated, radii(real, self.neighbours)) > 0)


class RecallEffnet(ManifoldMetric):
    """Share of real pictures in the region of the generated ones."""

    name = "recall_effnet"

    def _compare(self, real: Tensor, generated: Tensor) -> tuple[float, Tensor]:
        return self._of_real(real, generated, radii(generated, self.neighbours), of_generated=True)


class DensityEffnet(ManifoldMetric):
    """Real balls that a generated picture lies in, over k: 1 on average for real pictures, more where they crowd."""

    name = "density_effnet"
    version = 2
    neighbours = 5
    bounds = (0.0, torch.inf)

    def _compare(self, real: Tensor, generated: Tensor) -> tuple[float, Tensor]:
        return self._of_generated(balls(real, generated, radii(real, self.neighbours)) / reachable(real, self.neighbours))


class CoverageEffnet(ManifoldMetric):
    """Share of real pictures whose ball holds a generated one."""

    name = "coverage_effnet"
    neighbours = 5

    def _compare(self, real: Tensor, generated: Tensor) -> tuple[float, Tensor]:
        return self._of_real(real, generated, radii(real, self.neighbours), of_generated=False)


def reachable(features: Tensor, neighbours: int) -> int:
    """k itself, or n - 1 where the rows of (n, d) have no more others."""
    return min(neighbours, len(features) - 1)


def radii(features: Tensor, neighbours: int) -> Tensor:
    """Distance of each row of (n, d) to its k-th nearest other row, (n,); k is n - 1 where there are no more others."""
    k = reachable(features, neighbours)
    parts = []
    for start in range(0, len(features), _BLOCK):
        distances = torch.cdist(features[start : start + _BLOCK], features)
        rows = torch.arange(len(distances))
        distances[rows, rows + start] = torch.inf  # cdist's own distance to itself is not quite 0
        parts.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(parts)


def balls(centres: Tensor, points: Tensor, reach: Tensor) -> Tensor:
    """In how many balls around ``centres`` (m, d), ``reach`` (m,) wide, each of ``points`` (n, d) lies: int64 (n,)."""
    return torch.cat([(torch.cdist(block, centres) <= reach).sum(1) for block in torch.split(points, _BLOCK)])
