"""Whether a study can be run at all, and what it would take, before it starts."""

import random
import shlex
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from archsearch.diffusion.recipe import pick_device
from archsearch.errors import InputError
from archsearch.latency.measure import processor
from archsearch.latency.predict import MissingEntryError, units_of
from archsearch.latency.table import PublishedTable
from archsearch.search_space.space import Point
from archsearch.study.rundir import free_disk_bytes
from archsearch.study.setting import InfeasibleError, OutsideFamilyError, Setting
from archsearch.study.spec import SAMPLED
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs
from archsearch.unet.plan import plan

DRAWS = 300
MAX_DRAWS = 3000
TIMED_CONFIGS = 5
ENDING_SHARE = 0.2
"""Of the minutes of a search, what scores and pictures at its end take, about."""
SAMPLING_BATCH = 32
"""Pictures that are drawn at a time."""


@dataclass(frozen=True)
class Feasibility:
    """What random points of a space are like."""

    drawn: int
    valid: int
    within_limits: int
    examples: list[UNetConfig]
    """Feasible architectures, the presets of the space among them."""
    broken: dict[str, int]
    """How often each rule or limit failed."""


def check_feasibility(setting: Setting, draws: int = DRAWS) -> Feasibility:
    """Draw points and check rules, latency entries and limits; more points where none is feasible
    at first.

    Raises:
        InputError: Latency entries are missing (named), or not one point is feasible (the limits
            are named).
    """
    rng, space = random.Random(setting.spec.search.seed), f"space '{setting.space.name}'"
    presets, found = _Draws(setting), _Draws(setting)
    for point in setting.presets().values():
        presets.take(point)
    found.missing = presets.missing
    for _ in range(MAX_DRAWS):
        found.take(setting.space.draw(rng))
        if found.drawn >= draws and (found.feasible or presets.feasible or found.missing):
            break
    examples = presets.feasible + found.feasible
    valid, drawn = presets.valid + found.valid, found.drawn
    if any(found.missing.values()):
        missing = [_missing(setting, *each) for each in found.missing.items() if each[1]]
        raise InputError("\n".join(missing))
    if not valid:
        worst = max(found.broken, key=lambda reason: found.broken[reason])
        raise InputError(f"{space}: none of {drawn} random points is valid: {worst}.")
    if found.outside and not (presets.priced or found.priced):
        raise InputError(
            f"{space}: none of {valid} random architectures has a latency. {found.outside}"
        )
    if not examples:
        limits = "; ".join(
            f"{name} {limit}, seen {found.smallest[name]:,.6g} to {found.largest[name]:,.6g}"
            for name, limit in setting.spec.limits.items()
        )
        raise InputError(
            f"{space}: none of {valid} random architectures is within the limits: {limits}."
        )
    setting.proxy(examples[0])  # a resolution that does not suit the stages is refused here
    return Feasibility(
        drawn, found.valid, len(found.feasible), examples, dict(presets.broken + found.broken)
    )


class _Draws:
    """Collects what points are like."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.drawn = self.valid = self.priced = 0
        self.feasible: list[UNetConfig] = []
        self.broken: Counter[str] = Counter()
        self.missing: dict[str, list[str]] = {}
        self.smallest: dict[str, float] = {}
        self.largest: dict[str, float] = {}
        self.outside = ""
        """Why the last architecture that is outside a published table's family is so."""

    def take(self, point: Point) -> None:
        self.drawn += 1
        try:
            candidate = self.setting.candidate(point)
        except InfeasibleError as error:
            self.broken.update(error.broken)
            self.valid += error.network is not None
            costs = error.costs
            if isinstance(error.__cause__, OutsideFamilyError):
                self.outside = str(error)
            if isinstance(error.__cause__, MissingEntryError) and error.network is not None:
                self._keep_missing(error.network)
        else:
            self.valid += 1
            self.feasible.append(candidate.network)
            costs = candidate.costs.scores
        self.priced += bool(costs)
        for name in self.setting.spec.limits:
            if name in costs:
                self.smallest[name] = min(costs[name], self.smallest.get(name, costs[name]))
                self.largest[name] = max(costs[name], self.largest.get(name, costs[name]))

    def _keep_missing(self, network: UNetConfig) -> None:
        """Keep which units each table lacks, and may not estimate or cannot."""
        for device in self.setting.devices:
            try:
                device.predict(plan(network), self.setting.spec.deployment.on_missing)
            except OutsideFamilyError:
                continue
            except MissingEntryError as error:
                known = self.missing.setdefault(device.name, [])
                known += [str(unit) for unit in error.missing if str(unit) not in known]


def _missing(setting: Setting, name: str, keys: list[str]) -> str:
    shown = "; ".join(keys[:5]) + (f"; and {len(keys) - 5} more" if len(keys) > 5 else "")
    cure = (
        " (it has none of their kind to estimate them from)"
        if setting.spec.deployment.on_missing == "predict"
        else ", or say deployment.on_missing: predict"
    )
    return (
        f"deployment.tables: {name} has no entry for {len(keys)} units of space "
        f"'{setting.space.name}': {shown}. Measure them with: archsearch latency measure --space "
        f"{shlex.quote(setting.space.name)} --runtime RUNTIME --output TABLE{cure}"
    )


def foreign_processors(setting: Setting) -> list[str]:
    """A sentence for each table that was measured on another processor than this machine's, though
    it goes by no other name than ``cpu``: what is found is best on that one.
    """
    here, found = processor(), []
    for device in setting.devices:
        table = device.table
        if isinstance(table, PublishedTable) or table.device != "cpu" or table.soc == here:
            continue
        library = table.runtime.split()[0]
        runtime = f"{library}-{table.dtype}" if table.dtype == "int8" else library
        found.append(
            f"Latency is predicted for {table.soc}, where table {device.name} was measured; this "
            f"machine is {here}. To search for this machine, measure a table of it (archsearch "
            f"latency measure --space {setting.space.name} --runtime {runtime} --output "
            "mine.json) and name it in deployment.tables."
        )
    return found


def estimated_units(setting: Setting) -> dict[str, tuple[int, int]]:
    """How many units of the space each measured table lacks and would estimate, of how many;
    nothing where it may not.
    """
    if setting.spec.deployment.on_missing != "predict":
        return {}
    units = units_of(setting.space)
    return {
        device.name: (len(device.table.lacks(units)), len(units))
        for device in setting.devices
        if not isinstance(device.table, PublishedTable)
    }


def estimate(
    setting: Setting, feasibility: Feasibility, output: Path, workers: int
) -> dict[str, Any]:
    """Time, memory and disk a run is expected to take: measured on the proxies of a few random
    candidates.
    """
    device, spec = pick_device(), setting.spec
    seconds, weight_bytes, sampling_seconds = [], [], []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers run
    given = spec.sampling.steps
    steps = sum(given) / len(given) if isinstance(given, tuple) else given
    images = min(spec.metrics.images, SAMPLING_BATCH)
    rows = images if spec.sampling.guidance == 1 else 2 * images
    for config in feasibility.examples[:TIMED_CONFIGS]:
        proxy = setting.proxy(config)
        model = UNet(proxy).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        a_step = _seconds(model, proxy, spec.proxy.batch, device, trains=True)
        seconds.append(a_step * -(-spec.proxy.samples // spec.proxy.batch))
        if any(name in SAMPLED for name in spec.objectives):
            a_pass = _seconds(model, proxy, rows, device, trains=False)
            sampling_seconds.append(a_pass * steps * spec.metrics.images / images)
        weight_bytes.append(sum(parameter.numel() * 4 for parameter in model.parameters()))
    torch.set_num_threads(threads)
    trial = sum(seconds) / len(seconds)
    sampled = sum(sampling_seconds) / max(1, len(sampling_seconds))
    search, budgets = spec.search, spec.budgets
    # Of so many candidates one goes on from each rung: what a candidate sees in the mean.
    rungs = zip((0, *budgets[:-1]), budgets, strict=True)
    seen = sum((b - a) / search.rungs.eta**i for i, (a, b) in enumerate(rungs))
    a_candidate = trial * seen / max(1, spec.proxy.samples) + sampled
    a_candidate /= 1 - search.share_of_repeats
    whole = search.trials * a_candidate + 2 * (search.confirm_seeds - 1) * trial
    hours = whole / workers / 3600
    fitting = None
    if search.minutes is not None:
        hours = min(hours, search.minutes / 60)
        usable = 60 * search.minutes * workers - ENDING_SHARE * 60 * search.minutes * workers
        fitting = min(search.trials, max(1, int(usable / a_candidate)))
    return {
        "seconds_per_trial": trial,
        "sampling_seconds_per_trial": sampled,
        "hours": hours,
        "trials_that_fit": fitting,
        "memory_bytes_per_worker": psutil.Process().memory_info().rss + 4 * max(weight_bytes),
        "memory_available_bytes": psutil.virtual_memory().available,
        "disk_bytes": search.trials * max(weight_bytes),
        "disk_free_bytes": free_disk_bytes(output),
        "distinct_proxies": len({setting.proxy(config).digest for config in feasibility.examples}),
        "of_candidates": len({config.digest for config in feasibility.examples}),
    }


def _seconds(
    model: UNet, proxy: UNetConfig, batch: int, device: torch.device, trains: bool
) -> float:
    """Seconds of one training step, or of one pass, over a batch: the faster of two."""
    sample, timesteps, context, *_ = (tensor.to(device) for tensor in example_inputs(proxy, batch))
    times = []
    for _ in range(2):
        started = time.perf_counter()
        with torch.set_grad_enabled(trains):
            loss = (
                model(sample.to(memory_format=torch.channels_last), timesteps, context)
                .square()
                .mean()
            )
            loss.backward() if trains else loss.item()
        times.append(time.perf_counter() - started)
    return min(times)
