"""What comes back from a phone: the output of every tool becomes ``Results``, and these a table."""

import math
import re
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from archsearch import documents
from archsearch.errors import ArchsearchError, InputError
from archsearch.files import read_bytes
from archsearch.latency.measure import RefusedError, whole_of
from archsearch.latency.paired import Sample
from archsearch.latency.parts import Part
from archsearch.latency.phone.bundle import REFERENCE_KEY, Manifest
from archsearch.latency.predict import MissingEntryError, predict
from archsearch.latency.stopwatch import relative_spread
from archsearch.latency.table import (
    Count,
    Entry,
    Failure,
    Frozen,
    LatencyTable,
    Milliseconds,
    PartTime,
    Reference,
    parse,
    sort_key,
)
from archsearch.latency.workload import is_unit, name_of
from archsearch.unet.config import UNetConfig

NAMED = 4  # so many models are named in a message


class Measured(Frozen):
    """A model's samples: ratios to the reference, and the times of the reference around each; two
    medians, of before and after, where the tool measures the reference on its own.
    """

    key: str
    ratios: list[Milliseconds] = Field(min_length=1)
    reference_ms: list[Milliseconds] = Field(min_length=2)

    @model_validator(mode="after")
    def _between(self) -> "Measured":
        if len(self.reference_ms) not in (2, len(self.ratios) + 1):
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
    """What was measured of a bundle: the file ``results.json`` of ``run_onnx.py`` and
    ``bench_coreml``, and what ``read_folder`` makes of the logs of other tools.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    bundle: str
    tool: str
    version: str | None = None  # version of the library on the device, where the tool tells
    machine: str | None = None
    threads: Count | None = None
    measured: list[Measured]
    failed: list[Failed] = Field(default_factory=list)


ITERATION = re.compile(r"Iteration (\d+) of (\d+): (\S+) ms")
TOTAL = re.compile(r"Model executed successfully (\d+) time\(s\) in (\S+) ms")


def _read_executor_log(log: Path, text: str, warmup: int) -> list[float]:
    # Times of ``executor_runner``'s runs in ms.
    #
    # From the ``Iteration`` lines, without the first ``warmup``. Where an older version prints
    # none, the mean of all runs, warm-up among them, is the only time: then n = 1 and p10 = p50 =
    # p90.
    total = TOTAL.search(text)
    if not total:
        raise InputError(
            f"{log}: has no 'Model executed successfully … time(s) in … ms': cut short, or of "
            "a version without times?"
        )
    count = int(total[1])
    times = [_ms(found[3], f"{log}: iteration {found[1]}") for found in ITERATION.finditer(text)]
    if not times:
        if count < 1:
            raise InputError(f"{log}: the model was executed {count} times.")
        return [_ms(total[2], f"{log}: total") / count]
    if len(times) != count:
        raise InputError(
            f"{log}: {len(times)} iterations are listed of {count}: lines are missing."
        )
    return _warm(times, warmup, log)


AVERAGE = re.compile(r"^Average inference time cost:\s*(\S+)\s*ms", re.MULTILINE)


def _read_perf_test(log: Path, text: str, warmup: int) -> list[float]:
    # Times of ``onnxruntime_perf_test``'s runs in ms.
    #
    # From the table of runs beside the log (.csv), without the first ``warmup`` of them: the tool
    # itself warms up with one run only. Where there is no table, the average of all runs (warm-up
    # among them, but for that one) is the only time: then n = 1 and p10 = p50 = p90.
    table = log.with_suffix(".csv")
    if not table.exists():
        average = AVERAGE.search(text)
        if not average:
            raise InputError(
                f"{log}: has no 'Average inference time cost: … ms', and there is no "
                f"{table.name} beside it."
            )
        return [_ms(average[1], f"{log}: Average inference time cost")]
    times = []
    for number, line in enumerate(_text(table).splitlines(), start=1):
        if not line.strip():
            break  # statistics follow
        columns = line.rsplit(",", maxsplit=5)
        if len(columns) not in (5, 6):  # newer versions also write the time of submission
            raise InputError(
                f"{table}: line {number}: {len(columns)} columns, where the tool writes 5 or 6: "
                "cut short?"
            )
        times.append(1000 * _ms(columns[len(columns) - 4], f"{table}: line {number}"))
    return _warm(times, warmup, table)


def _ms(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{where}: a time was expected, but got {text!r}.") from error


def _warm(times: list[float], warmup: int, path: Path) -> list[float]:
    if len(times) <= warmup:
        raise InputError(f"{path}: has {len(times)} runs, but {warmup} of them warm up: cut short?")
    return times[warmup:]


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error


# What measures one file a start, by the bundle's format, and what reads its logs.
TOOLS = {
    "onnx": ("onnxruntime_perf_test", _read_perf_test),
    "executorch": ("executor_runner", _read_executor_log),
}
LOG = re.compile(r"^(\d{5})\.([a-z0-9_-]+)\.log$")
EXIT = re.compile(r"^exit code: (\d+)\s*$", re.MULTILINE)


def _read_folder(folder: Path, manifest: Manifest) -> Results:
    # Read what ``run_onnx_android.sh`` or ``run_executorch_android.sh`` collected.
    #
    # A model's times are divided by the mean of two medians: of the reference's last run before it
    # and of its next run after it. What has no reference on both sides, as where measuring was cut
    # off, is left out.
    if manifest.conditions.format not in TOOLS:
        raise InputError(
            f"{folder}: is a folder, but Core ML's results are one file, which bench_coreml writes."
        )
    tool, read = TOOLS[manifest.conditions.format]
    if not (folder / "bundle.txt").exists():
        raise InputError(
            f"{folder}: has no bundle.txt, which the bundle's script writes: not results of a "
            "bundle?"
        )
    bundle = _text(folder / "bundle.txt").strip()[:40]
    _check_bundle(bundle, folder / "bundle.txt", manifest)
    order, known = manifest.order(), manifest.by_key
    logs = sorted(path for path in folder.iterdir() if path.suffix == ".log")
    if not logs:
        raise InputError(f"{folder}: has no logs of runs, <number>.<key>.log.")
    measured, failed = list[Measured](), list[Failed]()
    before: float | None = None  # median of the reference in ms
    waiting: list[tuple[str, list[float]]] = []  # runs of models since then
    for path in logs:
        match = LOG.match(path.name)
        if not match or match[2] not in known:
            raise InputError(
                f"{path}: is not of this bundle: a log is called <number>.<key>.log, with a key "
                "of its manifest."
            )
        number, key = int(match[1]), match[2]
        if not 1 <= number <= len(order) or order[number - 1] != key:
            raise InputError(f"{path}: run {number} of this bundle is not {key}.")
        text = _text(path)
        ended = EXIT.search(text)
        if not ended:
            if path == logs[-1]:
                break  # cut off there: the rest is missing, and will be named so
            raise InputError(f"{path}: is cut short: it does not end with 'exit code: <n>'.")
        if code := int(ended[1]):
            said = [line.strip() for line in text.splitlines() if line.strip()]
            said = [line for line in said if not EXIT.match(line)] or ["nothing was printed"]
            if key != REFERENCE_KEY:
                failed.append(Failed(key=key, reason=f"exit code {code}: {said[-1][:300]}"))
            continue
        times = read(path, text, manifest.conditions.warmup)
        for index, ms in enumerate(times, start=1):
            if not (math.isfinite(ms) and ms > 0):
                raise InputError(f"{path}: run {index}: a time must be positive, but got {ms} ms.")
        if key != REFERENCE_KEY:
            waiting.append((key, times))
            continue
        after = float(np.median(times))
        if before is not None:
            around, mean = [before, after], (before + after) / 2
            measured += [
                Measured(key=model, ratios=[ms / mean for ms in runs], reference_ms=around)
                for model, runs in waiting
            ]
        before, waiting = after, []
    return Results(bundle=bundle, tool=tool, measured=measured, failed=failed)


def _read_results(path: Path, manifest: Manifest) -> Results:
    results = parse(documents.read(path), Results)
    _check_bundle(results.bundle, path, manifest)
    known, seen = set(manifest.by_key) - {REFERENCE_KEY}, set[str]()
    keys = [each.key for each in results.measured] + [each.key for each in results.failed]
    for index, key in enumerate(keys):
        if key not in known or key in seen:
            raise InputError(
                f"{path}: model {index}: key: {key!r} is "
                f"{'given twice' if key in seen else 'not in the bundle'}."
            )
        seen.add(key)
    return results


def _check_bundle(bundle: str, path: Path, manifest: Manifest) -> None:
    if bundle != manifest.bundle:
        raise InputError(
            f"{path}: bundle: these are results of bundle {bundle!r}, not of this one, "
            f"{manifest.bundle!r}."
        )


@dataclass
class Imported:
    """The table, and what is not in it.

    Attributes:
        missing: Models without a result, as ``name_of`` calls them.
        failed: What could not be converted or run, and why.
        unpredicted: Networks that were measured, but whose units were not all: a table keeps only
            what it can predict too.
    """

    table: LatencyTable
    missing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unpredicted: list[str] = field(default_factory=list)


def import_results(
    bundle: Path,
    path: Path,
    device: str,
    soc: str,
    os: str,
    runtime_version: str | None = None,
    cooling: str = "not recorded",
    max_drift: float = 0.25,
) -> Imported:
    """Read results of a bundle.

    Every time is a ratio to the reference, times the reference's median over all measurements.
    Where a tool gives times of single runs, percentiles are of these; where it gives an average
    only, that stands as p10, p50 and p90 with n = 1.

    Args:
        bundle: The bundle's folder, as it was carried to the device; its manifest is enough.
        path: A file of ``run_onnx.py`` or ``bench_coreml``, or the folder ``results`` of the
            other scripts.
        device: Name of the device, as tables are called after it.
        soc: Its chip.
        os: Its system and version.
        runtime_version: Version of the runtime there, where the results do not tell.
        cooling: How it was kept cool.
        max_drift: Spread of the reference beside a model, (p90 - p10) / p50, above which it is
            refused.

    Raises:
        InputError: The results are not of this bundle, cut short or not valid, or the runtime's
            version is not known.
        RefusedError: The reference drifted too much beside a model.
        ArchsearchError: Nothing was measured.
    """
    manifest = Manifest.load(bundle)
    results = _read_folder(path, manifest) if path.is_dir() else _read_results(path, manifest)
    samples = {
        each.key: Sample(ratios=each.ratios, reference=each.reference_ms)
        for each in results.measured
    }
    reasons = {each.key: each.reason for each in results.failed}
    if not samples:
        why = next(iter(reasons.values()), "no model lies between two runs of the reference")
        raise ArchsearchError(f"{path}: nothing was measured: {why}")
    workloads = {item.key: manifest.workload_of(item) for item in manifest.items}
    if drifting := {key: each.drift for key, each in samples.items() if each.drift > max_drift}:
        named = [f"{name_of(workloads[key])} ({drift:.0%})" for key, drift in drifting.items()]
        raise RefusedError(
            f"{path}: {len(drifting)} measurements refused, the reference spread by more than "
            f"{max_drift:.0%} beside {'; '.join(named[:NAMED])}"
            f"{'; …' if len(drifting) > NAMED else ''}. Let the device cool down, close what else "
            "runs on it and measure again, or allow more with --max-drift."
        )
    conditions = manifest.conditions
    version = (runtime_version or results.version or "").strip()
    if not version:
        raise InputError(
            f"{path}: does not tell the version of {conditions.library} on the device; give "
            "--runtime-version."
        )
    medians = [sample.reference_p50 for sample in samples.values()]
    p50 = round(float(np.median(medians)), 6)
    reference = Reference(p50=p50, drift=round(relative_spread(medians), 4))
    missing, unpredicted, failed = list[str](), list[str](), dict[str, str]()
    entries, failures, parts = list[Entry](), list[Failure](), list[PartTime]()
    networks: list[tuple[str, UNetConfig, Sample]] = []
    for item in manifest.items[1:]:
        workload, sample = workloads[item.key], samples.get(item.key)
        called = item.name or name_of(workload)
        if reason := item.failed or reasons.get(item.key):
            failed[called] = reason
            if is_unit(workload):
                failures.append(Failure(unit=workload, reason=reason))
        elif sample is None:
            missing.append(called)
        elif isinstance(workload, UNetConfig):
            networks.append((item.name or workload.digest, workload, sample))
        else:
            times = sample.percentiles(p50)._asdict()
            if isinstance(workload, Part):
                parts.append(PartTime(part=workload.name, **times))
            else:
                entries.append(Entry(unit=workload, **times))
    given = {
        "schema": 1,
        "device": device,
        "soc": soc,
        "os": os,
        "runtime": f"{conditions.library} {version}",
        "graph_level": conditions.graph_level,
        "compute_unit": conditions.compute_unit,
        "dtype": conditions.dtype,
        "layout": conditions.layout,
        "threads": results.threads or conditions.threads,
        "warmup": conditions.warmup,
        "runs": conditions.runs,
        "date": date.today().isoformat(),
        "cooling": cooling,
        "reference": reference,
        "entries": sorted(entries, key=lambda entry: sort_key(entry.unit)),
        "failed": failures,
        "parts": sorted(parts, key=lambda part: part.part),
    }
    table = documents.validate(documents.Document(path, given), LatencyTable)
    whole = []
    for name, config, sample in networks:
        try:
            predicted = predict(config, table).latency_ms
        except MissingEntryError:
            unpredicted.append(name)
            continue
        whole.append(whole_of(name, config, {"": sample}, p50, predicted))
    return Imported(table.replace(whole=whole), missing, failed, unpredicted)
