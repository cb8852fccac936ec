"""Measuring a table, or networks alone; a measuring that was cut off goes on where it was."""

import platform
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from filelock import FileLock, Timeout
from pydantic import Field

from archsearch import documents
from archsearch.errors import ArchsearchError, InputError
from archsearch.files import write_text
from archsearch.latency.paired import Measurer, Sample, clock_of
from archsearch.latency.parts import Part
from archsearch.latency.predict import MissingEntryError, predict
from archsearch.latency.process import Process
from archsearch.latency.stopwatch import MeasureSettings, relative_spread
from archsearch.latency.table import (
    Correction,
    Entry,
    Failure,
    Frozen,
    Header,
    LatencyTable,
    OfUnit,
    PartTime,
    Reference,
    Whole,
    keys_of,
    parse,
    sort_key,
)
from archsearch.latency.workload import Workload, is_unit, name_of
from archsearch.runtimes.base import Runtime, RuntimeFacts, facts
from archsearch.unet.config import UNetConfig
from archsearch.unet.units import Unit


class RefusedError(ArchsearchError):
    """The reference would not hold still beside some units: the machine is too busy or too hot to
    measure them.
    """


def header_of(facts: RuntimeFacts, settings: MeasureSettings) -> Header:
    """The conditions under which a runtime measures on this machine.

    Raises:
        InputError: The name given to the device is none.
    """
    given = {
        "device": settings.device or "cpu",  # whose processor it is, soc says
        "soc": processor(),
        "os": _os(),
        "runtime": f"{facts.library} {facts.version}",
        "graph_level": facts.graph_level,
        "compute_unit": facts.compute_unit,
        "dtype": facts.dtype,
        "threads": settings.threads,
        "layout": facts.layout,
        "warmup": settings.warmup,
        "runs": settings.runs,
        "clock": clock_of(facts, settings),
    }
    return documents.validate(documents.Document(Path("header of the table"), given), Header)


def processor() -> str:
    """What this machine's processor is called."""
    cpuinfo = Path("/proc/cpuinfo")  # only Linux has it
    for line in cpuinfo.read_text("utf-8", "replace").splitlines() if cpuinfo.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def _os() -> str:
    if platform.system() == "Darwin":
        name = f"macOS {platform.mac_ver()[0]}"
    else:
        try:
            name = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
        except OSError:
            name = f"{platform.system()} {platform.release()}"
    return f"{name} ({platform.machine()})"


def differences(header: Header, found: Header) -> str:
    """What differs between the conditions ``found`` in a table and those here, in words; empty
    where nothing does.
    """
    return ", ".join(
        f"{name} ({getattr(found, name)!r} there, {getattr(header, name)!r} here)"
        for name in Header.model_fields
        if getattr(header, name) != getattr(found, name)
    )


def _check_same(header: Header, found: Header, path: Path) -> None:
    if differing := differences(header, found):
        raise InputError(
            f"{path}: was measured with another {differing}; move it away or choose another output."
        )


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


Variant = Literal["", "again1", "full"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
# Further measurements of a network: a second time, and with the graph optimised in full.
_, AGAIN, FULL = VARIANTS


@dataclass(frozen=True)
class Job:
    """A workload to measure."""

    workload: Workload
    variant: Variant = ""  # which of several measurements of one network it is

    @property
    def key(self) -> Unit | str:
        """What its sample is kept under: the unit, or the network's digest or part's name, and
        the variant.
        """
        if is_unit(self.workload):
            return self.workload
        whole = self.workload
        name = whole.digest if isinstance(whole, UNetConfig) else whole.name
        return f"{name}:{self.variant}" if self.variant else name


def jobs_of(
    units: Sequence[Unit], whole: Sequence[Workload], again: int, full: int, seed: int
) -> list[Job]:
    """Everything to measure: the units in a shuffled order, so that a drift of the machine is not
    one of kinds; then what is measured whole; then the first ``again`` networks of it once more, so
    that the two measurements of a network lie far apart; then the first ``full`` optimised in full.
    """
    shuffled: list[Unit] = list(units)
    random.Random(seed).shuffle(shuffled)
    networks = [workload for workload in whole if isinstance(workload, UNetConfig)]
    return [
        *(Job(workload) for workload in (*shuffled, *whole)),
        *(Job(network, AGAIN) for network in networks[:again]),
        *(Job(network, FULL) for network in networks[:full]),
    ]


class _UnitSample(OfUnit):
    sample: Sample


class _PartialFile(Frozen):
    schema_version: Literal[1] = Field(default=1, alias="schema")
    header: Header
    whole: dict[str, Sample]
    units: list[_UnitSample]


class Partial:
    """The samples of a measuring under way, in a file: cut off anywhere, it goes on from there.

    Raises:
        InputError: The file is there and unreadable, or was measured under other conditions.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header
        self.samples: dict[Unit | str, Sample] = {}  # by ``Job.key``
        if not path.exists():
            return
        try:
            found = parse(documents.read(path), _PartialFile)
        except InputError as error:
            reason = str(error).splitlines()[0].removeprefix(f"{path}: ")
            raise InputError(
                f"{path}: is no partial latency table ({reason}); delete it to begin anew."
            ) from error
        _check_same(header, found.header, path)
        self.samples.update({each.unit: each.sample for each in found.units})
        self.samples.update(found.whole)

    def of(self, workload: Workload) -> dict[Variant, Sample]:
        """The samples of a workload by variant; none where the first measurement is missing."""
        keys: dict[Variant, Unit | str] = {each: Job(workload, each).key for each in VARIANTS}
        if keys[""] not in self.samples:
            return {}
        return {each: self.samples[key] for each, key in keys.items() if key in self.samples}

    def save(self) -> None:
        """Write atomically."""
        units = {key: each for key, each in self.samples.items() if not isinstance(key, str)}
        content = _PartialFile(
            header=self.header,
            whole={key: each for key, each in self.samples.items() if isinstance(key, str)},
            units=[_UnitSample(unit=unit, sample=sample) for unit, sample in units.items()],
        )
        write_text(self.path, content.model_dump_json(by_alias=True) + "\n")

    def consumed(self, units: Collection[Unit], whole: Iterable[Workload]) -> None:
        """Forget what stands in the table now, and delete the file where nothing else is left:
        another job's samples stay.
        """
        names = {Job(workload).key for workload in whole}
        for key in list(self.samples):
            if (key.partition(":")[0] in names) if isinstance(key, str) else (key in units):
                del self.samples[key]
        if self.samples:
            self.save()
        else:
            self.path.unlink(missing_ok=True)


# Called with what is done, the total, and the seconds that remain, estimated.
Progress = Callable[[int, int, float], None]

# What was measured is saved after as long at the latest: a whole network takes that long by itself.
SAVE_SECONDS = 20.0


@dataclass
class Outcome:
    """What did not come out of a sitting.

    Attributes:
        refused: Names of what the reference would not hold still beside.
        failed: Units the runtime could not convert or run, and why.
        failed_whole: The same of networks and parts, by name.
    """

    refused: list[str] = field(default_factory=list)
    failed: dict[Unit, str] = field(default_factory=dict)
    failed_whole: dict[str, str] = field(default_factory=dict)


def measure_jobs(
    jobs: Sequence[Job], partial: Partial, bench: Measurer, progress: Progress | None = None
) -> Outcome:
    """Measure what ``partial`` lacks of ``jobs`` into it, saving it every few jobs and when
    interrupted. What was too unquiet is tried again once everything else is done.

    Raises:
        InputError: The runtime cannot measure here at all.
    """
    outcome = Outcome()
    partial.save()  # a folder that cannot be written is found out before anything is measured
    left = [job for job in jobs if job.key not in partial.samples]
    open_jobs, settled, start = len(left), 0, time.monotonic()
    saved = start
    try:
        for last in (False, True):
            unquiet = []
            for number, job in enumerate(left, start=1):
                name, settles = name_of(job.workload), True
                try:
                    sample, settles = bench.measure(job.workload, full=job.variant == FULL)
                except InputError:
                    raise
                except ArchsearchError as error:
                    reason = " ".join(str(error).split()).removeprefix(f"{name}: ")
                    if is_unit(job.workload):
                        outcome.failed[job.workload] = reason
                    else:
                        outcome.failed_whole[name] = reason
                else:
                    if settles:
                        partial.samples[job.key] = sample
                    elif last:
                        outcome.refused.append(f"{name} ({sample.drift:.0%})")
                    else:
                        unquiet.append(job)
                settled += settles
                if settles and progress:
                    remaining = open_jobs - settled
                    pace = (time.monotonic() - start) / settled
                    progress(len(jobs) - remaining, len(jobs), pace * remaining)
                due = time.monotonic() - saved > SAVE_SECONDS
                if due or number % bench.settings.save_every == 0:
                    partial.save()
                    saved = time.monotonic()
            left = unquiet
    finally:
        partial.save()
    return outcome


def fit_correction(pairs: Sequence[tuple[str, float, float]]) -> Correction:
    """Fit ``measured = scale * sum`` on whole networks.

    The scale minimises the mean absolute relative error, so that one odd measurement does not bend
    it: it is the median of measured/sum, weighted by sum/measured.

    Args:
        pairs: Digest, sum of the units' medians in ms and measured ms of each network; one or more.
    """
    sums, measured = np.array([pair[1] for pair in pairs]), np.array([pair[2] for pair in pairs])
    scales = measured / sums
    order = np.argsort(scales)
    cumulative = np.cumsum((sums / measured)[order])
    scale = float(scales[order][np.searchsorted(cumulative, cumulative[-1] / 2)])
    return Correction(scale=scale, fitted_on=[digest for digest, _, _ in pairs])


Named = tuple[str, UNetConfig]


@dataclass(frozen=True)
class WholeNetworks:
    """Networks to measure whole.

    Attributes:
        fit_on: Names of those that the correction is fitted on; the others show how well it
            predicts.
        again: How many of them are measured a second time, later: what lies between the two is the
            noise of measuring.
        full: How many of them are measured also where the runtime optimises as far as it can.
    """

    named: Sequence[Named] = ()
    fit_on: Collection[str] = ()
    again: int = 0
    full: int = 0

    @property
    def distinct(self) -> list[Named]:
        """Each network once, under its first name."""
        found: dict[str, Named] = {}
        for name, config in self.named:
            found.setdefault(config.digest, (name, config))
        return list(found.values())


def whole_of(
    name: str,
    config: UNetConfig,
    samples: dict[Variant, Sample],
    reference_p50: float,
    predicted: float,
) -> Whole:
    """What a table says of a network measured whole: all samples of its measurements together, but
    for the fully optimised one.
    """
    again, full = samples.get(AGAIN), samples.get(FULL)
    plain = [sample for sample in (samples[""], again) if sample]
    medians = [sample.percentiles(reference_p50).p50 for sample in plain]
    together = Sample(
        ratios=[ratio for sample in plain for ratio in sample.ratios],
        reference=[ms for sample in plain for ms in sample.reference],
    )
    n, p10, p50, p90 = together.percentiles(reference_p50)
    whole = Whole(
        config=config.digest,
        name=name,
        measured=round(float(np.mean(medians)), 6) if again else p50,
        predicted=predicted,
        n=n,
        p10=p10,
        p90=p90,
        repeat=round(abs(medians[1] / medians[0] - 1), 5) if again else None,
        full=full.percentiles(reference_p50).p50 if full else None,
    )
    return whole.predicting(predicted)


def measure_table(
    units: Iterable[Unit],
    bench: Measurer,
    output: Path,
    whole: WholeNetworks | None = None,
    parts: Sequence[Part] = (),
    progress: Progress | None = None,
) -> tuple[LatencyTable, Outcome]:
    """Measure units, whole networks and parts of the pipeline, and write the table to ``output``.

    Goes on where a run that was cut off had come to (``<output>.partial.json``, saved every few
    units and when interrupted). An ``output`` that is there keeps what it has, and only what it
    lacks is measured, scaled to its own reference. What the runtime fails on is recorded in the
    table, and the rest goes on.

    Args:
        units: What to measure, in any order.
        bench: What to measure with.
        output: File of the table.
        whole: Networks to measure whole; the units they need are measured as well.
        parts: Other parts of the pipeline to measure whole.
        progress: Told after each measurement.

    Returns:
        The table, and what failed.

    Raises:
        RefusedError: The reference drifted beside something; the rest is kept in the partial file,
            run again.
        InputError: The runtime does not run here, or ``output`` or its partial file was measured
            under other conditions.
        ArchsearchError: Nothing at all could be measured, or the table cannot be written.
    """
    whole = whole or WholeNetworks()
    if unknown := sorted(set(whole.fit_on) - {name for name, _ in whole.named}):
        known = ", ".join(name for name, _ in whole.named) or "none"
        raise InputError(f"fit_on: {', '.join(unknown)} not among the whole networks ({known})")
    if whole.full and not bench.facts.has_full:
        raise InputError(
            f"--full: runtime {bench.facts.name} has one graph level only, "
            f"'{bench.facts.graph_level}'."
        )
    header = header_of(bench.facts, bench.settings)
    with claimed(output):
        existing = LatencyTable.load(output) if output.exists() else None
        if existing:
            _check_same(header, existing, output)
        table = existing or LatencyTable(
            **dict(header),
            date=date.today().isoformat(),
            cooling=bench.settings.cooling,
            reference=Reference(p50=1.0, drift=0.0),
            entries=[],
        )
        networks = [config for _, config in whole.distinct]
        wanted = sorted({*units, *keys_of(networks)} - set(table.by_unit), key=sort_key)
        if not (wanted or networks or parts or existing):
            raise InputError(
                f"{output}: nothing to measure: name a --space, an --arch or a --part whose units "
                "are to be timed."
            )
        known_whole = {each.config for each in table.whole} | {each.part for each in table.parts}
        workloads: list[Workload] = [*networks, *parts]
        workloads = [each for each in workloads if Job(each).key not in known_whole]
        partial = Partial(partial_path(output), header)
        allowed = bench.settings.max_drift  # it may be less than when the partial file was written
        partial.samples = {k: each for k, each in partial.samples.items() if each.drift <= allowed}
        jobs = jobs_of(wanted, workloads, whole.again, whole.full, bench.settings.seed)
        outcome = measure_jobs(jobs, partial, bench, progress)
        if outcome.refused:
            named = "; ".join(outcome.refused[:4]) + ("; …" if len(outcome.refused) > 4 else "")
            raise RefusedError(
                f"{partial.path}: {len(outcome.refused)} measurements refused, the reference "
                f"spread by more than {bench.settings.max_drift:.0%} beside {named}. The others "
                "are kept there: run again when the machine is quiet."
            )
        failed = [*outcome.failed.values(), *outcome.failed_whole.values()]
        if failed and not partial.samples:
            raise ArchsearchError(
                f"nothing could be measured; the first of {len(failed)} failures: {failed[0]}"
            )
        table = _with_times(table, partial, parts, outcome)
        table = _with_whole(table, partial, whole)
        table.save(output)
        partial.consumed(table.by_unit, workloads)
    return table, outcome


def _with_times(
    table: LatencyTable, partial: Partial, parts: Sequence[Part], outcome: Outcome
) -> LatencyTable:
    # Turn ratios into times of units and parts: by the reference of the table, if anything stands
    # in it, else by its median over all sessions.
    reference = table.reference
    medians = [sample.reference_p50 for sample in partial.samples.values()]
    if medians:
        empty = not (table.entries or table.whole or table.parts)
        p50 = round(float(np.median(medians)), 6) if empty else reference.p50
        drift = max(reference.drift, round(relative_spread(medians), 4))
        busy = min(1.0, round(float(np.median([s.busy for s in partial.samples.values()])), 4))
        reference = Reference(p50=p50, drift=drift, busy=busy if empty else reference.busy)
    entries = dict(table.by_unit)
    for key, sample in partial.samples.items():
        if not isinstance(key, str) and key not in entries:
            entries[key] = Entry(unit=key, **sample.percentiles(reference.p50)._asdict())
    times = {each.part: each for each in table.parts}
    for part in parts:
        if samples := partial.of(part):
            percentiles = samples[""].percentiles(reference.p50)
            times[part.name] = PartTime(part=part.name, **percentiles._asdict())
    reasons = {failure.unit: failure.reason for failure in table.failed} | outcome.failed
    return table.replace(
        date=date.today().isoformat(),
        reference=reference,
        entries=[entries[unit] for unit in sorted(entries, key=sort_key)],
        failed=[
            Failure(unit=unit, reason=reasons[unit])
            for unit in sorted(reasons, key=sort_key)
            if unit not in entries
        ],
        parts=[times[name] for name in sorted(times)],
    )


def _with_whole(table: LatencyTable, partial: Partial, whole: WholeNetworks) -> LatencyTable:
    # Add whole networks, measured and predicted; fit the correction first if asked to.
    #
    # What stands in the table already keeps what was measured. A network that failed, or a unit of
    # it, is left out: the outcome of measuring names it. Where none is left to fit on, the
    # correction stays.
    raw, correction = table.replace(correction=Correction()), table.correction
    known = {each.config: each for each in table.whole}
    sums = {  # of the units' medians
        digest: (each.predicted - correction.offset) / correction.scale
        for digest, each in known.items()
    }
    new: dict[str, Whole] = {}
    for name, config in whole.distinct:
        try:
            total = predict(config, raw).latency_ms
        except MissingEntryError:
            continue
        if samples := partial.of(config):
            predicted = correction.apply(total)
            found = whole_of(name, config, samples, table.reference.p50, predicted)
            new[config.digest], sums[config.digest] = found, total
        elif config.digest in known:
            new[config.digest], sums[config.digest] = known[config.digest], total
    networks = [*(each for each in table.whole if each.config not in new), *new.values()]
    fit_on = {config.digest for name, config in whole.named if name in whole.fit_on}
    if pairs := [(key, sums[key], each.measured) for key, each in new.items() if key in fit_on]:
        correction = fit_correction(pairs)
        networks = [each.predicting(correction.apply(sums[each.config])) for each in networks]
    return table.replace(correction=correction, whole=networks)


@dataclass(frozen=True)
class MeasuredNetworks:
    """What came of measuring networks whole.

    Attributes:
        samples: Of each network, by its digest, those among them that were measured before.
        refused: Names of the networks that the reference would not hold still beside.
        failed: Names of the networks that the runtime could not convert or run, and why.
    """

    samples: dict[str, Sample]
    refused: list[str]
    failed: dict[str, str]


def measure_networks(
    configs: Iterable[UNetConfig],
    runtime: Runtime,
    settings: MeasureSettings,
    partial_path: Path,
    progress: Progress | None = None,
    open_bench: Callable[[Runtime, MeasureSettings], Measurer] | None = None,
) -> MeasuredNetworks:
    """Measure networks whole on this machine, each once.

    Args:
        configs: The networks.
        runtime: What measures.
        settings: How it measures.
        partial_path: File of the samples, which stays: cut off anywhere, measuring goes on from
            there, and nothing is opened where all is known.
        progress: Told after each measurement.
        open_bench: What opens the runtime, by default in a process of its own.

    Raises:
        InputError: The runtime does not run here, or what is in ``partial_path`` was measured
            under other conditions.
    """
    jobs = [Job(config) for config in {config.digest: config for config in configs}.values()]
    partial = Partial(partial_path, header_of(facts(runtime), settings))
    outcome = Outcome()
    if not all(job.key in partial.samples for job in jobs):
        bench = open_bench(runtime, settings) if open_bench else Process(runtime.name, settings)
        try:
            outcome = measure_jobs(jobs, partial, bench, progress)
        finally:
            bench.close()
    samples = {str(job.key): partial.samples[job.key] for job in jobs if job.key in partial.samples}
    return MeasuredNetworks(samples, outcome.refused, outcome.failed_whole)
