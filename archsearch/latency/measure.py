"""Measuring a table on this machine."""

import os
import platform
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from pydantic import ValidationError

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.paired import (
    REFERENCE_UNIT,
    MeasureSettings,
    Sample,
    measure_quietly,
    relative_spread,
)
from archsearch.latency.parts import Part
from archsearch.latency.progress import (
    Measurer,
    Outcome,
    Partial,
    Progress,
    check_same,
    claimed,
    jobs_of,
    measure_jobs,
    partial_path,
)
from archsearch.latency.table import (
    Failure,
    Header,
    LatencyTable,
    PartTime,
    Reference,
    explain,
    keys_of,
    sort_key,
)
from archsearch.latency.things import Thing, build, name_of
from archsearch.latency.whole import WholeNetworks, with_whole
from archsearch.runtimes.base import Runtime, RuntimeFacts, Session, facts
from archsearch.unet.units import Unit


@dataclass(frozen=True, slots=True)
class Device:
    """A machine that measures: slug for file names, processor, operating system, and the threads it
    has to give.
    """

    device: str
    soc: str
    os: str
    threads: int


def this_device() -> Device:
    """Describe this machine. Its slug is ``cpu``: whose it is, the ``soc`` says."""
    return Device(
        device="cpu", soc=_soc(Path("/proc/cpuinfo")), os=_os(), threads=os.cpu_count() or 1
    )


def _soc(cpuinfo: Path) -> str:
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "Hardware") and value.strip():
                return value.strip()
    except OSError:
        pass  # only Linux has it
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


class RefusedError(ArchsearchError):
    """The reference would not hold still beside some units: the machine is too busy or too hot to
    measure them.
    """


class Bench:
    """A runtime with the reference block loaded: measures one thing after another.

    Attributes:
        runtime: What measures.
        facts: What tables say of it.
        settings: How it measures.

    Raises:
        InputError: The runtime does not run on this machine.
    """

    def __init__(self, runtime: Runtime, settings: MeasureSettings) -> None:
        reason = runtime.available()
        if reason:
            raise InputError(f"runtime {runtime.name} cannot measure here: {reason}")
        self.runtime = runtime
        self.facts = facts(runtime)
        self.settings = settings
        self._folder = tempfile.TemporaryDirectory(prefix="archsearch-latency-")
        self._reference = convert(runtime, REFERENCE_UNIT, Path(self._folder.name), settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the converted reference."""
        self._folder.cleanup()

    def measure(self, thing: Thing, full: bool = False) -> tuple[Sample, bool]:
        """Measure a unit, a whole network or another part of the pipeline.

        Args:
            thing: What to measure.
            full: Convert it by ``runtime.full``, the graph optimised as far as it goes. The
                reference stays as it is.

        Returns:
            The sample, and whether the reference held still beside it.

        Raises:
            InputError: ``full`` is asked for, and the runtime knows one way only.
            ArchsearchError: The runtime cannot convert or run it.
        """
        runtime = full_of(self.runtime) if full else self.runtime
        with tempfile.TemporaryDirectory(prefix="archsearch-latency-") as folder:
            session = convert(runtime, thing, Path(folder), self.settings)
            try:
                return measure_quietly(session, self._reference, self.settings)
            except ArchsearchError:
                raise
            except Exception as error:
                raise ArchsearchError(
                    f"{name_of(thing)}: {runtime.name} cannot run it: {error}"
                ) from error


def full_of(runtime: Runtime) -> Runtime:
    """The fully optimising form of ``runtime``.

    Raises:
        InputError: It has none.
    """
    if runtime.full is None:
        raise InputError(
            f"runtime {runtime.name} has one graph level only ({runtime.graph_level}): there is "
            "no fuller one to measure with."
        )
    return runtime.full


def convert(runtime: Runtime, thing: Thing, folder: Path, settings: MeasureSettings) -> Session:
    """Convert ``thing`` with random weights.

    Raises:
        ArchsearchError: The runtime cannot; the message names the thing and gives the runtime's
            reason.
    """
    module, inputs = build(thing, settings.seed)
    try:
        return runtime.convert(module, inputs, folder, settings.threads)
    except InputError:
        raise
    except ArchsearchError as error:
        raise ArchsearchError(f"{name_of(thing)}: {error}") from error
    except Exception as error:
        raise ArchsearchError(
            f"{name_of(thing)}: {runtime.name} cannot convert it: {error}"
        ) from error


def header_of(facts: RuntimeFacts, settings: MeasureSettings) -> Header:
    """The conditions under which a runtime measures on this machine.

    Raises:
        InputError: The name given to the device is none.
    """
    device = this_device()
    given = {
        "device": settings.device or device.device,
        "soc": device.soc,
        "os": device.os,
        "runtime": f"{facts.library} {facts.version}",
        "graph_level": facts.graph_level,
        "compute_unit": facts.compute_unit,
        "dtype": facts.dtype,
        "threads": settings.threads,
        "layout": facts.layout,
        "warmup": settings.warmup,
        "runs": settings.runs,
    }
    try:
        return Header.model_validate(given)
    except ValidationError as error:
        raise InputError(f"header of the table: {explain(error, Header)}") from error


def build_table(
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
        bench: What to measure with; it is closed.
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
    try:
        with claimed(output):
            return _build(list(units), bench, output, whole or WholeNetworks(), parts, progress)
    finally:
        bench.close()


def _build(
    units: list[Unit],
    bench: Measurer,
    output: Path,
    whole: WholeNetworks,
    parts: Sequence[Part],
    progress: Progress | None,
) -> tuple[LatencyTable, Outcome]:
    _check_request(whole, bench)
    header = header_of(bench.facts, bench.settings)
    existing = LatencyTable.load(output) if output.exists() else None
    if existing:
        check_same(header, existing, output)
    table = existing or _empty(header, bench.settings)
    networks = [config for _, config in whole.distinct]
    wanted: list[Unit] = sorted({*units, *keys_of(networks)} - set(table.by_unit), key=sort_key)
    if not (wanted or networks or parts or existing):
        raise InputError(f"{output}: nothing to measure: no units and no networks were given.")
    partial = Partial.open(partial_path(output), header)
    partial.forget_unquiet(bench.settings.max_drift)
    have = {line.config for line in table.whole} | {line.part for line in table.parts}
    things: list[Thing] = [config for config in networks if config.digest not in have]
    things += [part for part in parts if part.name not in have]
    outcome = measure_jobs(
        jobs_of(wanted, things, whole.again, whole.full, bench.settings.seed),
        partial,
        bench,
        progress,
    )
    _check_outcome(outcome, partial, bench.settings)
    table = _with_entries(table, partial, outcome)
    table = table.replace(date=date.today().isoformat(), parts=_parts(table, parts, partial))
    table = with_whole(table, whole, partial)
    table.save(output)
    partial.consumed(table.by_unit, things)
    return table, outcome


def _check_request(whole: WholeNetworks, bench: Measurer) -> None:
    unknown = sorted(set(whole.fit_on) - {name for name, _ in whole.named})
    if unknown:
        known = ", ".join(name for name, _ in whole.named) or "none"
        raise InputError(f"fit_on: {', '.join(unknown)} not among the whole networks ({known})")
    bench.facts.check_full(whole.full)


def _empty(header: Header, settings: MeasureSettings) -> LatencyTable:
    today = date.today().isoformat()
    return LatencyTable(
        **dict(header),
        date=today,
        cooling=settings.cooling,
        reference=Reference(p50=1.0, drift=0.0),
        entries=[],
    )


def _check_outcome(outcome: Outcome, partial: Partial, settings: MeasureSettings) -> None:
    if outcome.refused:
        named = "; ".join(outcome.refused[:4]) + ("; …" if len(outcome.refused) > 4 else "")
        raise RefusedError(
            f"{partial.path}: {len(outcome.refused)} measurements refused, the reference spread "
            "by more than "
            f"{settings.max_drift:.0%} beside {named}. The others are kept there: run again "
            "when the machine is quiet."
        )
    failed = [*outcome.failed.values(), *outcome.failed_whole.values()]
    if failed and not (partial.units or partial.whole):
        raise ArchsearchError(
            f"nothing could be measured; the first of {len(failed)} failures: {failed[0]}"
        )


def _with_entries(table: LatencyTable, partial: Partial, outcome: Outcome) -> LatencyTable:
    """Turn ratios into times: by the reference of the table, if anything stands in it, else by its
    median over all sessions.
    """
    medians = partial.reference_medians()
    reference = table.reference
    if medians and not (table.entries or table.whole or table.parts):
        reference = Reference(p50=round(float(np.median(medians)), 6), drift=0.0)
    if medians:
        drift = max(reference.drift, round(relative_spread(medians), 4))
        reference = reference.model_copy(update={"drift": drift})
    new = [
        sample.entry(unit, reference.p50)
        for unit, sample in partial.units.items()
        if unit not in table.by_unit
    ]
    entries = sorted([*table.entries, *new], key=lambda entry: sort_key(entry.unit))
    reasons = {failure.unit: failure.reason for failure in table.failed} | outcome.failed
    known = {entry.unit for entry in entries}
    failed = [
        Failure(unit=unit, reason=reasons[unit])
        for unit in sorted(reasons, key=sort_key)
        if unit not in known
    ]
    return table.replace(reference=reference, entries=entries, failed=failed)


def _parts(table: LatencyTable, parts: Sequence[Part], partial: Partial) -> list[PartTime]:
    times = {line.part: line for line in table.parts}
    for part in parts:
        if sample := partial.get(part):
            times[part.name] = sample.part(part.name, table.reference.p50)
    return [times[name] for name in sorted(times)]
