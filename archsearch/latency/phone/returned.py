"""What comes back from a phone, read into a table."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.measure import RefusedError
from archsearch.latency.paired import Sample, relative_spread
from archsearch.latency.parts import Part
from archsearch.latency.phone.bundle import REFERENCE_KEY, Item, Manifest
from archsearch.latency.predict import MissingEntryError, predict
from archsearch.latency.table import (
    Count,
    Failure,
    Frozen,
    LatencyTable,
    Milliseconds,
    Reference,
    Whole,
    explain,
    read_json,
    sort_key,
)
from archsearch.latency.things import Thing, name_of
from archsearch.latency.whole import whole_line
from archsearch.unet.config import UNetConfig
from archsearch.unet.units import Unit


@dataclass(frozen=True, slots=True)
class Timing:
    """One run of a tool on one model: times in ms, or why there are none."""

    key: str
    times_ms: tuple[float, ...] = ()
    failed: str | None = None


@dataclass
class Returned:
    """What came back from a device, by key."""

    samples: dict[str, Sample] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    version: str | None = None
    """Version of the library there, where the results tell."""
    threads: int | None = None


def read_ms(text: str, path: Path, where: str) -> float:
    """Read a time as a tool wrote it.

    Raises:
        InputError: It is no number; ``where`` in ``path`` says which.
    """
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{path}: {where}: a time was expected, but got {text!r}.") from error


def pair(timings: Sequence[Timing]) -> Returned:
    """Turn timings, in the order of measuring, into samples.

    A thing's times are divided by the mean of two medians: of the reference's last run before it
    and of its next run after it. What has no reference on both sides, as where measuring was cut
    off, is left out.
    """
    returned = Returned()
    reference = {
        index: float(np.median(each.times_ms))
        for index, each in enumerate(timings)
        if _is_reference(each)
    }
    for index, timing in enumerate(timings):
        if timing.key == REFERENCE_KEY:
            continue
        if timing.failed is not None:
            returned.failed[timing.key] = timing.failed
            continue
        before = next((reference[at] for at in range(index, -1, -1) if at in reference), None)
        after = next((reference[at] for at in range(index, len(timings)) if at in reference), None)
        if before is not None and after is not None:
            mean = (before + after) / 2
            returned.samples[timing.key] = Sample(
                ratios=[ms / mean for ms in timing.times_ms], reference=[before, after]
            )
    return returned


def _is_reference(timing: Timing) -> bool:
    return timing.key == REFERENCE_KEY and timing.failed is None


NUMBER = r"(\S+)"
ITERATION = re.compile(rf"Iteration (\d+) of (\d+): {NUMBER} ms")
TOTAL = re.compile(rf"Model executed successfully (\d+) time\(s\) in {NUMBER} ms")


def read_executor_log(path: Path, text: str, warmup: int) -> list[float]:
    """Times of the runs in ms.

    From the ``Iteration`` lines, without the first ``warmup``. Where an older version prints none,
    the mean of all runs, warm-up among them, is the only time: then n = 1 and p10 = p50 = p90.

    Raises:
        InputError: The log tells no time, or is cut short.
    """
    total = TOTAL.search(text)
    if not total:
        raise InputError(
            f"{path}: has no 'Model executed successfully … time(s) in … ms': cut short, or of "
            "a version without times?"
        )
    count = int(total[1])
    times = [read_ms(found[3], path, f"iteration {found[1]}") for found in ITERATION.finditer(text)]
    if not times:
        if count < 1:
            raise InputError(f"{path}: the model was executed {count} times.")
        return [read_ms(total[2], path, "total") / count]
    if len(times) != count:
        raise InputError(
            f"{path}: {len(times)} iterations are listed of {count}: lines are missing."
        )
    if count <= warmup:
        raise InputError(f"{path}: has {count} runs, but {warmup} of them warm up.")
    return times[warmup:]


AVERAGE = re.compile(r"^Average inference time cost:\s*(\S+)\s*ms", re.MULTILINE)
COLUMNS = (5, 6)


def read_perf_test(table: Path, log: Path, text: str, warmup: int) -> list[float]:
    """Times of the runs in ms.

    From the table of runs, without the first ``warmup`` of them: the tool itself warms up with one
    run only. Where there is no table, the average of all runs (warm-up among them, but for that
    one) is the only time: then n = 1 and p10 = p50 = p90.

    Raises:
        InputError: There is neither, or a line is not of the tool's form.
    """
    if not table.exists():
        average = AVERAGE.search(text)
        if not average:
            raise InputError(
                f"{log}: has no 'Average inference time cost: … ms', and there is no "
                f"{table.name} beside it."
            )
        return [read_ms(average[1], log, "Average inference time cost")]
    times = []
    for number, line in enumerate(
        table.read_text(encoding="utf-8", errors="replace").splitlines(), start=1
    ):
        if not line.strip():
            break  # statistics follow
        columns = line.rsplit(",", maxsplit=max(COLUMNS) - 1)
        if len(columns) not in COLUMNS:
            raise InputError(
                f"{table}: line {number}: {len(columns)} columns, where the tool writes 5 or 6: "
                "cut short?"
            )
        times.append(
            1000 * read_ms(columns[1 if len(columns) == 5 else 2], table, f"line {number}")
        )
    if len(times) <= warmup:
        raise InputError(
            f"{table}: has {len(times)} runs, but {warmup} of them warm up: cut short?"
        )
    return times[warmup:]


NAME = re.compile(r"^(\d{5})\.([a-z0-9_-]+)\.log$")
EXIT = re.compile(r"^exit code: (\d+)\s*$", re.MULTILINE)


def read_folder(folder: Path, manifest: Manifest) -> Returned:
    """Read what ``run_onnx_android.sh`` or ``run_executorch_android.sh`` collected.

    Raises:
        InputError: It is of another bundle, cut short (but for the last run), or holds times that
            are not positive.
    """
    _check_bundle(folder, manifest)
    order, known = manifest.order(), manifest.by_key
    logs = sorted(path for path in folder.iterdir() if path.suffix == ".log")
    if not logs:
        raise InputError(f"{folder}: has no logs of runs, <number>.<key>.log.")
    timings = []
    for path in logs:
        match = NAME.match(path.name)
        if not match or match[2] not in known:
            raise InputError(
                f"{path}: is not of this bundle: a log is called <number>.<key>.log, with a key "
                "of its manifest."
            )
        number = int(match[1])
        if not 1 <= number <= len(order) or order[number - 1] != match[2]:
            raise InputError(f"{path}: run {number} of this bundle is not {match[2]}.")
        text = _text(path)
        ended = EXIT.search(text)
        if not ended:
            if path == logs[-1]:
                break  # cut off there: the rest is missing, and will be named so
            raise InputError(f"{path}: is cut short: it does not end with 'exit code: <n>'.")
        timings.append(_timing(path, text, match[2], int(ended[1]), manifest))
    return pair(timings)


def _timing(path: Path, text: str, key: str, code: int, manifest: Manifest) -> Timing:
    if code:
        said = [line.strip() for line in text.splitlines() if line.strip() and not EXIT.match(line)]
        return Timing(
            key, failed=f"exit code {code}: {said[-1][:300] if said else 'nothing was printed'}"
        )
    warmup = manifest.conditions.warmup
    if manifest.conditions.format == "onnx":
        times = read_perf_test(path.with_suffix(".csv"), path, text, warmup)
    else:
        times = read_executor_log(path, text, warmup)
    for index, ms in enumerate(times):
        if not (math.isfinite(ms) and ms > 0):
            raise InputError(f"{path}: run {index + 1}: a time must be positive, but got {ms} ms.")
    return Timing(key, times_ms=tuple(times))


def _check_bundle(folder: Path, manifest: Manifest) -> None:
    path = folder / "bundle.txt"
    if not path.exists():
        raise InputError(
            f"{folder}: has no bundle.txt, which the bundle's script writes: not results of a "
            "bundle?"
        )
    found = _text(path).strip()
    if found != manifest.bundle:
        raise InputError(
            f"{path}: these are results of bundle {found[:40]!r}, not of this one, "
            f"{manifest.bundle!r}."
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error


class Measured(Frozen):
    """A model's samples: ratios to the reference, and one reference time in ms more than these."""

    key: str
    ratios: list[Milliseconds] = Field(min_length=1)
    reference_ms: list[Milliseconds] = Field(min_length=2)

    @model_validator(mode="after")
    def _between(self) -> "Measured":
        if len(self.reference_ms) != len(self.ratios) + 1:
            raise ValueError(
                f"reference_ms: one more than the {len(self.ratios)} ratios was expected, but "
                f"got {len(self.reference_ms)}"
            )
        return self


class Failed(Frozen):
    """A model that could not be loaded or run."""

    key: str
    reason: str


class Results(Frozen):
    """The file."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    bundle: str
    tool: str
    version: str
    machine: str
    threads: Count
    measured: list[Measured]
    failed: list[Failed] = Field(default_factory=list)


def read_results(path: Path, manifest: Manifest) -> Returned:
    """Read such a file.

    Raises:
        InputError: It is not valid, or of another bundle.
    """
    data = read_json(path)
    if not isinstance(data, dict) or data.get("schema") != 1:
        raise InputError(
            f"{path}: schema: must be 1, but got "
            f"{data.get('schema') if isinstance(data, dict) else None!r}."
        )
    try:
        results = Results.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error, Results)}") from error
    if results.bundle != manifest.bundle:
        raise InputError(
            f"{path}: bundle: these are results of {results.bundle!r}, not of this one, "
            f"{manifest.bundle!r}."
        )
    known, seen = set(manifest.by_key) - {REFERENCE_KEY}, set[str]()
    for index, key in enumerate(
        [*(each.key for each in results.measured), *(each.key for each in results.failed)]
    ):
        if key not in known or key in seen:
            raise InputError(
                f"{path}: model {index}: key: {key!r} is "
                f"{'given twice' if key in seen else 'not in the bundle'}."
            )
        seen.add(key)
    return Returned(
        samples={
            each.key: Sample(ratios=each.ratios, reference=each.reference_ms)
            for each in results.measured
        },
        failed={each.key: each.reason for each in results.failed},
        version=results.version,
        threads=results.threads,
    )


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
    """Networks that were measured, but whose units were not all: a table keeps only what it can
    predict too.
    """


def import_results(
    bundle: Path, results: Path, facts: DeviceFacts, max_drift: float = 0.25
) -> Imported:
    """Read results of a bundle.

    Every time is a ratio to the reference, times the reference's median over all measurements.
    Where a tool gives times of single runs, percentiles are of these; where it gives an average
    only, that stands as p10, p50 and p90 with n = 1.

    Args:
        bundle: The bundle's folder, as it was carried to the device; its manifest is enough.
        results: A file of ``run_onnx.py`` or ``bench_coreml``, or the folder ``results`` of the
            other scripts.
        facts: The device.
        max_drift: Spread of the reference beside a model, (p90 - p10) / p50, above which it is
            refused.

    Raises:
        InputError: The results are not of this bundle, cut short or not valid, or the runtime's
            version is not known.
        RefusedError: The reference drifted too much beside a model.
        ArchsearchError: Nothing was measured.
    """
    manifest = Manifest.load(bundle)
    if results.is_dir():
        if manifest.conditions.format == "coreml":
            raise InputError(
                f"{results}: is a folder, but Core ML's results are one file, which "
                "bench_coreml writes."
            )
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
        reason = next(
            iter(returned.failed.values()), "no model lies between two runs of the reference"
        )
        raise ArchsearchError(f"{results}: nothing was measured: {reason}")
    drifting = [
        (key, sample.drift) for key, sample in returned.samples.items() if sample.drift > max_drift
    ]
    if drifting:
        items = manifest.by_key
        named = [
            f"{name_of(manifest.thing_of(items[key]))} ({drift:.0%})"
            for key, drift in drifting[:NAMED]
        ]
        raise RefusedError(
            f"{results}: {len(drifting)} measurements refused, the reference spread by more "
            f"than {max_drift:.0%} beside "
            f"{'; '.join(named)}{'; …' if len(drifting) > NAMED else ''}. Let the device cool "
            "down, close what else runs on it and "
            "measure again, or allow more with --max-drift."
        )


def _table(
    returned: Returned, manifest: Manifest, facts: DeviceFacts, results: Path
) -> LatencyTable:
    conditions = manifest.conditions
    version = (facts.runtime_version or returned.version or "").strip()
    if not version:
        raise InputError(
            f"{results}: does not tell the version of {conditions.library} on the device; give "
            "--runtime-version."
        )
    medians = [sample.reference_p50 for sample in returned.samples.values()]
    reference = Reference(
        p50=round(float(np.median(medians)), 6), drift=round(relative_spread(medians), 4)
    )
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
            entries=[
                sample.entry(unit, reference.p50)
                for unit, sample in sorted(units, key=lambda each: sort_key(each[0]))
            ],
            failed=[
                Failure(unit=unit, reason=reason)
                for unit, reason in failed
                if isinstance(unit, Unit)
            ],
            parts=[
                sample.part(part.name, reference.p50)
                for part, sample in sorted(parts, key=lambda each: each[0].name)
            ],
        )
    except ValidationError as error:
        raise InputError(f"{results}: {explain(error, LatencyTable)}") from error


def _with_whole(
    table: LatencyTable, measured: Iterable[tuple[Item, Thing, Sample]]
) -> tuple[LatencyTable, list[str]]:
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
    items = [
        item
        for item in manifest.items
        if item.key != REFERENCE_KEY and item.key in returned.samples
    ]
    return [(item, manifest.thing_of(item), returned.samples[item.key]) for item in items]
