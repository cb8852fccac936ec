"""Distances between sets of features of pictures: Fréchet, kernel and manifold scores."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from archsearch.data.cache import cached_tensors
from archsearch.errors import InputError
from archsearch.metrics.base import (
    Reference,
    StreamedMetric,
    draw_rows,
    jackknife,
    mean_resamples,
    multiplicities,
    real_features,
    resamples,
)
from archsearch.metrics.networks import FeatureExtractor
from archsearch.metrics.spec import Direction, MetricSettings

FLOOR_DRAWS = 5
FEWEST_REAL = 4  # two on each side of a floor


class FeatureMetric(StreamedMetric):
    """Compares the features of the generated images with those of the train pictures, from whose
    captions the images are sampled.

    ``NAME_floor`` is the same score of real pictures: the mean over five seeded draws of as many
    train pictures as there are generated ones (at most half of them), each against the rest.
    ``NAME_floor_sd`` is the draws' standard deviation: differences between generators that are not
    larger say nothing. Floors are cached by network, data, number and seed.

    Args:
        extractor: The network that gives the features.
        data: The real pictures.
        settings: The seed of the floor's draws is taken from them.
        name: Name of the metric. A subclass may have it as an attribute instead.
        version: Version of the metric, likewise.

    Raises:
        InputError: There are too few real pictures.
    """

    direction: Direction = "minimize"
    fewest = 2

    def __init__(
        self,
        extractor: FeatureExtractor,
        data: Reference,
        settings: MetricSettings,
        name: str | None = None,
        version: int | None = None,
    ) -> None:
        super().__init__()
        if name is not None:
            self.name = name
        if version is not None:
            self.version = version
        self._extractor, self._fingerprint, self._seed = extractor, data.fingerprint, settings.seed
        self._reference = real_features(extractor, data)[data.train]  # (n_train, d)
        if len(self._reference) < FEWEST_REAL:
            raise InputError(
                f"{self.name} needs at least {FEWEST_REAL} real pictures, but got "
                f"{len(self._reference)}."
            )

    @abstractmethod
    def _between(self, rest: Tensor, draw: Tensor) -> float:
        """Return the score of a draw of real pictures (m, d) against the rest of them (n, d)."""

    def _real_against_real(self, rest: Tensor, draw: Tensor) -> float:
        # The same of the pictures with indices ``draw`` (m,) and ``rest`` (n,).
        return self._between(self._reference[rest], self._reference[draw])

    def _keep(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        return self._extractor(images)

    def _floor(self, count: int) -> tuple[float, float]:
        total = len(self._reference)
        count = min(count, total // 2)

        def build() -> dict[str, Tensor]:
            # Other draws for every seed of the settings; none beyond what a generator takes.
            seeds = [(self._seed * FLOOR_DRAWS + draw) % 2**64 for draw in range(FLOOR_DRAWS)]
            scores = [self._real_against_real(*draw_rows(total, count, seed)) for seed in seeds]
            return {"floor": torch.tensor(scores, dtype=torch.double)}

        key = self._key("floor") | {"count": count, "seed": self._seed, "draws": FLOOR_DRAWS}
        floor = cached_tensors(key, build)["floor"]
        return float(floor.mean()), float(floor.std())

    def _key(self, kind: str) -> dict[str, Any]:
        return {
            "kind": kind,
            "schema": 1,
            "metric": [self.name, self.version],
            "extractor": self._extractor.key,
            "data": self._fingerprint,
        }


_FRECHET_BLOCK = 4096
_BATCH_ELEMENTS = 4_000_000  # of n × n matrices solved at once: 32 MB


class FrechetMetric(FeatureMetric):
    """Fréchet distance between Gaussians fitted to the features of the train pictures and of the
    generated images. On the features of FID's Inception network it is FID (Heusel et al. 2017).

    Fewer images than features bias it upward: compare at one number of images only, and beside the
    floor. The interval is a jackknife's over up to 100 groups of pictures; from more pictures than
    features on, a bootstrap's of the distance linearised at the value (:func:`influence`).
    """

    bounds = (0.0, torch.inf)
    fewest = 3  # the jackknife leaves one out, and a covariance needs two

    def _score(self, generated: Tensor) -> tuple[float, Tensor]:
        count, size = generated.shape
        if count <= size:
            products = GramMatrices(self._reference, generated)
            value = float(products.distances(torch.arange(count)[None]))
            kept, factor = jackknife(count)
            others = products.distances(kept)
            return value, value + factor * (others - others.mean())
        value = frechet_distance(self._reference, generated)
        weights = multiplicities(resamples(count))
        return value, value + weights @ influence(self._reference, generated) / count

    def _between(self, rest: Tensor, draw: Tensor) -> float:
        return frechet_distance(rest, draw)


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
        return float(GramMatrices(x, y).distances(torch.arange(len(y))[None])[0])
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
    identity = torch.eye(len(root), dtype=torch.double)
    form = identity - root @ _power(root @ sigma_y @ root, -0.5) @ root
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
    mean = _mean(x)
    sigma = torch.zeros(x.shape[1], x.shape[1], dtype=torch.double)
    for block in torch.split(x, _FRECHET_BLOCK):
        centred = block.double() - mean
        sigma += centred.T @ centred
    return mean, sigma / (len(x) - 1)


def _mean(x: Tensor) -> Tensor:
    sums = [block.double().sum(0) for block in torch.split(x, _FRECHET_BLOCK)]
    return sum(sums, start=torch.zeros_like(sums[0])) / len(x)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    # A power of a positive semidefinite matrix; a negative one is that of the pseudo-inverse.
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > values[-1].clamp_min(0) * len(matrix) * torch.finfo(torch.double).eps
    powers = torch.where(kept, values, torch.ones_like(values)) ** exponent * kept
    return vectors * powers @ vectors.T  # type: ignore[no-any-return]


class GramMatrices:
    """The products between the rows of y - μx, which are all that the Fréchet distance of x to y,
    or to any resample of y, depends on. Where y has few rows they are much smaller than the
    covariances.

    Args:
        x: Features of shape (N, d), N ≥ 2.
        y: Features of shape (n, d), n ≥ 2.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        mean = _mean(x)
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
        found = []
        for part in torch.split(indices, max(1, _BATCH_ELEMENTS // count**2)):
            rows, columns = part[:, :, None], part[:, None, :]
            plain = self._plain[rows, columns]  # (R, n, n)
            means = plain.mean((1, 2))  # ‖μx − μy‖²
            trace = (plain.diagonal(dim1=1, dim2=2).sum(1) - count * means) / (count - 1)
            through = self._through[rows, columns]
            through = through - through.mean(1, keepdim=True)
            through = (through - through.mean(2, keepdim=True)) / (count - 1)
            cross = torch.linalg.eigvalsh(through).clamp_min(0).sqrt().sum(1)
            found.append(means + self._trace + trace - 2 * cross)
        return torch.cat(found)


Kernel = Callable[[Tensor, Tensor], Tensor]
_BLOCK = 2048


class KernelMetric(FeatureMetric):
    """The unbiased squared MMD between the features of the train pictures and of the generated
    images: KID (Bińkowski et al. 2018), unless a subclass brings another kernel.

    All features of both sides enter, where KID's paper takes random subsets of 1,000, so the value
    is exact and repeats. Being unbiased it may be slightly negative. The interval resamples the
    generated pictures; pairs of one and the same picture are left out, in resamples too.
    """

    scale = 1.0

    def __init__(
        self,
        extractor: FeatureExtractor,
        data: Reference,
        settings: MetricSettings,
        name: str | None = None,
        version: int | None = None,
    ) -> None:
        super().__init__(extractor, data, settings, name, version)
        sums = cached_tensors(
            self._key("kernel sums"), lambda: _row_sums(self._reference, self.kernel)
        )
        # (N,) each: Σⱼ k(xᵢ, xⱼ) and k(xᵢ, xᵢ)
        self._rows, self._diagonal = sums["rows"], sums["diagonal"]

    @staticmethod
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        """Return k of each row of (n, d) with each of (m, d), (n, m): here (a·b / d + 1)³
        (Bińkowski et al. 2018, eq. 4).
        """
        return (a @ b.T / a.shape[1] + 1) ** 3

    def _score(self, generated: Tensor) -> tuple[float, Tensor]:
        n, total = len(generated), len(self._reference)
        once = torch.ones(1, n, dtype=torch.double)
        counts = torch.cat([once, multiplicities(resamples(n))])  # (1 + R, n)
        pairs = torch.zeros(len(counts), dtype=torch.double)  # Σ over pairs of different pictures
        for rows, columns, matrix in _blocks(generated, generated, self.kernel):
            if rows == columns:
                matrix.fill_diagonal_(0)
            pairs += (counts[:, rows] @ matrix * counts[:, columns]).sum(1)
        across = torch.zeros(n, dtype=torch.double)  # mean of k(·, yⱼ) over x
        for rows, _, matrix in _blocks(generated, self._reference, self.kernel):
            across[rows] += matrix.sum(1) / total
        within_x = (self._rows.sum() - self._diagonal.sum()) / (total * (total - 1))
        # A resample of one picture alone has no pair.
        different = (n**2 - counts.square().sum(1)).clamp_min(1)
        values = self.scale * (within_x + pairs / different - 2 * counts @ across / n)
        return float(values[0]), values[1:]

    def _between(self, rest: Tensor, draw: Tensor) -> float:
        return self.scale * mmd(rest, draw, self.kernel)

    def _real_against_real(self, rest: Tensor, draw: Tensor) -> float:
        # As the base class does it, but from the sums over all pairs: a draw costs only its own
        # pairs.
        n, m = len(rest), len(draw)
        inside = float(_row_sums(self._reference[draw], self.kernel)["rows"].sum())
        own = float(self._diagonal[draw].sum())
        across = float(self._rows[draw].sum()) - inside
        outside = float(self._rows.sum()) - 2 * across - inside
        within_rest = (outside - float(self._diagonal[rest].sum())) / (n * (n - 1))
        within_draw = (inside - own) / (m * (m - 1))
        return self.scale * (within_rest + within_draw - 2 * across / (n * m))


class Cmmd(KernelMetric):
    """1000 · MMD² under k(a, b) = exp(-‖a - b‖² / (2 · 10²)), which on CLIP embeddings of unit norm
    is CMMD (Jayasumana et al. 2024, §4).

    The estimate is the unbiased one of the paper. The authors' program keeps the pairs of a picture
    with itself, which adds 1000 · (1 - mean k) / n a side: nothing at their 30,000 pictures, more
    than the floor at a hundred. Published values are on ViT-L/14 at 336 px, resized without a crop;
    on another CLIP the scale is another.
    """

    scale = 1000.0

    @staticmethod
    @override
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
        return torch.exp(-squares.clamp_min(0) / 200)


def mmd(x: Tensor, y: Tensor, kernel: Kernel = KernelMetric.kernel) -> float:
    """Return the unbiased estimate of MMD² between sets that may differ in size, so that no picture
    is thrown away.

    Args:
        x: Features of shape (n, d), n ≥ 2.
        y: Features of shape (m, d), m ≥ 2.
        kernel: From (n, d) and (m, d) to the kernel's values (n, m). With KID's, the default, the
            estimate equals torchmetrics' ``poly_mmd`` on sets of one size.
    """
    within = 0.0
    for features in (x, y):
        sums, size = _row_sums(features, kernel), len(features)
        within += float(sums["rows"].sum() - sums["diagonal"].sum()) / (size * (size - 1))
    across = sum(float(matrix.sum()) for _, _, matrix in _blocks(x, y, kernel))
    return within - 2 * across / (len(x) * len(y))


def _row_sums(x: Tensor, kernel: Kernel) -> dict[str, Tensor]:
    # For each row of x (n, d) the sum of its kernel with all rows, and with itself: ``rows`` and
    # ``diagonal``, (n,) each.
    sums = torch.zeros(len(x), dtype=torch.double)
    diagonal = torch.zeros(len(x), dtype=torch.double)
    for rows, columns, matrix in _blocks(x, x, kernel):
        sums[rows] += matrix.sum(1)
        if rows == columns:
            diagonal[rows] = matrix.diagonal()
    return {"rows": sums, "diagonal": diagonal}


def _blocks(x: Tensor, y: Tensor, kernel: Kernel) -> Iterator[tuple[slice, slice, Tensor]]:
    # The kernel of all rows of x with all rows of y in float64, a block of both at a time, with the
    # rows of either that it is of.
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        block = x[rows].double()
        for other in range(0, len(y), _BLOCK):
            columns = slice(other, other + _BLOCK)
            yield rows, columns, kernel(block, y[columns].double())


_MOST_DRAWS, _RESAMPLES = 8, 200


class ManifoldMetric(FeatureMetric):
    """A score between the regions that real and generated pictures take in the space of features.

    It is computed on sets of equal size, as its papers do: against up to eight disjoint draws of as
    many train pictures as there are generated ones, and the mean over them. The interval resamples
    the generated pictures; the balls stay as wide as they were, for a picture drawn twice would be
    its own nearest neighbour. What the floor is to a distance, it is here to a score of 1 or less:
    what real pictures get.

    Args:
        compare: :func:`precision`, :func:`recall`, :func:`density` or :func:`coverage`.
        bounds: The lowest and the highest value that the score can have.

    The other arguments are those of :class:`FeatureMetric`.
    """

    direction: Direction = "maximize"

    def __init__(
        self,
        extractor: FeatureExtractor,
        data: Reference,
        settings: MetricSettings,
        name: str,
        version: int,
        compare: Callable[[Tensor, Tensor], tuple[float, Tensor]],
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(extractor, data, settings, name, version)
        self._compare, self.bounds = compare, bounds

    def _score(self, generated: Tensor) -> tuple[float, Tensor]:
        total = len(self._reference)
        size = min(len(generated), total)
        order = torch.randperm(total, generator=torch.Generator().manual_seed(self._seed))
        draws = torch.split(order[: size * min(_MOST_DRAWS, total // size)], size)
        found = [self._compare(self._reference[draw], generated) for draw in draws]
        mean = sum(value for value, _ in found) / len(found)
        return mean, torch.stack([resampled for _, resampled in found]).mean(0)

    def _between(self, rest: Tensor, draw: Tensor) -> float:
        return self._compare(rest[: len(draw)], draw)[0]  # the rest is in random order already


def precision(real: Tensor, generated: Tensor) -> tuple[float, Tensor]:
    """Share of generated pictures in the region of the real ones (Kynkäänniemi et al. 2019, k = 3).

    Args:
        real: Features of shape (m, d).
        generated: Features of shape (n, d).

    Returns:
        The score, and that of each resample of the generated pictures, shape (R,).
    """
    return _over_generated(balls(real, generated, radii(real, 3)) > 0)


def recall(real: Tensor, generated: Tensor) -> tuple[float, Tensor]:
    """Share of real pictures in the region of the generated ones (ibid.). As :func:`precision`."""
    return _reached(real, generated, radii(generated, 3).expand(len(real), -1))


def density(real: Tensor, generated: Tensor) -> tuple[float, Tensor]:
    """Real balls that a generated picture lies in, over k: 1 on average for real pictures, more
    where they crowd (Naeem et al. 2020, k = 5). As :func:`precision`.
    """
    return _over_generated(balls(real, generated, radii(real, 5)) / _reachable(real, 5))


def coverage(real: Tensor, generated: Tensor) -> tuple[float, Tensor]:
    """Share of real pictures whose ball holds a generated one (ibid.). As :func:`precision`."""
    return _reached(real, generated, radii(real, 5)[:, None])


def _over_generated(values: Tensor) -> tuple[float, Tensor]:
    return float(values.double().mean()), mean_resamples(values, _RESAMPLES)


def _reached(real: Tensor, generated: Tensor, reach: Tensor) -> tuple[float, Tensor]:
    # The share of real pictures (m, d) with at least one generated picture (n, d) in ``reach``,
    # which is (m, n) or (m, 1).
    counts = multiplicities(resamples(len(generated), _RESAMPLES)).float()
    reached, kept = 0, torch.zeros(_RESAMPLES, dtype=torch.double)
    for some, within in zip(torch.split(real, _BLOCK), torch.split(reach, _BLOCK), strict=True):
        near = torch.cdist(some, generated) <= within
        reached += int(near.any(1).sum())
        kept += (near.float() @ counts.T > 0).sum(0)
    return reached / len(real), kept / len(real)


def _reachable(features: Tensor, neighbours: int) -> int:
    # k itself, or n - 1 where the rows of (n, d) have no more others.
    return min(neighbours, len(features) - 1)


def radii(features: Tensor, neighbours: int) -> Tensor:
    """Distance of each row of (n, d) to its k-th nearest other row, (n,); k is n - 1 where there
    are no more others.
    """
    k = _reachable(features, neighbours)
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
