"""Paired timing: every run stands between two runs of a reference block, and only their ratio is
kept.

Clocks of CPUs and phones drift by 4–21 % between one unit and the next; a ratio to what ran just
before and just after does not.

Bundles for devices hold a copy of this file, so it imports nothing of archsearch and runs with
Python 3.10.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

MIN_RUNS = 5
MIN_SAMPLE_MS = 2.0  # a sample shorter than this is made of several runs
# Runs of the reference beside a slow unit take this share of its time, so that one of them does not
# decide alone.
REFERENCE_SHARE = 0.1
MAX_REFERENCE_REPEATS = 100


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """How to measure. ``warmup``, ``runs`` and ``threads`` are kept in the table.

    Attributes:
        warmup: Runs before the first one that counts.
        runs: Samples of a unit; a slow one has fewer, see ``seconds``. Every entry says how many it
            has.
        seconds: Time for the samples of a unit: one that would take longer is sampled less often,
            ``MIN_RUNS`` times at least.
        max_drift: Spread of the reference, (p90 - p10) / p50, above which a unit is measured again.
        attempts: How often a unit is measured before it is refused; once at least.
        save_every: Units between two savings of the partial table.
        seed: Of random weights, inputs and the order of measuring.
        clock: ``processor``, ``wall``, or ``auto``: the processor's where one thread computes on a
            CPU. There both agree on a quiet machine, and on a busy one only the processor's time
            stays what it was.
        device: What the table calls this machine; None for ``cpu``.
        cooling: Said in the table: fan, ambient temperature, pauses.
    """

    warmup: int = 3
    runs: int = 15
    seconds: float = 1.0
    threads: int = 1
    max_drift: float = 0.25
    attempts: int = 3
    save_every: int = 8
    seed: int = 0
    clock: str = "auto"
    device: str | None = None
    cooling: str = "not recorded"


class Runnable(Protocol):
    """A converted module, loaded, with its inputs in place."""

    def run(self) -> Any:
        """Run inference once."""


def relative_spread(values: list[float]) -> float:
    """(p90 - p10) / p50."""
    p10, p50, p90 = np.percentile(values, (10, 50, 90))
    return float((p90 - p10) / p50)


def measure_paired(
    session: Runnable,
    reference: Runnable,
    settings: MeasureSettings,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], list[float]]:
    """Time ``session`` between runs of ``reference``: reference, session, reference, session, …,
    reference.

    A round's ratio is the session's time over the mean of the reference just before and just after
    it. All of it is done again where the reference did not hold still, ``settings.attempts`` times
    at most, and the quietest attempt counts.

    Returns:
        The ratios, and the times of the reference in ms, one more than these.
    """

    def ms(timed: Runnable, repeats: int = 1) -> float:
        start = clock()
        for _ in range(repeats):
            timed.run()
        return (clock() - start) * 1000 / repeats

    quietest: tuple[list[float], list[float]] = [], []
    for attempt in range(settings.attempts):
        spent = 0.0
        for _ in range(max(settings.warmup, 1)):
            reference_ms, session_ms = ms(reference), ms(session)
            spent += session_ms
            if spent > settings.seconds * 1000:
                break  # slower than all the time there is: nothing is left to warm up
        repeats = min(max(math.ceil(MIN_SAMPLE_MS / max(session_ms, 1e-6)), 1), 10_000)
        share = round(REFERENCE_SHARE * session_ms / reference_ms)
        reference_repeats = min(max(share, 1), MAX_REFERENCE_REPEATS)
        affordable = math.ceil(settings.seconds * 1000 / max(session_ms, 1e-6))
        ratios, references = [], [ms(reference, reference_repeats)]
        for _ in range(min(settings.runs, max(MIN_RUNS, affordable))):
            took = ms(session, repeats)
            references.append(ms(reference, reference_repeats))
            ratios.append(2 * took / (references[-2] + references[-1]))
        if not attempt or relative_spread(references) < relative_spread(quietest[1]):
            quietest = ratios, references
        if relative_spread(references) <= settings.max_drift:
            break
    return quietest
