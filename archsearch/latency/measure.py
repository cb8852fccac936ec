"""Measuring a latency table: every unit alone, paired with the reference block; resumable."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.bench import RefusedError
from archsearch.latency.correction import fit_correction
from archsearch.latency.device import this_device
from archsearch.latency.keys import keys_of, sort_key
from archsearch.latency.lines import Correction, Failure, PartTime, Reference, Whole
from archsearch.latency.paired import MeasureSettings, Sample, relative_spread
from archsearch.latency.partial import Partial, check_same, partial_path
from archsearch.latency.parts import Part
from archsearch.latency.predict import MissingEntryError, predict
from archsearch.latency.session import AGAIN, FULL, Measurer, Outcome, Progress, jobs_of, measure_jobs
from archsearch.latency.table import Header, LatencyTable
from archsearch.runtimes.base import RuntimeFacts
from archsearch.unet.config import UNetConfig
from archsearch.unet.units import Unit


@dataclass(frozen=True)
class WholeNetworks:
    """Networks to measure whole."""

    named: Sequence[tuple[str, UNetConfig]] = ()
    fit_on: Collection[str] = ()
    """Names of those that the correction is fitted on; the others show how well it predicts."""
    again: int = 0
    """How many of them are measured a second time, later: what lies between the two is the noise of measuring."""
    full: int = 0
    """How many of them are measured also where the runtime optimises as far as it can."""


def header_of(facts: RuntimeFacts, settings: MeasureSettings) -> Header:
    """The conditions under which a runtime measures on this machine."""
    device = this_device()
    return Header(
        device=settings.device or device.device,
        soc=device.soc,
        os=device.os,
        runtime=f"{facts.library} {facts.version}",
        graph_level=facts.graph_level,
        compute_unit=facts.compute_unit,
        dtype=facts.dtype,
        threads=settings.threads,
        layout=facts.layout,
        warmup=settings.warmup,
        runs=settings.runs,
    )


def build_table(
    units: Iterable[Unit],
    bench: Measurer,
    output: Path,
    whole: WholeNetworks | None = None,
    parts: Sequence[Part] = (),
    progress: Progress | None = None,
) -> tuple[LatencyTable, Outcome]:
    """Measure units, whole networks and parts of the pipeline, and write the table to ``output``.

    Goes on where a run that was cut off had come to (``<output>.partial.json``, saved every few units and when interrupted). An
    ``output`` that is there keeps its entries, and only what it lacks is measured, scaled to its own reference. What the runtime
    fails on is recorded in the table, and the rest goes on.

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
        RefusedError: The reference drifted beside something; the rest is kept in the partial file, run again.
        InputError: The runtime does not run here, or ``output`` or its partial file was measured under other conditions.
        ArchsearchError: Nothing at all could be measured, or the table cannot be written.
    """
    whole = whole or WholeNetworks()
    unknown = sorted(set(whole.fit_on) - {name for name, _ in whole.named})
    if unknown:
        known = ", ".join(name for name, _ in whole.named) or "none"
        raise InputError(f"fit_on: {', '.join(unknown)} not among the whole networks ({known})")
    header = header_of(bench.facts, bench.settings)
    existing = LatencyTable.load(output) if output.exists() else None
    if existing:
        check_same(header, existing, output)
    table = existing or _empty(header, bench.settings)
    wanted: list[Unit] = sorted({*units, *keys_of(config for _, config in whole.named)} - set(table.by_unit), key=sort_key)
    if not (wanted or whole.named or parts or existing):
        raise InputError(f"{output}: nothing to measure: no units and no networks were given.")
    partial = Partial.open(partial_path(output), header)
    networks = {config.digest: config for _, config in whole.named}
    jobs = jobs_of(wanted, [*networks.values(), *parts], whole.again, whole.full, bench.settings.seed)
    outcome = measure_jobs(jobs, partial, bench, progress)
    _check(outcome, partial, bench.settings)
    table = _with_entries(table, wanted, partial, outcome)
    table = table.replace(date=date.today().isoformat(), parts=_parts(table, parts, partial))
    table = _with_whole(table, whole, partial)
    table.save(output)
    partial.remove()
    return table, outcome


def _empty(header: Header, settings: MeasureSettings) -> LatencyTable:
    today = date.today().isoformat()
    return LatencyTable(**dict(header), date=today, cooling=settings.cooling, reference=Reference(p50=1.0, drift=0.0), entries=[])


def _check(outcome: Outcome, partial: Partial, settings: MeasureSettings) -> None:
    if outcome.refused:
        named = "; ".join(outcome.refused[:4]) + ("; …" if len(outcome.refused) > 4 else "")
        raise RefusedError(
            f"{partial.path}: {len(outcome.refused)} measurements refused, the reference spread by more than "
            f"{settings.max_drift:.0%} beside {named}. The others are kept there: run again when the machine is quiet."
        )
    failed = [*outcome.failed.values(), *outcome.failed_whole.values()]
    if failed and not (partial.units or partial.whole):
        raise ArchsearchError(f"nothing could be measured; the first of {len(failed)} failures: {failed[0]}")


def _with_entries(table: LatencyTable, wanted: list[Unit], partial: Partial, outcome: Outcome) -> LatencyTable:
    """Turn ratios into times: by the reference of the table, if it has entries, else by its median over all sessions."""
    medians = partial.reference_medians()
    reference = table.reference
    if not (table.entries or table.whole):
        reference = Reference(p50=round(float(np.median(medians)), 6), drift=0.0)
    if medians:
        drift = max(reference.drift, round(relative_spread(medians), 4))
        reference = reference.model_copy(update={"drift": drift})
    new = [partial.units[unit].entry(unit, reference.p50) for unit in wanted if unit in partial.units]
    entries = sorted([*table.entries, *new], key=lambda entry: sort_key(entry.unit))
    reasons = {failure.unit: failure.reason for failure in table.failed} | outcome.failed
    known = {entry.unit for entry in entries}
    failed = [Failure(unit=unit, reason=reasons[unit]) for unit in sorted(reasons, key=sort_key) if unit not in known]
    return table.replace(reference=reference, entries=entries, failed=failed)


def _parts(table: LatencyTable, parts: Sequence[Part], partial: Partial) -> list[PartTime]:
    times = {line.part: line for line in table.parts}
    for part in parts:
        if sample := partial.get(part):
            n, p10, p50, p90 = sample.percentiles(table.reference.p50)
            times[part.name] = PartTime(part=part.name, n=n, p10=p10, p50=p50, p90=p90)
    return [times[name] for name in sorted(times)]


def _with_whole(table: LatencyTable, whole: WholeNetworks, partial: Partial) -> LatencyTable:
    """Add whole networks, measured and predicted; fit the correction first if asked to. What has failed units is left out."""
    raw = table.replace(correction=Correction())
    sums: dict[str, float] = {}
    for name, config in whole.named:
        try:
            sums[name] = predict(config, raw).latency_ms
        except MissingEntryError:
            continue  # a unit of it failed, or it did itself: the outcome names them
    lines = [
        whole_line(name, config, samples, table.reference.p50, table.correction.apply(sums[name]))
        for name, config in whole.named
        if name in sums and (samples := samples_of(config, partial))
    ]
    if whole.fit_on:
        fitted = {line.config: (sums[line.name or ""], line.measured) for line in lines if line.name in whole.fit_on}
        new, old = fit_correction([(digest, *pair) for digest, pair in fitted.items()]), table.correction
        lines = [line.predicting(new.apply(sums[line.name or ""])) for line in lines]
        kept = [line.predicting(new.apply((line.predicted - old.offset) / old.scale)) for line in table.whole]
        table = table.replace(correction=new, whole=kept)
    digests = {line.config for line in lines}
    return table.replace(whole=[*(line for line in table.whole if line.config not in digests), *lines])


def samples_of(config: UNetConfig, partial: Partial) -> dict[str, Sample]:
    """What was measured of a network, by variant; nothing where the first measurement is missing."""
    found = {variant: sample for variant in ("", AGAIN, FULL) if (sample := partial.get(config, variant))}
    return found if "" in found else {}


def whole_line(name: str, config: UNetConfig, samples: dict[str, Sample], reference_p50: float, predicted: float) -> Whole:
    """Line of a network in a table: all samples of its measurements together, but for the fully optimised one."""
    medians = [sample.p50(reference_p50) for variant, sample in samples.items() if variant != FULL]
    together = Sample.together([sample for variant, sample in samples.items() if variant != FULL])
    n, p10, p50, p90 = together.percentiles(reference_p50)
    measured = round(float(np.mean(medians)), 6) if len(medians) > 1 else p50
    return Whole(
        config=config.digest,
        name=name,
        measured=measured,
        predicted=round(predicted, 6),
        residual=round(predicted / measured - 1, 5),
        n=n,
        p10=p10,
        p90=p90,
        repeat=round(abs(medians[1] / medians[0] - 1), 5) if len(medians) > 1 else None,
        full=samples[FULL].p50(reference_p50) if FULL in samples else None,
    )
