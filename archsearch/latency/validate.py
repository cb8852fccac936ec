"""How well a table predicts: random networks measured whole beside what the sum of their units
says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.predict import MissingEntryError, draw_distinct, predict
from archsearch.latency.table import LatencyTable, Whole
from archsearch.search_space.space import Space
from archsearch.unet.config import UNetConfig

if TYPE_CHECKING:
    from archsearch.latency.measure import Outcome, Progress, WholeNetworks
    from archsearch.latency.paired import Measurer

WITHIN = 0.10


@dataclass(frozen=True, slots=True)
class Validation:
    """Errors of predictions, as shares of what was measured.

    Attributes:
        median_error: Median of the absolute errors.
        bias: Median of the errors with their sign.
        p95_error: 95th percentile of the absolute errors.
        within_10_percent: Share of networks predicted within ± 10 %.
        spearman: Rank correlation of predicted and measured; None for fewer than three networks.
        repeat_noise: Median relative difference of two measurements of one network at different
            times; None if measured once.
        full_gain: Median of measured over fully optimised time; None where that was not measured.
    """

    networks: int
    median_error: float
    bias: float
    p95_error: float
    max_error: float
    within_10_percent: float
    spearman: float | None
    repeat_noise: float | None
    full_gain: float | None


def summarise(networks: Sequence[Whole]) -> Validation:
    """Sum up the errors of ``networks``.

    Raises:
        InputError: There are none.
    """
    if not networks:
        raise InputError("no whole networks to judge the table by: run archsearch latency validate")
    frame = pd.DataFrame([(each.predicted, each.measured) for each in networks])
    errors = (frame[0] / frame[1] - 1).to_numpy()
    absolute, ranks = np.abs(errors), frame.rank()
    repeats = [each.repeat for each in networks if each.repeat is not None]
    gains = [each.measured / each.full for each in networks if each.full is not None]
    return Validation(
        networks=len(networks),
        median_error=float(np.median(absolute)),
        bias=float(np.median(errors)),
        p95_error=float(np.percentile(absolute, 95)),
        max_error=float(absolute.max()),
        within_10_percent=float((absolute <= WITHIN).mean()),
        spearman=float(np.corrcoef(ranks[0], ranks[1])[0, 1]) if len(networks) > 2 else None,
        repeat_noise=float(np.median(repeats)) if repeats else None,
        full_gain=float(np.median(gains)) if gains else None,
    )


def draw_networks(
    space: Space, table: LatencyTable, count: int, seed: int
) -> list[tuple[str, UNetConfig]]:
    """Draw random networks of a space: different ones, none that the table's correction was fitted
    on or that need a failed unit.

    Raises:
        InputError: The space does not have as many; or the table lacks units of them that were
            never tried.
    """
    failed = {failure.unit for failure in table.failed}

    def suits(config: UNetConfig) -> bool:
        if config.digest in table.correction.fitted_on:
            return False
        try:
            predict(config, table)
        except MissingEntryError as error:
            if failed.issuperset(error.missing):
                return False
            raise
        return True

    return [
        (f"validate-{seed}-{number}", config)
        for number, config in enumerate(draw_distinct(space, count, seed, suits))
    ]


def validate_table(
    path: Path,
    whole: "WholeNetworks",
    bench: "Measurer",
    progress: "Progress | None" = None,
) -> "tuple[LatencyTable, list[Whole], Outcome]":
    """Measure networks whole and keep them in the table, each with its residual; those that stand
    there already are kept.

    Goes on where it was cut off, as ``measure_table`` does.

    Args:
        path: The table.
        whole: The networks.
        bench: What to measure with.
        progress: Told after each measurement.

    Returns:
        The table, what it says of the networks now, and what failed.

    Raises:
        InputError: The table was measured under other conditions than ``bench`` measures under, or
            elsewhere.
        RefusedError: The reference would not hold still; what was measured is kept.
        ArchsearchError: None could be measured, or the table cannot be written.
    """
    from archsearch.latency.measure import measure_table

    LatencyTable.load(path)  # measure_table would begin a new one
    table, outcome = measure_table([], bench, path, whole, progress=progress)
    digests = {config.digest for _, config in whole.named}
    networks = [each for each in table.whole if each.config in digests]
    if not networks:
        reason = next(iter(outcome.failed_whole.values()), "there are none")
        raise ArchsearchError(f"{path}: none of the networks could be measured: {reason}")
    return table, networks, outcome
