"""Measuring a latency table: every unit alone, paired with the reference block; resumable."""

import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date
from pathlib import Path

import numpy as np

from archsearch.errors import InputError
from archsearch.latency.bench import Bench, RefusedError
from archsearch.latency.correction import fit_correction
from archsearch.latency.device import this_device
from archsearch.latency.keys import keys_of, sort_key
from archsearch.latency.paired import MeasureSettings, relative_spread
from archsearch.latency.partial import Partial, check_same, partial_path
from archsearch.latency.predict import predict
from archsearch.latency.table import Correction, Header, LatencyTable, Reference, Whole
from archsearch.latency.things import name_of
from archsearch.runtimes.base import Runtime
from archsearch.unet.config import UNetConfig
from archsearch.unet.units import Unit

Progress = Callable[[int, int, float], None]
"""Called with what is done, the total, and the seconds that remain, estimated."""


def header_of(runtime: Runtime, settings: MeasureSettings) -> Header:
    """The conditions under which ``runtime`` measures on this machine."""
    device = this_device()
    return Header(
        device=device.device,
        soc=device.soc,
        os=device.os,
        runtime=f"{runtime.name} {runtime.version()}",
        graph_level=runtime.graph_level,
        compute_unit=runtime.compute_unit,
        dtype=runtime.dtype,
        threads=settings.threads,
        warmup=settings.warmup,
        runs=settings.runs,
    )


def build_table(
    units: Iterable[Unit],
    runtime: Runtime,
    settings: MeasureSettings,
    output: Path,
    whole: Sequence[tuple[str, UNetConfig]] = (),
    progress: Progress | None = None,
    fit_on: Collection[str] = (),
) -> LatencyTable:
    """Measure ``units`` and whole networks, and write the table to ``output``.

    Goes on where a run that was cut off had come to (``<output>.partial.json``, saved every few units and when interrupted). An
    ``output`` that is there keeps its entries, and only what it lacks is measured, scaled to its own reference.

    Args:
        units: What to measure, in any order; it is measured in a shuffled one, so that a drift of the machine is not one of kinds.
        runtime: What to measure with.
        settings: How to measure.
        output: File of the table.
        whole: Names and networks to measure as a whole; the units they need are measured as well.
        progress: Told after each measurement.
        fit_on: Names of networks in ``whole`` that the correction is fitted on; the others show how well it predicts.

    Raises:
        RefusedError: The reference drifted beside some units; the others are kept in the partial file, run again for the rest.
        InputError: The runtime does not run here, or ``output`` or its partial file was measured under other conditions.
        ArchsearchError: Something cannot be converted, or the table cannot be written.
    """
    unknown = sorted(set(fit_on) - {name for name, _ in whole})
    if unknown:
        raise InputError(f"fit_on: {', '.join(unknown)} not among the whole networks ({', '.join(n for n, _ in whole) or 'none'})")
    header = header_of(runtime, settings)
    existing = LatencyTable.load(output) if output.exists() else None
    if existing:
        check_same(header, existing, output)
    known = existing.by_unit if existing else {}
    wanted: list[Unit] = sorted({*units, *keys_of(config for _, config in whole)} - set(known), key=sort_key)
    if not (wanted or whole or existing):
        raise InputError(f"{output}: nothing to measure: no units and no networks were given.")
    partial = Partial.open(partial_path(output), header)
    refused = _measure_all(wanted, [config for _, config in whole], partial, Bench(runtime, settings), progress)
    if refused:
        named = "; ".join(refused[:4]) + ("; …" if len(refused) > 4 else "")
        raise RefusedError(
            f"{partial.path}: {len(refused)} measurements refused, the reference spread by more than "
            f"{settings.max_drift:.0%} beside {named}. The others are kept there: run again when the machine is quiet."
        )
    table = _assemble(header, settings, wanted, partial, existing)
    table = _add_whole(table, whole, partial, fit_on)
    table.save(output)
    partial.path.unlink(missing_ok=True)
    return table


def _measure_all(
    wanted: list[Unit], whole: list[UNetConfig], partial: Partial, bench: Bench, progress: Progress | None
) -> list[str]:
    """Measure what ``partial`` lacks into it. Returns the names of what was refused."""
    things: list[Unit | UNetConfig] = [unit for unit in wanted if unit not in partial.units]
    random.Random(bench.settings.seed).shuffle(things)
    things += {config.digest: config for config in whole if config.digest not in partial.whole}.values()
    total, start, refused = len(wanted) + len(whole), time.monotonic(), []
    before = total - len(things)
    try:
        for number, thing in enumerate(things, start=1):
            sample, quiet = bench.measure(thing)
            if not quiet:
                refused.append(f"{name_of(thing)} ({sample.drift:.0%})")
            elif isinstance(thing, UNetConfig):
                partial.whole[thing.digest] = sample
            else:
                partial.units[thing] = sample
            if number % bench.settings.save_every == 0:
                partial.save()
            if progress:
                progress(before + number, total, (time.monotonic() - start) / number * (len(things) - number))
    finally:
        bench.close()
        if partial.units or partial.whole:
            partial.save()
    return refused


def _assemble(
    header: Header, settings: MeasureSettings, wanted: list[Unit], partial: Partial, existing: LatencyTable | None
) -> LatencyTable:
    """Turn ratios into times: by the reference of ``existing``, else by its median over all sessions."""
    medians = partial.reference_medians()
    if existing:
        p50, drift = existing.reference.p50, existing.reference.drift
    else:
        p50, drift = round(float(np.median(medians)), 6), 0.0
    if medians:
        drift = max(drift, round(relative_spread(medians), 4))
    entries = [partial.units[unit].entry(unit, p50) for unit in wanted]
    entries = sorted([*(existing.entries if existing else ()), *entries], key=lambda entry: sort_key(entry.unit))
    return LatencyTable(
        **dict(header),
        date=date.today().isoformat(),
        cooling=settings.cooling,
        reference=Reference(p50=p50, drift=drift),
        entries=entries,
        correction=existing.correction if existing else Correction(),
        whole=existing.whole if existing else [],
    )


def _add_whole(
    table: LatencyTable, whole: Sequence[tuple[str, UNetConfig]], partial: Partial, fit_on: Collection[str]
) -> LatencyTable:
    """Add whole networks, measured and predicted; fit the correction first if asked to."""
    measured = {name: partial.whole[config.digest].p50(table.reference.p50) for name, config in whole}
    if fit_on:
        raw = table.replace(correction=Correction())
        sums = {name: predict(config, raw).latency_ms for name, config in whole}
        fitted = {config.digest: (sums[name], measured[name]) for name, config in whole if name in fit_on}
        table = _corrected(table, fit_correction([(digest, *pair) for digest, pair in fitted.items()]))
    added = [
        Whole(config=config.digest, name=name, measured=measured[name], predicted=round(predict(config, table).latency_ms, 6))
        for name, config in whole
    ]
    digests = {line.config for line in added}
    return table.replace(whole=[*(line for line in table.whole if line.config not in digests), *added])


def _corrected(table: LatencyTable, new: Correction) -> LatencyTable:
    """Give ``table`` another correction, in the predictions it keeps as well."""
    old = table.correction
    whole = [
        line.model_copy(update={"predicted": round((line.predicted - old.offset) / old.scale * new.scale + new.offset, 6)})
        for line in table.whole
    ]
    return table.replace(correction=new, whole=whole)
