"""What all metrics between two sets of features share: streaming, the interval, the floor."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from archsearch.data.cache import cached_tensors
from archsearch.errors import InputError
from archsearch.metrics.base import Direction, Reference, check_batch
from archsearch.metrics.bootstrap import with_interval
from archsearch.metrics.extractor import FeatureExtractor
from archsearch.metrics.features import FeatureBuffer, draw_floor, reference_features
from archsearch.metrics.settings import MetricSettings

FLOOR_DRAWS = 5
FEWEST_REAL = 4  # two on each side of a floor


class FeatureMetric(ABC):
    """Compares the features of the generated images with those of the train pictures.

    ``NAME_floor`` is the same score of real pictures: the mean over five seeded draws of as many train pictures as there are
    generated ones (at most half of them), each against the rest. ``NAME_floor_sd`` is the draws' standard deviation: differences
    between generators that are not larger say nothing. Floors are cached by network, data, number and seed.
    """

    name: str
    version: int
    direction: Direction = "minimize"
    bounds = (-torch.inf, torch.inf)
    """Between which values the score lies."""
    fewest = 2
    """Generated images that are needed."""

    def __init__(self, extractor: FeatureExtractor, data: Reference, settings: MetricSettings) -> None:
        self._extractor = extractor
        self._fingerprint = data.fingerprint
        self._reference = reference_features(extractor, data)  # (n_train, d)
        if len(self._reference) < FEWEST_REAL:
            raise InputError(f"{self.name} needs at least {FEWEST_REAL} real pictures, but got {len(self._reference)}.")
        self._seed = settings.seed
        self._generated = FeatureBuffer(extractor)
        self._floors: dict[int, Tensor] = {}

    def update(self, images: Tensor, captions: Sequence[str]) -> None:
        """Add generated images, uint8 of shape (B, 3, H, W)."""
        check_batch(images, captions)
        if len(images):
            self._generated.add(images)

    def compute(self) -> dict[str, float]:
        """Return the score under the metric's name, its interval (``_low``, ``_high``) and floor (``_floor``, ``_floor_sd``)."""
        generated = self._generated.all(self.name, self.fewest)
        value, resampled = self._score(generated)
        floor = self._floor(min(len(generated), len(self._reference) // 2))
        return with_interval(self.name, value, resampled, *self.bounds) | {
            f"{self.name}_floor": float(floor.mean()),
            f"{self.name}_floor_sd": float(floor.std()),
        }

    def reset(self) -> None:
        """Forget the generated images."""
        self._generated.clear()

    @abstractmethod
    def _score(self, generated: Tensor) -> tuple[float, Tensor]:
        """Return the score of features (n, d) and that of its resamples (R,)."""

    @abstractmethod
    def _between(self, rest: Tensor, draw: Tensor) -> float:
        """Return the score of a draw of real pictures (m, d) against the rest of them (n, d)."""

    def _real_against_real(self, count: int) -> list[float]:
        return [self._between(*draw_floor(self._reference, count, seed)) for seed in self._floor_seeds()]

    def _floor_seeds(self) -> list[int]:
        """Seeds of the draws: other ones for every seed of the settings, none beyond what a generator takes."""
        return [(self._seed * FLOOR_DRAWS + draw) % 2**64 for draw in range(FLOOR_DRAWS)]

    def _floor(self, count: int) -> Tensor:
        if count not in self._floors:
            key = {"kind": "floor", "schema": 1, "metric": [self.name, self.version], "extractor": self._extractor.key}
            key |= {"data": self._fingerprint, "count": count, "seed": self._seed, "draws": FLOOR_DRAWS}
            build = lambda: {"floor": torch.tensor(self._real_against_real(count), dtype=torch.double)}  # noqa: E731
            self._floors[count] = cached_tensors(key, build)["floor"]
        return self._floors[count]
