"""What a metric is, and what all of them share: intervals, floors, features of real pictures."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from typing_extensions import override

from archsearch.data.cache import cached_tensors
from archsearch.errors import ArchsearchError, InputError
from archsearch.metrics.networks import FeatureExtractor
from archsearch.metrics.spec import Direction


class Reference(Protocol):
    """The real side of a metric: captioned pictures, such as those of a study,
    :class:`archsearch.data.prepare.Prepared`.

    Attributes:
        images: uint8 tensor of shape (N, 3, H, W).
        captions: N captions; empty where the pictures have none.
        train: int64 tensor (n_train,): indices of the pictures that generated ones are compared
            with.
        held_out: int64 tensor (n_held_out,): indices of pictures that nothing may be fitted to. A
            network was not trained on them; in a folder, where nothing was trained, they are among
            ``train`` as well.
        fingerprint: Identifies pictures, captions and split; part of the key of everything that is
            cached.
    """

    @property
    def images(self) -> Tensor: ...  # noqa: D102
    @property
    def captions(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def train(self) -> Tensor: ...  # noqa: D102
    @property
    def held_out(self) -> Tensor: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102


class Metric(Protocol):
    """Scores generated images, fed batch by batch.

    Attributes:
        name: Key of the main value in :meth:`compute`'s result.
        version: Raised whenever the same images would get another number; part of a score's key.
        direction: Which way is better.
    """

    name: str
    version: int
    direction: Direction

    def update(self, images: Tensor, captions: Sequence[str]) -> None:
        """Add generated images, uint8 of shape (B, 3, H, W), and the B captions they were generated
        from.

        Raises:
            InputError: Type, shape or number is another. A float image would be scored as noise.
        """

    def compute(self) -> dict[str, float]:
        """Return the main value under the metric's name, and its companions under names that begin
        with it.

        ``NAME_low`` and ``NAME_high`` are always among them: the 95 % interval over the generated
        pictures. ``NAME_floor`` and ``NAME_floor_sd``, what as many real pictures get and how far
        that varies, are where real pictures can stand in.

        Raises:
            ArchsearchError: Too few images were added.
        """

    def reset(self) -> None:
        """Forget all generated images; what belongs to the real ones stays."""


RESAMPLES = 500
# The bootstrap has a seed of its own: a study's changes pictures, not the way they are judged.
_SEED = 20_240_601
_QUANTILE = 1.959964  # of the standard normal, for 95 %


def resamples(count: int, number: int = RESAMPLES) -> Tensor:
    """Draw ``number`` resamples of ``count`` pictures with replacement: int64 indices (number,
    count), always the same ones.
    """
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randint(count, (number, count), generator=generator)


def multiplicities(indices: Tensor) -> Tensor:
    """How often each picture is in each resample: from indices (R, n) to float64 counts (R, n)."""
    counts = torch.zeros(indices.shape, dtype=torch.double)
    return counts.scatter_add_(1, indices, torch.ones_like(counts))


def mean_resamples(values: Tensor, number: int = RESAMPLES) -> Tensor:
    """Means of the resampled values (n,): float64 of shape (number,)."""
    return multiplicities(resamples(len(values), number)) @ values.double() / len(values)


def jackknife(count: int, most: int = 100) -> tuple[Tensor, float]:
    """Leave groups of pictures out in turn: the delete-m jackknife (Efron and Tibshirani 1993,
    §11.5 and §11.7).

    Args:
        count: Number of pictures n, ≥ 2.
        most: Groups at most, g. A group has m = ⌈n / most⌉ pictures, drawn at random.

    Returns:
        The pictures kept, int64 indices (g, n - m), and the factor from the standard deviation of
        the g scores to the score's.
    """
    size = -(-count // most)
    groups = count // size
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))
    kept = [torch.cat([order[: size * j], order[size * (j + 1) :]]) for j in range(groups)]
    return torch.stack(kept), ((count - size) * (groups - 1) / (size * groups)) ** 0.5


def with_interval(
    name: str,
    value: float,
    resampled: Tensor,
    lowest: float = -torch.inf,
    highest: float = torch.inf,
) -> dict[str, float]:
    """The value and its 95 % interval under ``name``, ``name_low`` and ``name_high``.

    Args:
        name: Name of the score.
        value: The score of all pictures.
        resampled: The score of each resample, shape (R,), R ≥ 2.
        lowest: The interval ends here: the score cannot be lower.
        highest: Nor higher than this.
    """
    reach = _QUANTILE * float(resampled.double().std())
    low, high = max(value - reach, min(lowest, value)), min(value + reach, max(highest, value))
    return {name: value, f"{name}_low": low, f"{name}_high": high}


class StreamedMetric(Metric, ABC):
    """A metric that keeps a row of numbers for each generated picture and scores all rows at once.

    A subclass says what it keeps of a batch (``_keep``), how all that was kept is scored
    (``_score``), and what real pictures get (``_floor``).
    """

    bounds = (-torch.inf, torch.inf)  # the lowest and the highest value that the score can have
    fewest = 1  # how many generated pictures are needed

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    @override
    def update(self, images: Tensor, captions: Sequence[str]) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise InputError(
                f"images must be uint8 of shape (B, 3, H, W), but got {images.dtype} "
                f"{tuple(images.shape)}."
            )
        if len(images) != len(captions):
            raise InputError(
                f"each image needs its caption, but got {len(images)} images and {len(captions)} "
                "captions."
            )
        if len(images):
            self._kept.append(self._keep(images, captions))

    @override
    def compute(self) -> dict[str, float]:
        count = sum(map(len, self._kept))
        if count < self.fewest:
            raise ArchsearchError(
                f"{self.name} needs at least {self.fewest} images, but got {count}."
            )
        value, resampled = self._score(torch.cat(self._kept))
        result = with_interval(self.name, value, resampled, *self.bounds)
        floor = self._floor(count)
        if floor is not None:
            result[f"{self.name}_floor"], result[f"{self.name}_floor_sd"] = floor
        return result

    @override
    def reset(self) -> None:
        self._kept.clear()

    @abstractmethod
    def _keep(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Return what is kept of a batch, one row an image: (B, ...)."""

    @abstractmethod
    def _score(self, kept: Tensor) -> tuple[float, Tensor]:
        """Return the score of all rows (N, ...) and that of each resample of them, (R,)."""

    @abstractmethod
    def _floor(self, count: int) -> tuple[float, float] | None:
        """Return what ``count`` real pictures get, and its standard deviation; None where no real
        pictures can stand in.
        """


@runtime_checkable
class BringsFeatures(Protocol):
    """A reference that answers for its features itself: it holds more pictures than fit in memory,
    or features alone.
    """

    def features(self, extractor: FeatureExtractor, rows: Tensor | None = None) -> Tensor:
        """Return the features of all its pictures, or of those with indices ``rows``: float32 of
        shape (N, num_features).
        """


def real_features(
    extractor: FeatureExtractor, data: Reference, rows: Tensor | None = None
) -> Tensor:
    """Return the features of all pictures of ``data`` in their order, or of the pictures ``rows``
    (n,) alone: float32 of shape (N, num_features).

    Those of all pictures are computed once for a network and the data's fingerprint, and are kept
    in the cache. Those of some pictures are not kept.
    """
    if isinstance(data, BringsFeatures):
        return data.features(extractor, rows)
    if rows is not None:
        return extractor(data.images[rows])
    return cached_features(extractor, data.fingerprint, lambda: extractor(data.images))


def cached_features(
    extractor: FeatureExtractor, fingerprint: str, compute: Callable[[], Tensor]
) -> Tensor:
    """Return the features of all pictures of the data with this fingerprint, (N, num_features),
    from the cache or else from ``compute``.
    """
    key = {"kind": "features", "schema": 1, "extractor": extractor.key, "data": fingerprint}
    return cached_tensors(key, lambda: {"features": compute()})["features"]


def draw_rows(total: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split the reference set into a draw as large as the generated set, and the rest: what is
    needed to score real pictures against real ones.

    Args:
        total: Number of pictures n in the reference set, n ≥ 4.
        count: Number of generated images. Above n / 2 the draw has n / 2 pictures, and the floor
            of a biased distance is then too high.
        seed: Seed of the draw.

    Returns:
        The indices of the rest (n - m,) and those of the draw (m,), with m = min(count, n // 2).
    """
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    size = min(count, total // 2)
    return order[size:], order[:size]
