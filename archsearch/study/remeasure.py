"""Measuring the front: what its networks and the presets really take here, beside what the tables
predicted.

The samples lie in ``RUN_DIR/remeasured``, one file a table, saved after each network: cut off
anywhere, it goes on from there.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from archsearch import files
from archsearch.catalog import trial_network
from archsearch.errors import InputError
from archsearch.latency.measure import header_of
from archsearch.latency.paired import MeasureSettings
from archsearch.latency.process import RemoteBench
from archsearch.latency.progress import Job, Measurer, Partial, Progress, measure_jobs
from archsearch.latency.table import Header, LatencyTable, PublishedTable
from archsearch.latency.things import name_of
from archsearch.runtimes.base import Runtime, facts
from archsearch.runtimes.registry import RUNTIMES
from archsearch.study.results import Results, ScoredTrial
from archsearch.study.rundir import RunDir
from archsearch.study.setting import Device, Setting
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import plan

Opener = Callable[[Runtime, MeasureSettings], Measurer]


@dataclass(frozen=True)
class Measured:
    """A network measured whole on a device of the study."""

    network: str
    device: str
    predicted: float
    measured: float
    p10: float
    p90: float
    note: str
    """What has to be said of the prediction."""

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted / self.measured - 1


@dataclass
class Remeasured:
    """What came of measuring a run's front."""

    lines: list[Measured] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Devices that cannot be measured here, and why."""
    failed: list[str] = field(default_factory=list)
    """Networks that could not be measured, and why."""


def runtime_of(table: Header, runtimes: Iterable[Runtime] | None = None) -> Runtime:
    """The runtime that measures on this machine under the very conditions of ``table``.

    Raises:
        InputError: There is none; the message says what differs.
    """
    reasons = []
    for runtime in RUNTIMES.values() if runtimes is None else runtimes:
        if runtime.library != table.runtime.split()[0]:
            continue
        if reason := runtime.available():
            reasons.append(f"{runtime.name} does not run here: {reason}")
            continue
        try:
            here = header_of(facts(runtime), settings_of(table))
        except InputError as error:
            reasons.append(str(error))
            continue
        differing = [
            name for name in Header.model_fields if getattr(here, name) != getattr(table, name)
        ]
        if not differing:
            return runtime
        reasons.append(
            ", ".join(
                f"{name} ({getattr(table, name)!r} there, {getattr(here, name)!r} here)"
                for name in differing
            )
        )
    raise InputError(
        min(reasons, key=len) if reasons else f"no runtime here is {table.runtime.split()[0]}"
    )


def settings_of(table: Header) -> MeasureSettings:
    """How a table was measured; every network is saved, since one takes seconds."""
    return MeasureSettings(
        warmup=table.warmup,
        runs=table.runs,
        threads=table.threads,
        device=table.device,
        save_every=1,
    )


def _in_its_own_process(runtime: Runtime, settings: MeasureSettings) -> Measurer:
    return RemoteBench(runtime.name, settings)


def remeasure(
    results: Results, progress: Progress | None = None, open_bench: Opener | None = None
) -> Remeasured:
    """Measure the front and the presets whole with every measured table of this machine; into each
    trial's ``metrics.json``.

    Raises:
        InputError: The study has no table, or what was measured before was so under other
            conditions.
    """
    open_bench = open_bench or _in_its_own_process
    setting, run = results.setting, results.run
    if not setting.devices:
        raise InputError(
            "--remeasure-front: the study has no latency table (deployment.tables), so there is "
            "nothing to measure."
        )
    trials = {trial.number: trial for trial in results.shown()}
    networks = {number: trial_network(run.path, number) for number in trials}
    found = Remeasured()
    for device in setting.devices:
        if isinstance(device.table, PublishedTable):
            found.skipped[device.name] = "published figures: there is no runtime to measure with"
            continue
        try:
            runtime = runtime_of(device.table)
        except InputError as error:
            found.skipped[device.name] = f"not measured on this machine with what is here: {error}"
            continue
        partial = _measure(
            run, device, device.table, runtime, networks.values(), found, progress, open_bench
        )
        for number, trial in trials.items():
            if line := _line(setting, device, device.table, trial, networks[number], partial):
                _keep(results, number, line)
                found.lines.append(line)
    return found


def _measure(
    run: RunDir,
    device: Device,
    table: LatencyTable,
    runtime: Runtime,
    networks: Iterable[UNetConfig],
    found: Remeasured,
    progress: Progress | None,
    open_bench: Opener,
) -> Partial:
    """Measure what is not yet; a network that several trials share once."""
    settings = settings_of(table)
    partial = Partial.open(run.remeasured / device.path.name, header_of(facts(runtime), settings))
    jobs = [Job(config) for config in {config.digest: config for config in networks}.values()]
    if all(partial.get(job.thing) for job in jobs):
        return partial
    outcome = measure_jobs(jobs, partial, open_bench(runtime, settings), progress)
    limit = f"{settings.max_drift:.0%}"
    found.failed += [
        f"{device.name}: {name}: the reference spread by more than {limit}"
        for name in outcome.refused
    ]
    found.failed += [
        f"{device.name}: {name}: {reason}" for name, reason in outcome.failed_whole.items()
    ]
    return partial


def _line(
    setting: Setting,
    device: Device,
    table: LatencyTable,
    trial: ScoredTrial,
    config: UNetConfig,
    partial: Partial,
) -> Measured | None:
    sample = partial.get(config)
    if sample is None:
        return None
    prediction = device.predict(plan(config), setting.spec.deployment.on_missing)
    _, p10, p50, p90 = sample.percentiles(
        table.reference.p50
    )  # in the table's own time, as its entries are
    name = trial.preset or f"#{trial.number} ({name_of(config)})"
    return Measured(name, device.name, prediction.latency_ms, p50, p10, p90, prediction.mark)


def _keep(results: Results, number: int, line: Measured) -> None:
    metrics: dict[str, Any] = results.metrics_of(number)
    lines = metrics.get("measured", {})
    lines[line.device] = {
        "predicted": line.predicted, "measured": line.measured, "p10": line.p10, "p90": line.p90, "error": round(line.error, 5)
    }  # fmt: skip
    files.write_json(results.run.trial(number) / "metrics.json", metrics | {"measured": lines})
