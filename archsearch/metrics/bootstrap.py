"""Intervals: how far a score would move had other pictures been sampled from the same generator.

Every metric has the same interval: value ± 1.96 standard deviations of its bootstrap resamples (the "normal" interval of Efron
and Tibshirani 1993, §13.3), over the generated pictures, the real ones held fixed. It is centred on the value on purpose: a
resample repeats pictures, which moves recall and coverage one way, so that their percentiles may not even hold the value; the
spread of the resamples is usable all the same. A Fréchet distance on fewer pictures than features is moved so much by how many
different pictures a resample holds that its spread comes out several times too wide: there the jackknife stands in.
"""

import torch
from torch import Tensor

RESAMPLES = 500
_SEED = 20_240_601  # the bootstrap's own: a study's seed changes pictures, not the way they are judged
_QUANTILE = 1.959964  # of the standard normal, for 95 %


def resamples(count: int, number: int = RESAMPLES) -> Tensor:
    """Draw ``number`` resamples of ``count`` pictures with replacement: int64 indices (number, count), always the same ones."""
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
    """Leave groups of pictures out in turn: the delete-m jackknife (Efron and Tibshirani 1993, §11.5 and §11.7).

    Args:
        count: Number of pictures n, ≥ 2.
        most: Groups at most, g. A group has m = ⌈n / most⌉ pictures, drawn at random.

    Returns:
        The pictures kept, int64 indices (g, n - m), and the factor from the standard deviation of the g scores to the score's.
    """
    size = -(-count // most)
    groups = count // size
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))
    kept = [torch.cat([order[: size * j], order[size * (j + 1) :]]) for j in range(groups)]
    return torch.stack(kept), ((count - size) * (groups - 1) / (size * groups)) ** 0.5


def with_interval(
    name: str, value: float, resampled: Tensor, lowest: float = -torch.inf, highest: float = torch.inf
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
