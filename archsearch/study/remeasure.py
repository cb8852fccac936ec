"""Measuring the front: what its networks and the presets really take here, beside what the tables
predicted.

The samples lie in ``RUN_DIR/remeasured``, one file a table, saved after each network: cut off
anywhere, it goes on from there.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from archsearch import files
from archsearch.errors import InputError
from archsearch.latency.measure import Progress, differences, header_of, measure_networks
from archsearch.latency.paired import Measurer
from archsearch.latency.stopwatch import MeasureSettings
from archsearch.latency.table import Header, PublishedTable
from archsearch.latency.workload import name_of
from archsearch.runtimes.base import Runtime, facts
from archsearch.runtimes.registry import RUNTIMES
from archsearch.study.results import Results
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
        differing = differences(here, table)
        if not differing:
            return runtime
        reasons.append(differing)
    raise InputError(
        min(reasons, key=len) if reasons else f"no runtime here is {table.runtime.split()[0]}"
    )


def settings_of(table: Header) -> MeasureSettings:
    """How a table was measured; every network is saved, since one takes seconds."""
    return MeasureSettings(
        warmup=table.warmup,
        runs=table.runs,
        threads=table.threads,
        clock=table.clock,
        device=table.device,
        save_every=1,
    )


def remeasure(
    results: Results, progress: Progress | None = None, open_bench: Opener | None = None
) -> Remeasured:
    """Measure the front and the presets whole with every measured table of this machine; into each
    trial's ``metrics.json``.

    Raises:
        InputError: The study has no table, or what was measured before was so under other
            conditions.
    """
    setting, run = results.setting, results.run
    if not setting.devices:
        raise InputError(
            "--remeasure-front: the study has no latency table (deployment.tables), so there is "
            "nothing to measure."
        )
    trials = {trial.number: trial for trial in results.shown()}
    networks = {number: results.trials.network(number) for number in trials}
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
        settings = settings_of(device.table)
        outcome = measure_networks(
            networks.values(),
            runtime,
            settings,
            run.remeasured / device.path.name,
            progress,
            open_bench,
        )
        found.failed += [
            f"{device.name}: {name}: the reference spread by more than {settings.max_drift:.0%}"
            for name in outcome.refused
        ]
        found.failed += [
            f"{device.name}: {name}: {reason}" for name, reason in outcome.failed.items()
        ]
        for number, trial in trials.items():
            config = networks[number]
            if sample := outcome.samples.get(config.digest):
                table = device.table
                prediction = device.predict(plan(config), setting.spec.deployment.on_missing)
                # In the table's own time, as its entries are.
                _, p10, p50, p90 = sample.percentiles(table.reference.p50)
                name = trial.preset or f"#{number} ({name_of(config)})"
                line = Measured(
                    name, device.name, prediction.latency_ms, p50, p10, p90, prediction.mark
                )
                _keep(results, number, line)
                found.lines.append(line)
    return found


def _keep(results: Results, number: int, line: Measured) -> None:
    metrics: dict[str, Any] = results.metrics_of(number)
    lines = metrics.get("measured", {})
    lines[line.device] = {
        name: getattr(line, name) for name in ("predicted", "measured", "p10", "p90")
    } | {"error": round(line.error, 5)}
    files.write_json(results.run.trial(number) / "metrics.json", metrics | {"measured": lines})
    results.run.artifacts.push(f"trials/{number}/metrics.json")
