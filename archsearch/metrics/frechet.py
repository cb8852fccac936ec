"""Fréchet distances between sets of features."""

from collections.abc import Sequence

from torch import Tensor, nn

from archsearch.data.prepare import Prepared
from archsearch.metrics.base import Direction, check_batch
from archsearch.metrics.effnet import EfficientNetLite0
from archsearch.metrics.features import FeatureBuffer, FeatureExtractor, draw_floor, reference_features
from archsearch.metrics.settings import MetricSettings


class FrechetMetric:
    """Fréchet distance between Gaussians fitted to the features of the train pictures and of the generated images.

    Fewer images than features bias it upward: compare at one number of images only, and beside the floor, the same
    distance between a seeded draw of as many train pictures and the rest of them.
    """

    name: str
    version: int
    direction: Direction = "minimize"

    def __init__(self, extractor: FeatureExtractor, data: Prepared, settings: MetricSettings) -> None:
        self._reference = reference_features(extractor, data)  # (n_train, d)
        self._seed = settings.seed
        self._generated = FeatureBuffer(extractor)
        self._floors: dict[int, float] = {}

    def update(self, images: Tensor, captions: Sequence[str]) -> None:
        """Add generated images, uint8 of shape (B, 3, H, W)."""
        check_batch(images, captions)
        self._generated.add(images)

    def compute(self) -> dict[str, float]:
        """Return the distance under the metric's name, and its floor under the name with ``_floor``."""
        generated = self._generated.all(self.name, 2)
        count = len(generated)
        if count not in self._floors:
            self._floors[count] = frechet_distance(*draw_floor(self._reference, count, self._seed))
        return {
            self.name: frechet_distance(self._reference, generated),
            f"{self.name}_floor": self._floors[count],
        }

    def reset(self) -> None:
        """Forget the generated images."""
        self._generated.clear()


class FdEffnet(FrechetMetric):
    """Fréchet distance on EfficientNet-Lite0 features. It is not FID and not comparable with it."""

    name = "fd_effnet"
    version = 1

    def __init__(self, data: Prepared, settings: MetricSettings) -> None:
        super().__init__(EfficientNetLite0(), data, settings)


class _Features(nn.Module):
    """Stands where torchmetrics expects a network, and passes features through."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return ‖μx − μy‖² + tr(Σx + Σy − 2 (Σx Σy)^½) in double precision, as torchmetrics computes it.

    Args:
        x: Features of shape (n, d), n ≥ 2.
        y: Features of shape (m, d), m ≥ 2.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    distance = FrechetInceptionDistance(feature=_Features(x.shape[1]))
    distance.update(x.double(), real=True)
    distance.update(y.double(), real=False)
    return float(distance.compute())
