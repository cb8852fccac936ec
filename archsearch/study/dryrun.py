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
from archsearch.space.space import InvalidPointError
from archsearch.study.rundir import free_disk_bytes
from archsearch.study.setting import Setting
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

DRAWS = 300
TIMED_CONFIGS = 5


@dataclass(frozen=True)
class Feasibility:
    """What random points of a space are like."""

    drawn: int
    valid: int
    within_limits: int
    examples: list[UNetConfig]
    """Feasible architectures."""
    broken: dict[str, int]
    """How often each rule or limit failed."""
    missing: dict[str, list[str]]
    """Latency entries that are missing, by table."""


def check_feasibility(setting: Setting, draws: int = DRAWS) -> Feasibility:
    """Draw points and check rules, latency entries and limits.

    Raises:
        InputError: Latency entries are missing (named), or not one point is feasible (the limits are named).
    """
    rng = random.Random(setting.spec.search.seed)
    valid: list[UNetConfig] = []
    broken: dict[str, int] = {}
    for _ in range(draws):
        try:
            valid.append(setting.space.build(setting.space.sample(rng)))
        except InvalidPointError as error:
            broken[str(error)] = broken.get(str(error), 0) + 1
    if not valid:
        raise InputError(f"space '{setting.space.name}': none of {draws} random points is valid: {_worst(broken)}.")
    missing = {table.name: [str(unit) for unit in missing_keys(valid, table)] for table in setting.tables}
    if any(missing.values()):
        raise InputError("\n".join(_missing_message(setting, name, keys) for name, keys in missing.items() if keys))
    feasible = []
    smallest: dict[str, float] = {}
    for config in valid:
        costs = setting.costs(config)
        failures = setting.broken_limits(costs)
        for name in setting.spec.limits:
            smallest[name] = min(costs[name], smallest.get(name, costs[name]))
            if any(failure.startswith(name) for failure in failures):
                broken[f"limits.{name}"] = broken.get(f"limits.{name}", 0) + 1
        if not failures:
            feasible.append(config)
    if not feasible:
        limits = "; ".join(f"{n} ≤ {v:,.6g}, smallest seen {smallest[n]:,.6g}" for n, v in setting.spec.limits.items())
        raise InputError(f"space '{setting.space.name}': none of {len(valid)} random architectures is within the limits: {limits}.")
    return Feasibility(draws, len(valid), len(feasible), feasible, broken, missing)


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
    for proxy in proxies:
        model = UNet(proxy).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        seconds.append(_step_seconds(model, proxy, recipe.batch, device) * steps)
        weight_bytes.append(sum(parameter.numel() * 4 for parameter in model.parameters()))
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
    from archsearch.unet.model import example_inputs

    sample, timesteps, context = (tensor.to(device) for tensor in example_inputs(proxy, batch))
    times = []
    for _ in range(2):
        started = time.perf_counter()
        model(sample.to(memory_format=torch.channels_last), timesteps, context).square().mean().backward()
        times.append(time.perf_counter() - started)
    return min(times)
