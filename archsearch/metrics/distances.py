"""Distances between sets of features of pictures."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from archsearch.data.cache import cached_tensors
from archsearch.errors import InputError
from archsearch.metrics.base import (
    Direction,
    FeatureBuffer,
    Reference,
    check_batch,
    draw_floor,
    draw_rows,
    jackknife,
    mean_resamples,
    multiplicities,
    reference_features,
    resamples,
    with_interval,
)
from archsearch.metrics.networks import FeatureExtractor, MetricSettings, Networks

FLOOR_DRAWS = 5
FEWEST_REAL = 4  # two on each side of a floor


class FeatureMetric(ABC):
    """Compares the features of the generated images with those of the train pictures.

    ``NAME_floor`` is the same score of real pictures: the mean over five seeded draws of as many
    train pictures as there are generated ones (at most half of them), each against the rest.
    ``NAME_floor_sd`` is the draws' standard deviation: differences between generators that are not
    larger say nothing. Floors are cached by network, data, number and seed.
    """

    name: str
    version: int
    direction: Direction = "minimize"
    bounds = (-torch.inf, torch.inf)
    """Between which values the score lies."""
    fewest = 2
    """Generated images that are needed."""

    def __init__(
        self, extractor: FeatureExtractor, data: Reference, settings: MetricSettings
    ) -> None:
        self._extractor = extractor
        self._fingerprint = data.fingerprint
        self._reference = reference_features(extractor, data)  # (n_train, d)
        if len(self._reference) < FEWEST_REAL:
            raise InputError(
                f"{self.name} needs at least {FEWEST_REAL} real pictures, but got "
                f"{len(self._reference)}."
            )
        self._seed = settings.seed
        self._generated = FeatureBuffer(extractor)
        self._floors: dict[int, Tensor] = {}

    def update(self, images: Tensor, captions: Sequence[str]) -> None:
        """Add generated images, uint8 of shape (B, 3, H, W)."""
        check_batch(images, captions)
        if len(images):
            self._generated.add(images)

    def compute(self) -> dict[str, float]:
        """Return the score under the metric's name, its interval (``_low``, ``_high``) and floor
        (``_floor``, ``_floor_sd``).
        """
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
        return [
            self._between(*draw_floor(self._reference, count, seed)) for seed in self._floor_seeds()
        ]

    def _floor_seeds(self) -> list[int]:
        """Seeds of the draws: other ones for every seed of the settings, none beyond what a
        generator takes.
        """
        return [(self._seed * FLOOR_DRAWS + draw) % 2**64 for draw in range(FLOOR_DRAWS)]

    def _floor(self, count: int) -> Tensor:
        if count not in self._floors:
            key = {
                "kind": "floor",
                "schema": 1,
                "metric": [self.name, self.version],
                "extractor": self._extractor.key,
            }
            key |= {
                "data": self._fingerprint,
                "count": count,
                "seed": self._seed,
                "draws": FLOOR_DRAWS,
            }
            build = lambda: {  # noqa: E731
                "floor": torch.tensor(self._real_against_real(count), dtype=torch.double)
            }
            self._floors[count] = cached_tensors(key, build)["floor"]
        return self._floors[count]


_FRECHET_RESAMPLES, _FRECHET_BLOCK = 500, 4096
_BATCH_ELEMENTS = 4_000_000  # of n × n matrices solved at once: 32 MB


class FrechetMetric(FeatureMetric):
    """Fréchet distance between Gaussians fitted to the features of the train pictures and of the
    generated images.

    Fewer images than features bias it upward: compare at one number of images only, and beside the
    floor. The interval is a jackknife's over up to 100 groups of pictures; from more pictures than
    features on, a bootstrap's of the distance linearised at the value (:func:`influence`).
    """

    version = 2
    bounds = (0.0, torch.inf)
    fewest = 3  # the jackknife leaves one out, and a covariance needs two

    def _score(self, generated: Tensor) -> tuple[float, Tensor]:
        count, size = generated.shape
        if count <= size:
            forms = _Gram(self._reference, generated)
            value = float(forms.distances(torch.arange(count)[None]))
            kept, factor = jackknife(count)
            others = forms.distances(kept)
            return value, value + factor * (others - others.mean())
        value = frechet_distance(self._reference, generated)
        weights = multiplicities(resamples(count, _FRECHET_RESAMPLES))
        return value, value + weights @ influence(self._reference, generated) / count

    def _between(self, rest: Tensor, draw: Tensor) -> float:
        return frechet_distance(rest, draw)


class FdEffnet(FrechetMetric):
    """Fréchet distance on EfficientNet-Lite0 features. It is not FID and not comparable with it."""

    name = "fd_effnet"

    def __init__(
        self, data: Reference, settings: MetricSettings, networks: Networks | None = None
    ) -> None:
        super().__init__((networks or Networks(settings)).effnet, data, settings)


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return ‖μx − μy‖² + tr(Σx + Σy − 2 (Σx Σy)^½) in double precision (Heusel et al. 2017, eq.
    6).

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
    """How the distance moves with the weight of each generated picture: float64 of shape (n,), mean
    0.

    The derivative of ``frechet_distance`` along (1 - ε) Y + ε yᵢ at ε = 0. That of tr (Σx Σy)^½ is
    tr(T dΣy) / 2, where T = Σx^½ (Σx^½ Σy Σx^½)^-½ Σx^½ is the linear map that transports Y to X
    (Bures' metric; Peyré and Cuturi 2019, §2.6).

    Args:
        x: Features of shape (N, d).
        y: Features of shape (n, d), n > d, so that Σy has full rank.
    """
    mean_x, sigma_x = moments(x)
    mean_y, sigma_y = moments(y)
    root = _power(sigma_x, 0.5)
    form = (
        torch.eye(len(root), dtype=torch.double) - root @ _power(root @ sigma_y @ root, -0.5) @ root
    )
    parts = []
    for block in torch.split(y, _FRECHET_BLOCK):
        centred = block.double() - mean_y
        parts.append((centred @ form * centred).sum(1) + 2 * centred @ (mean_y - mean_x))
    values = torch.cat(parts)
    return values - values.mean()


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) of features (n, d), float64, without a float64 copy of them
    all.
    """
    mean = sum(block.double().sum(0) for block in torch.split(x, _FRECHET_BLOCK)) / len(x)
    assert isinstance(mean, Tensor)
    sigma = torch.zeros(x.shape[1], x.shape[1], dtype=torch.double)
    for block in torch.split(x, _FRECHET_BLOCK):
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
    """All that the distance to x depends on, for y and any resample of it, as products between the
    rows of y - μx.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        total = x.new_zeros(x.shape[1], dtype=torch.double)
        for block in torch.split(x, _FRECHET_BLOCK):
            total += block.double().sum(0)
        mean = total / len(x)
        shifted = y.double() - mean
        self._trace = torch.zeros((), dtype=torch.double)
        self._through = torch.zeros(len(y), len(y), dtype=torch.double)  # Y Σx Yᵀ
        for block in torch.split(x, _FRECHET_BLOCK):
            centred = block.double() - mean
            self._trace += centred.square().sum() / (len(x) - 1)
            product = shifted @ centred.T  # (n, block)
            self._through += product @ product.T / (len(x) - 1)
        self._plain = shifted @ shifted.T  # Y Yᵀ

    def distances(self, indices: Tensor) -> Tensor:
        """Distances of the resamples ``indices`` (R, n): float64 of shape (R,)."""
        count = indices.shape[1]
        return torch.cat(
            [self._some(part) for part in torch.split(indices, max(1, _BATCH_ELEMENTS // count**2))]
        )

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


Kernel = Callable[[Tensor, Tensor], Tensor]
_KERNEL_BLOCK = 2048


class KernelMetric(FeatureMetric):
    """The unbiased squared MMD between the features of the train pictures and of the generated
    images.

    All features of both sides enter, no random subsets, so the value is exact and repeats; being
    unbiased it may be slightly negative. The interval resamples the generated pictures; pairs of
    one and the same picture are left out, in resamples too.
    """

    scale = 1.0

    def __init__(
        self, extractor: FeatureExtractor, data: Reference, settings: MetricSettings
    ) -> None:
        super().__init__(extractor, data, settings)
        key = {
            "kind": "kernel sums",
            "schema": 1,
            "metric": [self.name, self.version],
            "extractor": extractor.key,
        }
        sums = cached_tensors(
            key | {"data": data.fingerprint}, lambda: _row_sums(self._reference, self.kernel)
        )
        self._rows, self._diagonal = (
            sums["rows"],
            sums["diagonal"],
        )  # (N,) each: Σⱼ k(xᵢ, xⱼ) and k(xᵢ, xᵢ)

    @staticmethod
    @abstractmethod
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        """Return k of each row of (n, d) with each of (m, d): (n, m)."""

    def _score(self, generated: Tensor) -> tuple[float, Tensor]:
        n, total = len(generated), len(self._reference)
        counts = torch.cat(
            [torch.ones(1, n, dtype=torch.double), multiplicities(resamples(n))]
        )  # (1 + R, n)
        pairs = torch.zeros(len(counts), dtype=torch.double)  # Σ over pairs of different pictures
        across = torch.zeros(n, dtype=torch.double)  # mean of k(·, yⱼ) over x
        for start in range(0, n, _KERNEL_BLOCK):
            block = generated[start : start + _KERNEL_BLOCK].double()
            rows = torch.arange(len(block))
            for other in range(0, n, _KERNEL_BLOCK):
                matrix = self.kernel(block, generated[other : other + _KERNEL_BLOCK].double())
                if other == start:
                    matrix[rows, rows] = 0
                pairs += (
                    counts[:, start : start + _KERNEL_BLOCK]
                    @ matrix
                    * counts[:, other : other + _KERNEL_BLOCK]
                ).sum(1)
            for real in torch.split(self._reference, _KERNEL_BLOCK):
                across[start : start + _KERNEL_BLOCK] += (
                    self.kernel(block, real.double()).sum(1) / total
                )
        within_x = (self._rows.sum() - self._diagonal.sum()) / (total * (total - 1))
        different = (n**2 - counts.square().sum(1)).clamp_min(
            1
        )  # a resample of one picture alone has no pair
        values = self.scale * (within_x + pairs / different - 2 * counts @ across / n)
        return float(values[0]), values[1:]

    def _between(self, rest: Tensor, draw: Tensor) -> float:
        return self.scale * mmd(rest, draw, self.kernel)

    def _real_against_real(self, count: int) -> list[float]:
        """As the base class does it, but from the sums over all pairs: a draw costs only its own
        pairs.
        """
        values = []
        for seed in self._floor_seeds():
            rest, draw = draw_rows(len(self._reference), count, seed)
            n, m = len(rest), len(draw)
            inside = float(_row_sums(self._reference[draw], self.kernel)["rows"].sum())
            own = float(self._diagonal[draw].sum())
            across = float(self._rows[draw].sum()) - inside
            outside = float(self._rows.sum()) - 2 * across - inside
            within_rest = (outside - float(self._diagonal[rest].sum())) / (n * (n - 1))
            values.append(
                self.scale * (within_rest + (inside - own) / (m * (m - 1)) - 2 * across / (n * m))
            )
        return values


class PolynomialKid(KernelMetric):
    """KID: the squared MMD under k(a, b) = (a·b / d + 1)³ (Bińkowski et al. 2018, eq. 4)."""

    @staticmethod
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        """Return (a·b / d + 1)³ of each pair of rows."""
        return (a @ b.T / a.shape[1] + 1) ** 3


class KidEffnet(PolynomialKid):
    """KID on EfficientNet-Lite0 features: not comparable with published KID, which uses
    InceptionV3.
    """

    name = "kid_effnet"
    version = 1

    def __init__(
        self, data: Reference, settings: MetricSettings, networks: Networks | None = None
    ) -> None:
        super().__init__((networks or Networks(settings)).effnet, data, settings)


def mmd(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    """Return the unbiased estimate of MMD² between sets that may differ in size, so that no picture
    is thrown away.

    Args:
        x: Features of shape (n, d), n ≥ 2.
        y: Features of shape (m, d), m ≥ 2.
        kernel: From (n, d) and (m, d) to the kernel's values (n, m).
    """

    def within(features: Tensor) -> float:
        sums, size = _row_sums(features, kernel), len(features)
        return float(sums["rows"].sum() - sums["diagonal"].sum()) / (size * (size - 1))

    across = sum(
        float(kernel(a.double(), b.double()).sum())
        for a in torch.split(x, _KERNEL_BLOCK)
        for b in torch.split(y, _KERNEL_BLOCK)
    )
    return within(x) + within(y) - 2 * across / (len(x) * len(y))


def polynomial_mmd(x: Tensor, y: Tensor) -> float:
    """Return ``mmd`` under KID's kernel. Equals torchmetrics' ``poly_mmd`` on sets of one size."""
    return mmd(x, y, PolynomialKid.kernel)


def _row_sums(x: Tensor, kernel: Kernel) -> dict[str, Tensor]:
    """For each row of x (n, d) the sum of its kernel with all rows, and with itself: ``rows`` and
    ``diagonal``, (n,) each.
    """
    rows = torch.zeros(len(x), dtype=torch.double)
    diagonal = torch.zeros(len(x), dtype=torch.double)
    for start in range(0, len(x), _KERNEL_BLOCK):
        block = x[start : start + _KERNEL_BLOCK].double()
        for other in range(0, len(x), _KERNEL_BLOCK):
            matrix = kernel(block, x[other : other + _KERNEL_BLOCK].double())
            rows[start : start + _KERNEL_BLOCK] += matrix.sum(1)
            if other == start:
                diagonal[start : start + _KERNEL_BLOCK] = matrix.diagonal()
    return {"rows": rows, "diagonal": diagonal}


_MOST_DRAWS, _BLOCK, _RESAMPLES = 8, 2048, 200


class ManifoldMetric(FeatureMetric):
    """A score between regions in the space of EfficientNet-Lite0 features.

    The interval resamples the generated pictures; the balls stay as wide as they were, for a
    picture drawn twice would be its own nearest neighbour. What the floor is to a distance, it is
    here to a score of 1 or less: what real pictures get.
    """

    version = 1
    direction: Direction = "maximize"
    bounds = (0.0, 1.0)
    neighbours = 3

    def __init__(
        self, data: Reference, settings: MetricSettings, networks: Networks | None = None
    ) -> None:
        super().__init__((networks or Networks(settings)).effnet, data, settings)

    def _score(self, generated: Tensor) -> tuple[float, Tensor]:
        size = min(len(generated), len(self._reference))
        order = torch.randperm(
            len(self._reference), generator=torch.Generator().manual_seed(self._seed)
        )
        draws = torch.split(order[: size * min(_MOST_DRAWS, len(order) // size)], size)
        found = [self._compare(self._reference[draw], generated) for draw in draws]
        return sum(value for value, _ in found) / len(found), torch.stack(
            [other for _, other in found]
        ).mean(0)

    def _between(self, rest: Tensor, draw: Tensor) -> float:
        return self._compare(rest[: len(draw)], draw)[0]  # the rest is in random order already

    @abstractmethod
    def _compare(self, real: Tensor, generated: Tensor) -> tuple[float, Tensor]:
        """Return the score of features (n, d) against as many real ones, and that of its resamples
        (R,).
        """

    def _of_generated(self, values: Tensor) -> tuple[float, Tensor]:
        """A score that is the mean of one value (n,) a generated picture."""
        return float(values.double().mean()), mean_resamples(values, _RESAMPLES)

    def _of_real(
        self, real: Tensor, generated: Tensor, radii: Tensor, of_generated: bool
    ) -> tuple[float, Tensor]:
        """The share of real pictures with at least one generated picture in reach; radii (n,) are
        of one side or the other.
        """
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
    """Real balls that a generated picture lies in, over k: 1 on average for real pictures, more
    where they crowd.
    """

    name = "density_effnet"
    version = 2
    neighbours = 5
    bounds = (0.0, torch.inf)

    def _compare(self, real: Tensor, generated: Tensor) -> tuple[float, Tensor]:
        return self._of_generated(
            balls(real, generated, radii(real, self.neighbours)) / reachable(real, self.neighbours)
        )


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
    """Distance of each row of (n, d) to its k-th nearest other row, (n,); k is n - 1 where there
    are no more others.
    """
    k = reachable(features, neighbours)
    parts = []
    for start in range(0, len(features), _BLOCK):
        distances = torch.cdist(features[start : start + _BLOCK], features)
        rows = torch.arange(len(distances))
        distances[rows, rows + start] = torch.inf  # cdist's own distance to itself is not quite 0
        parts.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(parts)


def balls(centres: Tensor, points: Tensor, reach: Tensor) -> Tensor:
    """In how many balls around ``centres`` (m, d), ``reach`` (m,) wide, each of ``points`` (n, d)
    lies: int64 (n,).
    """
    return torch.cat(
        [(torch.cdist(block, centres) <= reach).sum(1) for block in torch.split(points, _BLOCK)]
    )


class Fid(FrechetMetric):
    """Fréchet Inception Distance (Heusel et al. 2017). Reference set: the train pictures."""

    name = "fid"

    def __init__(
        self, data: Reference, settings: MetricSettings, networks: Networks | None = None
    ) -> None:
        super().__init__((networks or Networks(settings)).inception, data, settings)


class Kid(PolynomialKid):
    """Kernel Inception Distance (Bińkowski et al. 2018), over all pictures instead of random
    subsets of 1,000.
    """

    name = "kid"
    version = 1

    def __init__(
        self, data: Reference, settings: MetricSettings, networks: Networks | None = None
    ) -> None:
        super().__init__((networks or Networks(settings)).inception, data, settings)


_SIGMA = 10.0


class Cmmd(KernelMetric):
    """1000 · MMD² under k(a, b) = exp(-‖a - b‖² / (2 · 10²)) on CLIP embeddings of unit norm
    (Jayasumana et al. 2024, §4).

    The estimate is the unbiased one of the paper. The authors' program keeps the pairs of a picture
    with itself, which adds 1000 · (1 - mean k) / n a side: nothing at their 30,000 pictures, more
    than the floor at a hundred. Published values are on ViT-L/14 at 336 px, resized without a crop;
    on another CLIP the scale is another.
    """

    name = "cmmd"
    version = 1
    scale = 1000.0

    def __init__(
        self, data: Reference, settings: MetricSettings, networks: Networks | None = None
    ) -> None:
        super().__init__((networks or Networks(settings)).clip_images, data, settings)

    @staticmethod
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        """Return exp(-‖a - b‖² / 200) of each pair of rows."""
        squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
        return torch.exp(-squares.clamp_min(0) / (2 * _SIGMA**2))
