"""Paired timing: every run stands between two runs of a reference block, and only their ratio is
kept.

Clocks of CPUs and phones drift by 4–21 % between one unit and the next; a ratio to what ran just
before and just after does not.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from archsearch.latency.table import Entry, PartTime
from archsearch.runtimes.base import Session
from archsearch.unet.units import Residual, Unit

REFERENCE_UNIT = Residual(
    in_channels=96, out_channels=96, size=32, conv="full", time_width=384, norm_groups=32
)
"""The reference block: 0.17 GMACs, some 3–8 ms on one core."""

MIN_RUNS = 5
MIN_SAMPLE_MS = 2.0
"""A sample shorter than this is made of several runs."""
REFERENCE_SHARE = 0.1
"""Runs of the reference beside a slow unit take this share of its time, so that one of them does
not decide alone.
"""
MAX_REFERENCE_REPEATS = 100

Clock = Callable[[], float]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """How to measure. ``warmup``, ``runs`` and ``threads`` are kept in the table."""

    warmup: int = 3
    """Runs before the first one that counts."""
    runs: int = 15
    """Samples of a unit; a slow one has fewer, see ``seconds``. Every entry says how many it has.
    """
    seconds: float = 1.0
    """Time for the samples of a unit: one that would take longer is sampled less often,
    ``MIN_RUNS`` times at least.
    """
    threads: int = 1
    max_drift: float = 0.25
    """Spread of the reference, (p90 - p10) / p50, above which a unit is measured again."""
    attempts: int = 3
    """How often a unit is measured before it is refused."""
    save_every: int = 8
    """Units between two savings of the partial table."""
    seed: int = 0
    """Of random weights, inputs and the order of measuring."""
    device: str | None = None
    """What the table calls this machine; None for ``cpu``."""
    cooling: str = "not recorded"
    """Said in the table: fan, ambient temperature, pauses."""


class Sample(BaseModel):
    """Paired samples of one thing: ratios to the reference, and one reference time in ms more than
    these.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ratios: list[Positive] = Field(min_length=1)
    reference: list[Positive] = Field(min_length=2)

    @property
    def reference_p50(self) -> float:
        """Median time of the reference beside this thing, in ms."""
        return float(np.median(self.reference))

    @property
    def drift(self) -> float:
        """Relative spread of the reference beside this thing."""
        return relative_spread(self.reference)

    def p50(self, reference_p50: float) -> float:
        """Median time in ms, where the reference takes ``reference_p50`` ms."""
        return _milliseconds(float(np.median(self.ratios)) * reference_p50)

    def percentiles(self, reference_p50: float) -> tuple[int, float, float, float]:
        """Number of samples, and p10, p50 and p90 in ms, where the reference takes
        ``reference_p50`` ms.
        """
        p10, p50, p90 = (
            _milliseconds(float(value) * reference_p50)
            for value in np.percentile(self.ratios, (10, 50, 90))
        )
        return len(self.ratios), p10, p50, p90

    def entry(self, unit: Unit, reference_p50: float) -> Entry:
        """Table entry of ``unit``, where the reference takes ``reference_p50`` ms."""
        n, p10, p50, p90 = self.percentiles(reference_p50)
        return Entry(unit=unit, n=n, p10=p10, p50=p50, p90=p90)

    def part(self, name: str, reference_p50: float) -> PartTime:
        """Line of a part of the pipeline, where the reference takes ``reference_p50`` ms."""
        n, p10, p50, p90 = self.percentiles(reference_p50)
        return PartTime(part=name, n=n, p10=p10, p50=p50, p90=p90)

    @classmethod
    def together(cls, samples: Sequence["Sample"]) -> "Sample":
        """All samples of one thing as one."""
        return cls(
            ratios=[ratio for sample in samples for ratio in sample.ratios],
            reference=[ms for sample in samples for ms in sample.reference],
        )


def relative_spread(values: list[float]) -> float:
    """(p90 - p10) / p50."""
    p10, p50, p90 = np.percentile(values, (10, 50, 90))
    return float((p90 - p10) / p50)


def measure_paired(
    session: Session,
    reference: Session,
    settings: MeasureSettings,
    clock: Clock = time.perf_counter,
) -> Sample:
    """Time ``session`` between runs of ``reference``: reference, session, reference, session, …,
    reference.

    A round's ratio is the session's time over the mean of the reference just before and just after
    it.
    """
    spent = 0.0
    for _ in range(max(settings.warmup, 1)):
        reference_ms = _time(reference, 1, clock)
        session_ms = _time(session, 1, clock)
        spent += session_ms
        if spent > settings.seconds * 1000:
            break  # slower than a second: nothing is left to warm up
    repeats = min(max(math.ceil(MIN_SAMPLE_MS / max(session_ms, 1e-6)), 1), 10_000)
    share = round(REFERENCE_SHARE * session_ms / reference_ms)
    reference_repeats = min(max(share, 1), MAX_REFERENCE_REPEATS)
    ratios, references = [], [_time(reference, reference_repeats, clock)]
    runs = min(
        settings.runs, max(MIN_RUNS, math.ceil(settings.seconds * 1000 / max(session_ms, 1e-6)))
    )
    for _ in range(runs):
        took = _time(session, repeats, clock)
        references.append(_time(reference, reference_repeats, clock))
        ratios.append(2 * took / (references[-2] + references[-1]))
    return Sample(ratios=ratios, reference=references)


def measure_quietly(
    session: Session,
    reference: Session,
    settings: MeasureSettings,
    clock: Clock = time.perf_counter,
) -> tuple[Sample, bool]:
    """Measure until the reference holds still, ``settings.attempts`` times at most.

    Returns:
        The last sample, and whether its reference held still.
    """
    for _ in range(settings.attempts):
        sample = measure_paired(session, reference, settings, clock)
        if sample.drift <= settings.max_drift:
            return sample, True
    return sample, False


def _time(session: Session, repeats: int, clock: Clock) -> float:
    """Mean time of a run in ms."""
    start = clock()
    for _ in range(repeats):
        session.run()
    return (clock() - start) * 1000 / repeats


def _milliseconds(value: float) -> float:
    """Rounded to a nanosecond, never down to zero."""
    return max(round(value, 6), 1e-6)
