"""How far two rankings of the same networks agree."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

THIRDS = 3
RESAMPLES = 500


@dataclass(frozen=True)
class Correlation:
    """Agreement of two rankings: 1 where they are the same, 0 where neither tells of the other."""

    tau: float
    """Kendall's τ-b."""
    spearman: float
    low: float
    """Lower end of τ's 95 % bootstrap interval, networks resampled."""
    high: float
    count: int
    """Networks."""


def correlate(x: Sequence[float], y: Sequence[float], seed: int = 0) -> Correlation | None:
    """Compare two rankings of the same networks; None where either ranks nothing (fewer than 3
    networks, or all equal).
    """
    tau, spearman = _tau(x, y), float("nan")
    if tau is None:
        return None
    spearman = float(stats.spearmanr(x, y).statistic)
    rng = random.Random(seed)
    drawn = []
    for _ in range(RESAMPLES):
        rows = [rng.randrange(len(x)) for _ in x]
        found = _tau([x[row] for row in rows], [y[row] for row in rows])
        if found is not None:
            drawn.append(found)
    drawn.sort()
    low, high = drawn[int(0.025 * len(drawn))], drawn[min(len(drawn) - 1, int(0.975 * len(drawn)))]
    return Correlation(tau, spearman, low, high, len(x))


def _tau(x: Sequence[float], y: Sequence[float]) -> float | None:
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return float(stats.kendalltau(x, y).statistic)


def within_thirds(x: Sequence[float], y: Sequence[float], size: Sequence[float]) -> float | None:
    """Mean τ inside thirds of the networks by ``size``, weighted by their pairs: what is left where
    size tells little.

    None where no third ranks anything.
    """
    order = sorted(range(len(size)), key=lambda row: size[row])
    total, pairs = 0.0, 0
    for part in range(THIRDS):
        rows = order[part * len(order) // THIRDS : (part + 1) * len(order) // THIRDS]
        tau = _tau([x[row] for row in rows], [y[row] for row in rows])
        if tau is not None:
            weight = len(rows) * (len(rows) - 1) // 2
            total, pairs = total + weight * tau, pairs + weight
    return total / pairs if pairs else None
