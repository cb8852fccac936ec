"""A measuring under way: what is done and kept, what is left."""

import json
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from pydantic import ValidationError

from archsearch.errors import ArchsearchError, InputError
from archsearch.files import write_text
from archsearch.latency.paired import MeasureSettings, Sample
from archsearch.latency.parts import Part
from archsearch.latency.table import Header, explain, parse_unit
from archsearch.latency.things import Thing, is_unit, name_of
from archsearch.runtimes.base import RuntimeFacts
from archsearch.unet.config import UNetConfig
from archsearch.unet.units import Unit, unit_fields

SCHEMA_VERSION = 1


def partial_path(output: Path) -> Path:
    """``<output>.partial.json``."""
    return output.with_name(output.name + ".partial.json")


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Keep other processes from measuring into the same table meanwhile.

    Raises:
        InputError: Another one does.
    """
    lock = FileLock(f"{partial_path(output)}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"{output}: another process is measuring into it.") from error
    except OSError as error:
        raise ArchsearchError(f"{output}: cannot be written: {error.strerror or error}.") from error
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def check_same(header: Header, found: Header, path: Path) -> None:
    """Refuse to mix what was measured under different conditions.

    Raises:
        InputError: ``found`` in ``path`` differs from ``header``; the message names what differs.
    """
    differing = [
        name for name in Header.model_fields if getattr(header, name) != getattr(found, name)
    ]
    if differing:
        named = ", ".join(
            f"{name} ({getattr(found, name)!r} there, {getattr(header, name)!r} here)"
            for name in differing
        )
        raise InputError(
            f"{path}: was measured with another {named}; move it away or choose another output."
        )


class Partial:
    """Samples so far: of units, and under the names of ``job`` of everything that is measured
    whole.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.header = header
        self.units: dict[Unit, Sample] = {}
        self.whole: dict[str, Sample] = {}

    @classmethod
    def open(cls, path: Path, header: Header) -> "Partial":
        """Read what is there, or begin.

        Raises:
            InputError: The file is unreadable, or was measured under other conditions.
        """
        partial = cls(path, header)
        if not path.exists():
            return partial
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["schema"] != SCHEMA_VERSION:
                raise ValueError(f"schema: must be {SCHEMA_VERSION}, but got {data['schema']!r}")
            found = Header.model_validate(data["header"])
            for line in data["units"]:
                sample = Sample.model_validate(line.pop("sample"))
                partial.units[parse_unit(line)] = sample
            partial.whole = {
                name: Sample.model_validate(sample) for name, sample in data["whole"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = explain(error, Header) if isinstance(error, ValidationError) else str(error)
            raise InputError(
                f"{path}: is no partial latency table ({reason}); delete it to begin anew."
            ) from error
        check_same(header, found, path)
        return partial

    def get(self, thing: Thing, variant: str = "") -> Sample | None:
        """The sample of a thing, if there is one. ``variant`` keeps apart several of one network:
        measured again, or in full.
        """
        return self.units.get(thing) if is_unit(thing) else self.whole.get(job(thing, variant))

    def put(self, sample: Sample, thing: Thing, variant: str = "") -> None:
        """Keep the sample of a thing."""
        if is_unit(thing):
            self.units[thing] = sample
        else:
            self.whole[job(thing, variant)] = sample

    def save(self) -> None:
        """Write atomically."""
        lines = [
            {**unit_fields(unit), "sample": sample.model_dump()}
            for unit, sample in self.units.items()
        ]
        content: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "header": self.header.model_dump(),
            "whole": {name: sample.model_dump() for name, sample in self.whole.items()},
        }
        head = json.dumps(content, ensure_ascii=False)[:-1]
        write_text(
            self.path,
            head + ', "units": [\n' + ",\n".join(json.dumps(line) for line in lines) + "\n]}\n",
        )

    def forget_unquiet(self, max_drift: float) -> None:
        """Drop what was measured while the reference spread more than is allowed now."""
        self.units = {
            unit: sample for unit, sample in self.units.items() if sample.drift <= max_drift
        }
        self.whole = {
            name: sample for name, sample in self.whole.items() if sample.drift <= max_drift
        }

    def consumed(self, units: Collection[Unit], things: Iterable[Thing]) -> None:
        """Forget what stands in the table now, and delete the file where nothing else is left:
        another job's samples stay.
        """
        names = {job(thing) for thing in things if not is_unit(thing)}
        self.units = {unit: sample for unit, sample in self.units.items() if unit not in units}
        self.whole = {
            name: sample
            for name, sample in self.whole.items()
            if name.partition(":")[0] not in names
        }
        if self.units or self.whole:
            self.save()
        else:
            self.path.unlink(missing_ok=True)

    def reference_medians(self) -> list[float]:
        """Median of the reference beside everything measured so far, in ms."""
        return [sample.reference_p50 for sample in (*self.units.values(), *self.whole.values())]


def job(thing: UNetConfig | Part, variant: str = "") -> str:
    """Name of what is measured whole: a network's digest or a part's name, and the variant."""
    name = thing.digest if isinstance(thing, UNetConfig) else thing.name
    return f"{name}:{variant}" if variant else name


Progress = Callable[[int, int, float], None]
"""Called with what is done, the total, and the seconds that remain, estimated."""

SAVE_SECONDS = 20.0
"""What was measured is saved after as long at the latest: a whole network takes that long by
itself.
"""

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


def jobs_of(
    units: Sequence[Unit], whole: Sequence[Thing], again: int, full: int, seed: int
) -> list[Job]:
    """Everything to measure: the units in a shuffled order, so that a drift of the machine is not
    one of kinds; then what is measured whole; then the first ``again`` networks of it once more, so
    that the two measurements of a network lie far apart; then the first ``full`` optimised in full.
    """
    shuffled: list[Unit] = list(units)
    random.Random(seed).shuffle(shuffled)
    jobs = [Job(unit) for unit in shuffled] + [Job(thing) for thing in whole]
    networks = [thing for thing in whole if isinstance(thing, UNetConfig)]
    return (
        jobs
        + [Job(thing, AGAIN) for thing in networks[:again]]
        + [Job(thing, FULL) for thing in networks[:full]]
    )


def measure_jobs(
    jobs: Sequence[Job], partial: Partial, bench: Measurer, progress: Progress | None = None
) -> Outcome:
    """Measure what ``partial`` lacks of ``jobs`` into it, saving it every few jobs and when
    interrupted. Closes ``bench``.

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


def _one_pass(
    jobs: Sequence[Job],
    partial: Partial,
    bench: Measurer,
    outcome: Outcome,
    timer: "_Timer",
    last: bool,
) -> list[Job]:
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
