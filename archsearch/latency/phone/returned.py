"""A latency table from what came back from a device."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.bench import RefusedError
from archsearch.latency.document import explain
from archsearch.latency.keys import sort_key
from archsearch.latency.lines import Failure, Reference, Whole
from archsearch.latency.paired import Sample, relative_spread
from archsearch.latency.parts import Part
from archsearch.latency.phone.manifest import REFERENCE_KEY, Item, Manifest
from archsearch.latency.phone.read_files import read_folder
from archsearch.latency.phone.read_json import read_results
from archsearch.latency.phone.timings import Returned
from archsearch.latency.predict import MissingEntryError, predict
from archsearch.latency.table import LatencyTable
from archsearch.latency.things import Thing, name_of
from archsearch.latency.whole import whole_line
from archsearch.unet.config import UNetConfig
from archsearch.unet.units import Unit

NAMED = 4


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What the user says of the device; the results do not."""

    device: str
    soc: str
    os: str
    runtime_version: str | None = None
    cooling: str = "not recorded"


@dataclass
class Imported:
    """The table, and what is not in it."""

    table: LatencyTable
    missing: list[str] = field(default_factory=list)
    """Models without a result, as ``things.name_of`` calls them."""
    failed: dict[str, str] = field(default_factory=dict)
    """What could not be converted or run, and why."""
    unpredicted: list[str] = field(default_factory=list)
    """Networks that were measured, but whose units were not all: a table keeps only what it can predict too."""


def import_results(bundle: Path, results: Path, facts: DeviceFacts, max_drift: float = 0.25) -> Imported:
    """Read results of a bundle.

    Every time is a ratio to the reference, times the reference's median over all measurements. Where a tool gives times of single
    runs, percentiles are of these; where it gives an average only, that stands as p10, p50 and p90 with n = 1.

    Args:
        bundle: The bundle's folder, as it was carried to the device; its manifest is enough.
        results: A file of ``run_onnx.py`` or ``bench_coreml``, or the folder ``results`` of the other scripts.
        facts: The device.
        max_drift: Spread of the reference beside a model, (p90 - p10) / p50, above which it is refused.

    Raises:
        InputError: The results are not of this bundle, cut short or not valid, or the runtime's version is not known.
        RefusedError: The reference drifted too much beside a model.
        ArchsearchError: Nothing was measured.
    """
    manifest = Manifest.load(bundle)
    if results.is_dir():
        if manifest.conditions.format == "coreml":
            raise InputError(f"{results}: is a folder, but Core ML's results are one file, which bench_coreml writes.")
        returned = read_folder(results, manifest)
    else:
        returned = read_results(results, manifest)
    _check(returned, manifest, results, max_drift)
    table = _table(returned, manifest, facts, results)
    imported = Imported(table)
    for item in manifest.items[1:]:
        called = item.name or name_of(manifest.thing_of(item))
        if reason := item.failed or returned.failed.get(item.key):
            imported.failed[called] = reason
        elif item.key not in returned.samples:
            imported.missing.append(called)
    imported.table, imported.unpredicted = _with_whole(table, _measured(manifest, returned))
    return imported


def _check(returned: Returned, manifest: Manifest, results: Path, max_drift: float) -> None:
    if not returned.samples:
        reason = next(iter(returned.failed.values()), "no model lies between two runs of the reference")
        raise ArchsearchError(f"{results}: nothing was measured: {reason}")
    drifting = [(key, sample.drift) for key, sample in returned.samples.items() if sample.drift > max_drift]
    if drifting:
        items = manifest.by_key
        named = [f"{name_of(manifest.thing_of(items[key]))} ({drift:.0%})" for key, drift in drifting[:NAMED]]
        raise RefusedError(
            f"{results}: {len(drifting)} measurements refused, the reference spread by more than {max_drift:.0%} beside "
            f"{'; '.join(named)}{'; …' if len(drifting) > NAMED else ''}. Let the device cool down, close what else runs on it and "
            "measure again, or allow more with --max-drift."
        )


def _table(returned: Returned, manifest: Manifest, facts: DeviceFacts, results: Path) -> LatencyTable:
    conditions = manifest.conditions
    version = (facts.runtime_version or returned.version or "").strip()
    if not version:
        raise InputError(f"{results}: does not tell the version of {conditions.library} on the device; give --runtime-version.")
    medians = [sample.reference_p50 for sample in returned.samples.values()]
    reference = Reference(p50=round(float(np.median(medians)), 6), drift=round(relative_spread(medians), 4))
    measured = [(thing, sample) for _, thing, sample in _measured(manifest, returned)]
    units = [(thing, sample) for thing, sample in measured if isinstance(thing, Unit)]
    reasons = {item.key: item.failed for item in manifest.items if item.failed} | returned.failed
    failed = [(manifest.thing_of(manifest.by_key[key]), reason) for key, reason in reasons.items()]
    parts = [(thing, sample) for thing, sample in measured if isinstance(thing, Part)]
    try:
        return LatencyTable(
            device=facts.device,
            soc=facts.soc,
            os=facts.os,
            runtime=f"{conditions.library} {version}",
            graph_level=conditions.graph_level,
            compute_unit=conditions.compute_unit,
            dtype=conditions.dtype,
            layout=conditions.layout,
            threads=returned.threads or conditions.threads,
            warmup=conditions.warmup,
            runs=conditions.runs,
            date=date.today().isoformat(),
            cooling=facts.cooling,
            reference=reference,
            entries=[sample.entry(unit, reference.p50) for unit, sample in sorted(units, key=lambda each: sort_key(each[0]))],
            failed=[Failure(unit=unit, reason=reason) for unit, reason in failed if isinstance(unit, Unit)],
            parts=[sample.part(part.name, reference.p50) for part, sample in sorted(parts, key=lambda each: each[0].name)],
        )
    except ValidationError as error:
        raise InputError(f"{results}: {explain(error, LatencyTable)}") from error


def _with_whole(table: LatencyTable, measured: Iterable[tuple[Item, Thing, Sample]]) -> tuple[LatencyTable, list[str]]:
    lines: list[Whole] = []
    unpredicted = []
    for item, config, sample in measured:
        if not isinstance(config, UNetConfig):
            continue
        name = item.name or config.digest
        try:
            predicted = predict(config, table).latency_ms
        except MissingEntryError:
            unpredicted.append(name)
            continue
        lines.append(whole_line(name, config, {"": sample}, table.reference.p50, predicted))
    return table.replace(whole=lines), unpredicted


def _measured(manifest: Manifest, returned: Returned) -> list[tuple[Item, Thing, Sample]]:
    """What was measured, but for the reference."""
    items = [item for item in manifest.items if item.key != REFERENCE_KEY and item.key in returned.samples]
    return [(item, manifest.thing_of(item), returned.samples[item.key]) for item in items]
