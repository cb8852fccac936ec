"""A step of training in bf16 with torch's fused attention as it is, and as the model calls it.

Proxies of the quickstart with softmax attention: MobileDiffusion-Lite's shape, and Stable Diffusion
1.5's. Steps of both alternate; milliseconds of processor time, medians, one thread.
"""

import argparse
import json
import statistics
import time
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F

import archsearch
from archsearch import Study
from archsearch.unet import model as module
from archsearch.unet.config import UNetConfig


def step_ms(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
    started = time.process_time()
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(*inputs).float().square().mean()
    loss.backward()
    network.zero_grad(set_to_none=True)
    return 1e3 * (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=15)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    setting, found = Study("studies/quickstart.yaml").setting, dict[str, Any]()
    for name in ("mobilediffusion-lite", "sd15"):
        data = archsearch.arch(name).to_dict()
        data["attention"] = {**data.get("attention", {}), "normalizer": "softmax"}
        config = setting.proxy(UNetConfig.model_validate(data))
        network = archsearch.build(config).to(memory_format=torch.channels_last)
        side = config.sample_size
        inputs = (
            torch.randn(8, config.in_channels, side, side),
            torch.rand(8),
            torch.randn(8, config.context_tokens, config.context_dim),
        )
        times: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(steps):
            times["ours"].append(step_ms(network, inputs))
            with patch.object(module, "_softmax_attention", F.scaled_dot_product_attention):
                times["plain"].append(step_ms(network, inputs))
        medians = {kind: statistics.median(values[2:]) for kind, values in times.items()}
        found[name] = {kind: round(value, 1) for kind, value in medians.items()}
        found[name]["ratio"] = round(medians["plain"] / medians["ours"], 2)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
