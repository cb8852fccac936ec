"""What a study would take, before it starts: validity, feasibility, missing latency entries, time, memory and disk."""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from archsearch.diffusion.recipe import pick_device
from archsearch.errors import InputError
from archsearch.latency.predict import missing_keys
from archsearch.space.space import InvalidPointError, Point
from archsearch.study.rundir import free_disk_bytes
from archsearch.study.setting import Setting
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs

DRAWS = 300
MAX_DRAWS = 3000
TIMED_CONFIGS = 5


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
    """Draw points and check rules, latency entries and limits; more points where none is feasible at first.

    Raises:
        InputError: Latency entries are missing (named), or not one point is feasible (the limits are named).
    """
    rng = random.Random(setting.spec.search.seed)
    found = _Draws(setting)
    for point in setting.presets().values():
        found.take(point)
    presets = (found.valid, len(found.feasible))
    for drawn in range(1, MAX_DRAWS + 1):
        found.take(setting.space.sample(rng))
        if drawn >= draws and (found.feasible or found.missing):
            break
    if any(found.missing.values()):
        raise InputError("\n".join(_missing_message(setting, name, keys) for name, keys in found.missing.items() if keys))
    if not found.valid:
        raise InputError(f"space '{setting.space.name}': none of {drawn} random points is valid: {_worst(found.broken)}.")
    if not found.feasible:
        limits = "; ".join(f"{n} ≤ {v:,.6g}, smallest seen {found.smallest[n]:,.6g}" for n, v in setting.spec.limits.items())
        raise InputError(
            f"space '{setting.space.name}': none of {found.valid} random architectures is within the limits: {limits}."
        )
    setting.proxy(found.feasible[0])  # a resolution that does not suit the stages is refused here
    return Feasibility(drawn, found.valid - presets[0], len(found.feasible) - presets[1], found.feasible, found.broken)


class _Draws:
    """Collects what points are like."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.valid = 0
        self.feasible: list[UNetConfig] = []
        self.broken: dict[str, int] = {}
        self.missing: dict[str, list[str]] = {}
        self.smallest: dict[str, float] = {}

    def take(self, point: Point) -> None:
        """Build and price a point."""
        try:
            config = self.setting.space.build(point)
        except InvalidPointError as error:
            self._count(str(error))
            return
        self.valid += 1
        lacking = {table.name: missing_keys([config], table) for table in self.setting.tables}
        if any(lacking.values()):
            for name, keys in lacking.items():
                known = self.missing.setdefault(name, [])
                known += [str(key) for key in keys if str(key) not in known]
            return
        costs = self.setting.costs(config)
        for name in self.setting.spec.limits:
            self.smallest[name] = min(costs[name], self.smallest.get(name, costs[name]))
            if costs[name] > self.setting.spec.limits[name]:
                self._count(f"limits.{name}")
        if not self.setting.broken_limits(costs):
            self.feasible.append(config)

    def _count(self, reason: str) -> None:
        self.broken[reason] = self.broken.get(reason, 0) + 1


def _missing_message(setting: Setting, name: str, keys: list[str]) -> str:
    shown = "; ".join(keys[:5]) + (f"; and {len(keys) - 5} more" if len(keys) > 5 else "")
    return (
        f"deployment.tables: {name} has no entry for {len(keys)} units of space '{setting.space.name}': {shown}. "
        f"Measure them with: archsearch latency measure --space {setting.space.name} --runtime RUNTIME --output TABLE"
    )


def _worst(broken: dict[str, int]) -> str:
    return max(broken, key=lambda reason: broken[reason])


def estimate(setting: Setting, feasibility: Feasibility, output: Path, workers: int) -> dict[str, Any]:
    """Time, memory and disk a run is expected to take: measured on the proxies of a few random candidates."""
    device = pick_device()
    recipe = setting.spec.proxy.recipe
    steps = -(-recipe.samples // recipe.batch)
    proxies = [setting.proxy(config) for config in feasibility.examples[:TIMED_CONFIGS]]
    seconds, weight_bytes = [], []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers run
    for proxy in proxies:
        model = UNet(proxy).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        seconds.append(_step_seconds(model, proxy, recipe.batch, device) * steps)
        weight_bytes.append(sum(parameter.numel() * 4 for parameter in model.parameters()))
    torch.set_num_threads(threads)
    trial = sum(seconds) / len(seconds)
    search = setting.spec.search
    confirmations = 2 * (search.confirm_seeds - 1)
    return {
        "seconds_per_trial": trial,
        "hours": (search.trials + confirmations) * trial / workers / 3600,
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
        model(sample.to(memory_format=torch.channels_last), timesteps, context).square().mean().backward()
        times.append(time.perf_counter() - started)
    return min(times)
