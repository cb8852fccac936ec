"""One sitting of measuring: a list of jobs, each measured until the reference holds still, kept as it goes."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.paired import MeasureSettings, Sample
from archsearch.latency.partial import Partial
from archsearch.latency.things import Thing, is_unit, name_of
from archsearch.runtimes.base import RuntimeFacts
from archsearch.unet.config import UNetConfig
from archsearch.unet.units import Unit

Progress = Callable[[int, int, float], None]
"""Called with what is done, the total, and the seconds that remain, estimated."""

SAVE_SECONDS = 20.0
"""What was measured is saved after as long at the latest: a whole network takes that long by itself."""

PASSES = 2
"""What was too unquiet is tried again once everything else is done."""


class Measurer(Protocol):
    """What measures one thing: a ``Bench`` in this process or a ``RemoteBench`` in another."""

    facts: RuntimeFacts
    settings: MeasureSettings

    def measure(self, thing: Thing, full: bool = False) -> tuple[Sample, bool]:
        """Measure once; says also whether the reference held still."""
        ...

    def close(self) -> None:
        """Let go of processes and files."""
        ...


AGAIN, FULL = "again1", "full"
"""Variants of a network's measurement: a second time, and optimised in full."""


@dataclass(frozen=True)
class Job:
    """A thing to measure. ``variant`` tells apart several measurements of one network."""

    thing: Thing
    variant: str = ""


@dataclass
class Outcome:
    """What did not come out of a sitting."""

    refused: list[str] = field(default_factory=list)
    """Names of what the reference would not hold still beside."""
    failed: dict[Unit, str] = field(default_factory=dict)
    """Units the runtime could not convert or run, and why."""
    failed_whole: dict[str, str] = field(default_factory=dict)
    """The same of networks and parts, by name."""


def jobs_of(units: Sequence[Unit], whole: Sequence[Thing], again: int, full: int, seed: int) -> list[Job]:
    """Everything to measure: the units in a shuffled order, so that a drift of the machine is not one of kinds; then what is
    measured whole; then the first ``again`` networks of it once more, so that the two measurements of a network lie far apart;
    then the first ``full`` optimised in full.
    """
    shuffled: list[Unit] = list(units)
    random.Random(seed).shuffle(shuffled)
    jobs = [Job(unit) for unit in shuffled] + [Job(thing) for thing in whole]
    networks = [thing for thing in whole if isinstance(thing, UNetConfig)]
    return jobs + [Job(thing, AGAIN) for thing in networks[:again]] + [Job(thing, FULL) for thing in networks[:full]]


def measure_jobs(jobs: Sequence[Job], partial: Partial, bench: Measurer, progress: Progress | None = None) -> Outcome:
    """Measure what ``partial`` lacks of ``jobs`` into it, saving it every few jobs and when interrupted. Closes ``bench``.

    Raises:
        InputError: The runtime cannot measure here at all.
    """
    outcome = Outcome()
    partial.save()  # a folder that cannot be written is found out before anything is measured
    total = len(jobs)
    left = [job for job in jobs if partial.get(job.thing, job.variant) is None]
    timer = _Timer(total, len(left), progress)
    try:
        for number in range(PASSES):
            left = _one_pass(left, partial, bench, outcome, timer, last=number == PASSES - 1)
    finally:
        bench.close()
        partial.save()
    return outcome


def _one_pass(jobs: Sequence[Job], partial: Partial, bench: Measurer, outcome: Outcome, timer: "_Timer", last: bool) -> list[Job]:
    """Measure ``jobs``. Returns those beside which the reference would not hold still."""
    unquiet: list[Job] = []
    saved = time.monotonic()
    for number, job in enumerate(jobs, start=1):
        try:
            sample, quiet = bench.measure(job.thing, full=job.variant == FULL)
        except InputError:
            raise
        except ArchsearchError as error:
            _record(outcome, job.thing, str(error))
            timer.done()
            continue
        if quiet:
            partial.put(sample, job.thing, job.variant)
            timer.done()
        else:
            unquiet.append(job)
            if last:
                outcome.refused.append(f"{name_of(job.thing)} ({sample.drift:.0%})")
        if number % bench.settings.save_every == 0 or time.monotonic() - saved > SAVE_SECONDS:
            partial.save()
            saved = time.monotonic()
    return unquiet


def _record(outcome: Outcome, thing: Thing, reason: str) -> None:
    reason = " ".join(reason.split()).removeprefix(f"{name_of(thing)}: ")
    if is_unit(thing):
        outcome.failed[thing] = reason
    else:
        outcome.failed_whole[name_of(thing)] = reason


class _Timer:
    """Counts what is done and guesses what remains from the pace so far."""

    def __init__(self, total: int, left: int, progress: Progress | None) -> None:
        self.total, self.left, self.progress = total, left, progress
        self.begun, self.start = 0, time.monotonic()

    def done(self) -> None:
        self.begun += 1
        remaining = max(self.left - self.begun, 0)
        if self.progress:
            pace = (time.monotonic() - self.start) / self.begun
            self.progress(self.total - remaining, self.total, pace * remaining)
