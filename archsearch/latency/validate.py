"""How well a table predicts: random networks measured whole beside what the sum of their units
says.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.measure import RefusedError, header_of
from archsearch.latency.predict import MissingEntryError, draw_distinct, predict
from archsearch.latency.progress import (
    Measurer,
    Outcome,
    Partial,
    Progress,
    check_same,
    claimed,
    jobs_of,
    measure_jobs,
)
from archsearch.latency.table import LatencyTable, Whole
from archsearch.latency.whole import samples_of, whole_line
from archsearch.search_space.space import Space
from archsearch.unet.config import UNetConfig

WITHIN = 0.10


@dataclass(frozen=True, slots=True)
class Validation:
    """Errors of predictions, as shares of what was measured."""

    networks: int
    median_error: float
    """Median of the absolute errors."""
    bias: float
    """Median of the errors with their sign."""
    p95_error: float
    """95th percentile of the absolute errors."""
    max_error: float
    within_10_percent: float
    """Share of networks predicted within ± 10 %."""
    spearman: float | None
    """Rank correlation of predicted and measured; None for fewer than three networks."""
    repeat_noise: float | None
    """Median relative difference of two measurements of one network at different times; None if
    measured once.
    """
    full_gain: float | None
    """Median of measured over fully optimised time; None where that was not measured."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def summarise(lines: Sequence[Whole]) -> Validation:
    """Sum up the errors of ``lines``.

    Raises:
        InputError: There are none.
    """
    if not lines:
        raise InputError("no whole networks to judge the table by: run archsearch latency validate")
    errors = np.array([line.predicted / line.measured - 1 for line in lines])
    repeats = [line.repeat for line in lines if line.repeat is not None]
    gains = [line.measured / line.full for line in lines if line.full is not None]
    ranks = pd.DataFrame(
        {
            "predicted": [line.predicted for line in lines],
            "measured": [line.measured for line in lines],
        }
    ).rank()
    spearman = (
        float(np.corrcoef(ranks["predicted"], ranks["measured"])[0, 1]) if len(lines) > 2 else None
    )
    return Validation(
        networks=len(lines),
        median_error=float(np.median(np.abs(errors))),
        bias=float(np.median(errors)),
        p95_error=float(np.percentile(np.abs(errors), 95)),
        max_error=float(np.abs(errors).max()),
        within_10_percent=float((np.abs(errors) <= WITHIN).mean()),
        spearman=spearman,
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
    networks: Sequence[tuple[str, UNetConfig]],
    bench: Measurer,
    again: int,
    full: int,
    progress: Progress | None,
) -> tuple[LatencyTable, list[Whole], Outcome]:
    """Measure ``networks`` whole and keep them in the table, each with its residual; those that
    stand there already are kept.

    Goes on where it was cut off (``<table>.validate.partial.json``).

    Args:
        path: The table.
        networks: Names and networks.
        bench: What to measure with; it is closed.
        again: How many of the networks are measured a second time, which tells the noise of
            measuring.
        full: How many are measured also with the graph optimised in full.
        progress: Told after each measurement.

    Returns:
        The table, the lines of ``networks``, and what failed.

    Raises:
        InputError: The table was measured under other conditions than ``bench`` measures under, or
            elsewhere.
        RefusedError: The reference would not hold still; what was measured is kept.
        ArchsearchError: None could be measured, or the table cannot be written.
    """
    try:
        with claimed(path):
            return _validate(path, networks, bench, again, full, progress)
    finally:
        bench.close()


def _validate(
    path: Path,
    networks: Sequence[tuple[str, UNetConfig]],
    bench: Measurer,
    again: int,
    full: int,
    progress: Progress | None,
) -> tuple[LatencyTable, list[Whole], Outcome]:
    bench.facts.check_full(full)
    table = LatencyTable.load(path)
    header = header_of(bench.facts, bench.settings)
    check_same(header, table, path)
    known = {line.config: line for line in table.whole}
    partial = Partial.open(path.with_name(path.name + ".validate.partial.json"), header)
    partial.forget_unquiet(bench.settings.max_drift)
    missing = [config for _, config in networks if config.digest not in known]
    outcome = measure_jobs(
        jobs_of([], missing, again, full, bench.settings.seed), partial, bench, progress
    )
    if outcome.refused:
        raise RefusedError(
            f"{partial.path}: {len(outcome.refused)} measurements refused "
            f"({outcome.refused[0]}; …): run again."
        )
    lines = []
    for name, config in networks:
        predicted = predict(config, table).latency_ms
        if config.digest in known:
            lines.append(known[config.digest].predicting(predicted))
        elif samples := samples_of(config, partial):
            lines.append(whole_line(name, config, samples, table.reference.p50, predicted))
    if not lines:
        reason = next(iter(outcome.failed_whole.values()), "there are none")
        raise ArchsearchError(f"{path}: none of the networks could be measured: {reason}")
    digests = {line.config for line in lines}
    whole = [*(line for line in table.whole if line.config not in digests), *lines]
    table = table.replace(whole=whole, date=date.today().isoformat())
    table.save(path)
    partial.consumed((), missing)
    return table, lines, outcome
