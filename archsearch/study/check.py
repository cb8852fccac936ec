"""Whether a study can be run at all, and what it would take, before it starts."""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from archsearch.diffusion.recipe import pick_device
from archsearch.errors import InputError
from archsearch.latency.predict import MissingEntryError, units_of
from archsearch.latency.table import PublishedTable
from archsearch.search_space.space import InvalidPointError, Point
from archsearch.study.rundir import free_disk_bytes
from archsearch.study.setting import OutsideFamilyError, Setting
from archsearch.study.spec import SAMPLED, StudySpec
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs
from archsearch.unet.plan import plan

DRAWS = 300
MAX_DRAWS = 3000


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
    rng = random.Random(setting.spec.search.seed)
    found = _Draws(setting)
    searched = setting.spec.sampling.searched or (None,)
    for point in setting.presets().values():
        for steps in searched:
            found.take(point, steps)
    presets = (found.valid, len(found.feasible))
    for drawn in range(1, MAX_DRAWS + 1):
        found.take(
            setting.space.sample(rng),
            rng.choice(searched) if setting.spec.sampling.searched else None,
        )
        if drawn >= draws and (found.feasible or found.missing):
            break
    if any(found.missing.values()):
        raise InputError(
            "\n".join(
                _missing_message(setting, name, keys)
                for name, keys in found.missing.items()
                if keys
            )
        )
    if not found.valid:
        raise InputError(
            f"space '{setting.space.name}': none of {drawn} random points is valid: "
            f"{_worst(found.broken)}."
        )
    if found.outside and not found.priced:
        raise InputError(
            f"space '{setting.space.name}': none of {found.valid} random architectures has a "
            f"latency. {found.outside}"
        )
    if not found.feasible:
        limits = "; ".join(
            f"{n} ≤ {v:,.6g}, smallest seen {found.smallest[n]:,.6g}"
            for n, v in setting.spec.limits.items()
        )
        raise InputError(
            f"space '{setting.space.name}': none of {found.valid} random architectures is "
            f"within the limits: {limits}."
        )
    setting.proxy(found.feasible[0])  # a resolution that does not suit the stages is refused here
    return Feasibility(
        drawn,
        found.valid - presets[0],
        len(found.feasible) - presets[1],
        found.feasible,
        found.broken,
    )


class _Draws:
    """Collects what points are like."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.valid = 0
        self.priced = 0
        self.feasible: list[UNetConfig] = []
        self.broken: dict[str, int] = {}
        self.missing: dict[str, list[str]] = {}
        self.smallest: dict[str, float] = {}

        self.outside = ""
        """Why the last architecture that is outside a published table's family is so."""

    def take(self, point: Point, steps: int | None = None) -> None:
        """Build and price a point, for a picture of so many steps."""
        try:
            config = self.setting.space.build(point)
        except InvalidPointError as error:
            self._count(str(error))
            return
        self.valid += 1
        try:
            costs = self.setting.costs(config, steps)
        except MissingEntryError:
            self._keep_missing(config)
            return
        except OutsideFamilyError as error:
            self.outside = str(error)
            self._count("the family of a published table")
            return
        self.priced += 1
        for name in self.setting.spec.limits:
            self.smallest[name] = min(costs[name], self.smallest.get(name, costs[name]))
            if costs[name] > self.setting.spec.limits[name]:
                self._count(f"limits.{name}")
        if not self.setting.broken_limits(costs):
            self.feasible.append(config)

    def _keep_missing(self, config: UNetConfig) -> None:
        """Keep which units each table lacks, and may not estimate or cannot."""
        for device in self.setting.devices:
            try:
                device.predict(plan(config), self.setting.spec.deployment.on_missing)
            except OutsideFamilyError:
                continue
            except MissingEntryError as error:
                known = self.missing.setdefault(device.name, [])
                known += [str(unit) for unit in error.missing if str(unit) not in known]

    def _count(self, reason: str) -> None:
        self.broken[reason] = self.broken.get(reason, 0) + 1


def _missing_message(setting: Setting, name: str, keys: list[str]) -> str:
    shown = "; ".join(keys[:5]) + (f"; and {len(keys) - 5} more" if len(keys) > 5 else "")
    guess = setting.spec.deployment.on_missing == "predict"
    otherwise = (
        " (it has none of their kind to estimate them from)"
        if guess
        else ", or say deployment.on_missing: predict"
    )
    return (
        f"deployment.tables: {name} has no entry for {len(keys)} units of space "
        f"'{setting.space.name}': {shown}. "
        f"Measure them with: archsearch latency measure --space {setting.space.name} --runtime "
        "RUNTIME --output TABLE" + otherwise
    )


def _worst(broken: dict[str, int]) -> str:
    return max(broken, key=lambda reason: broken[reason])


def estimated_units(setting: Setting) -> dict[str, tuple[int, int]]:
    """How many units of the space each measured table lacks and would estimate, of how many;
    nothing where it may not.
    """
    if setting.spec.deployment.on_missing != "predict":
        return {}
    units = units_of(setting.space)
    tables = {device.name: device.table for device in setting.devices}
    return {
        name: (len(table.lacks(units)), len(units))
        for name, table in tables.items()
        if not isinstance(table, PublishedTable)
    }


TIMED_CONFIGS = 5
SAMPLING_BATCH = 32
"""Pictures that are drawn at a time."""


def estimate(
    setting: Setting, feasibility: Feasibility, output: Path, workers: int
) -> dict[str, Any]:
    """Time, memory and disk a run is expected to take: measured on the proxies of a few random
    candidates.
    """
    device = pick_device()
    recipe = setting.spec.proxy.recipe
    steps = -(-recipe.samples // recipe.batch)
    proxies = [setting.proxy(config) for config in feasibility.examples[:TIMED_CONFIGS]]
    seconds, weight_bytes = [], []
    sampling_seconds = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers run
    for proxy in proxies:
        model = UNet(proxy).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        seconds.append(_step_seconds(model, proxy, recipe.batch, device) * steps)
        if any(name in SAMPLED for name in setting.spec.objectives):
            sampling_seconds.append(_sampling_seconds(model, proxy, setting.spec, device))
        weight_bytes.append(sum(parameter.numel() * 4 for parameter in model.parameters()))
    torch.set_num_threads(threads)
    trial = sum(seconds) / len(seconds)
    sampled = sum(sampling_seconds) / len(sampling_seconds) if sampling_seconds else 0.0
    search = setting.spec.search
    confirmations = 2 * (search.confirm_seeds - 1)
    return {
        "seconds_per_trial": trial,
        "sampling_seconds_per_trial": sampled,
        "hours": ((search.trials + confirmations) * trial + search.trials * sampled)
        / workers
        / 3600,
        "memory_bytes_per_worker": psutil.Process().memory_info().rss + 4 * max(weight_bytes),
        "memory_available_bytes": psutil.virtual_memory().available,
        "disk_bytes": search.trials * max(weight_bytes),
        "disk_free_bytes": free_disk_bytes(output),
        "distinct_proxies": len({setting.proxy(config).digest for config in feasibility.examples}),
        "of_candidates": len({config.digest for config in feasibility.examples}),
    }


def _step_seconds(model: UNet, proxy: UNetConfig, batch: int, device: torch.device) -> float:
    """Seconds of one training step, the faster of two."""
    sample, timesteps, context, *_ = (tensor.to(device) for tensor in example_inputs(proxy, batch))
    times = []
    for _ in range(2):
        started = time.perf_counter()
        model(
            sample.to(memory_format=torch.channels_last), timesteps, context
        ).square().mean().backward()
        times.append(time.perf_counter() - started)
    return min(times)


def _sampling_seconds(
    model: UNet, proxy: UNetConfig, spec: StudySpec, device: torch.device
) -> float:
    """Seconds of drawing a trial's pictures, at the mean number of steps: of one pass, the faster
    of two, and so many passes.
    """
    given = spec.sampling.steps
    steps = sum(given) / len(given) if isinstance(given, tuple) else given
    images = min(spec.metrics.images, SAMPLING_BATCH)
    rows = images if spec.sampling.guidance == 1 else 2 * images
    sample, timesteps, context, *_ = (tensor.to(device) for tensor in example_inputs(proxy, rows))
    times = []
    for _ in range(2):
        started = time.perf_counter()
        with torch.no_grad():
            model(sample.to(memory_format=torch.channels_last), timesteps, context).sum().item()
        times.append(time.perf_counter() - started)
    return float(min(times) * steps * spec.metrics.images / images)
