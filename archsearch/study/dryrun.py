"""What a study would take, before it starts: time, memory and disk."""

import time
from pathlib import Path
from typing import Any

import psutil
import torch

from archsearch.diffusion.device import pick_device
from archsearch.study.feasibility import Feasibility
from archsearch.study.rundir import free_disk_bytes
from archsearch.study.scores import SAMPLED
from archsearch.study.setting import Setting
from archsearch.study.spec import StudySpec
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs

TIMED_CONFIGS = 5
SAMPLING_BATCH = 32
"""Pictures that are drawn at a time."""


def estimate(setting: Setting, feasibility: Feasibility, output: Path, workers: int) -> dict[str, Any]:
    """Time, memory and disk a run is expected to take: measured on the proxies of a few random candidates."""
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
        "hours": ((search.trials + confirmations) * trial + search.trials * sampled) / workers / 3600,
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


def _sampling_seconds(model: UNet, proxy: UNetConfig, spec: StudySpec, device: torch.device) -> float:
    """Seconds of drawing a trial's pictures, at the mean number of steps: of one pass, the faster of two, and so many passes."""
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
