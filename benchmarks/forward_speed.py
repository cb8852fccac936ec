"""Forward and backward of a Stable-Diffusion-shaped proxy against diffusers'
``UNet2DConditionModel`` of the same weights.

Interleaved, one thread. ``--width`` is the factor on Stable Diffusion 1.5's widths. Each round
times every variant once; ratios are taken within a round, so that what else the machine does falls
on both. Prints the largest difference of outputs and of gradients.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from archsearch.search_space.proxy import ProxyShape, proxy_config
from archsearch.unet.diffusers import to_diffusers
from archsearch.unet.diffusers_weights import to_diffusers_state
from archsearch.unet.model import UNet, example_inputs
from archsearch.unet.presets import preset

Run = Callable[[Tensor, Tensor, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--bf16", action="store_true", help="also with bf16 autocast, where the CPU has it natively"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = proxy_config(
        preset("sd15"), ProxyShape(width=options.width, sample_size=options.size), 4, 384, 16
    )
    ours = UNet(config)
    theirs = _diffusers(ours)
    inputs = example_inputs(config, options.batch)
    variants: dict[str, tuple[nn.Module, bool, bool]] = {
        "diffusers fp32": (theirs, False, False),
        "ours fp32": (ours, False, False),
        "diffusers fp32 channels_last": (_copy(theirs), True, False),
        "ours fp32 channels_last": (_copy(ours), True, False),
    }
    if options.bf16:
        variants["diffusers bf16 channels_last"] = (_copy(theirs), True, True)
        variants["ours bf16 channels_last"] = (_copy(ours), True, True)
    for module, channels_last, _ in variants.values():
        if channels_last:
            module.to(memory_format=torch.channels_last)
    checks = _compare(ours, theirs, inputs)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(options.rounds + 1):
        for name, (module, channels_last, bf16) in variants.items():
            times[name].append(_step(module, inputs, channels_last, bf16))
    times = {name: seconds[1:] for name, seconds in times.items()}
    print(
        json.dumps(
            {
                "network": f"sd15 × {options.width} at {options.size}², batch {options.batch}",
                **checks,
                "ms": {
                    name: round(1000 * statistics.median(seconds), 1)
                    for name, seconds in times.items()
                },
                "ratio": {
                    f"{a} / {b}": _spread([x / y for x, y in zip(times[a], times[b], strict=True)])
                    for a, b in _pairs(times)
                },
            },
            indent=1,
        )
    )


def _diffusers(ours: UNet) -> nn.Module:
    """diffusers' network of the same weights."""
    from diffusers import UNet2DConditionModel

    network: Any = UNet2DConditionModel.from_config(to_diffusers(ours.config))
    network.load_state_dict(to_diffusers_state(ours.config, ours.state_dict()))
    network.train()
    module: nn.Module = network
    return module


def _copy(module: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(module)


def _predict(module: nn.Module, sample: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
    output = module(sample, timesteps, context)
    result: Tensor = output if isinstance(output, Tensor) else output.sample
    return result


def _step(module: nn.Module, inputs: tuple[Tensor, ...], channels_last: bool, bf16: bool) -> float:
    sample, timesteps, context = inputs
    if channels_last:
        sample = sample.to(memory_format=torch.channels_last)
    module.zero_grad(set_to_none=True)
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = _predict(module, sample, timesteps, context).float().square().mean()
    loss.backward()
    return time.perf_counter() - started


def _compare(ours: UNet, theirs: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, float]:
    """Largest differences relative to the largest value: of the outputs, and of all gradients."""
    outputs, gradients = [], []
    for module in (ours, theirs):
        module.zero_grad(set_to_none=True)
        output = _predict(module, *inputs)
        output.square().mean().backward()
        outputs.append(output.detach())
        grads = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        gradients.append(to_diffusers_state(ours.config, grads) if module is ours else grads)
    worst = max(
        float((gradients[0][name] - grad).abs().max() / grad.abs().max().clamp(min=1e-8))
        for name, grad in gradients[1].items()
    )
    return {
        "output_difference": float(
            f"{float((outputs[0] - outputs[1]).abs().max() / outputs[1].abs().max()):.1e}"
        ),
        "gradient_difference": float(f"{worst:.1e}"),
    }


def _pairs(times: dict[str, list[float]]) -> list[tuple[str, str]]:
    same = [
        (f"diffusers {kind}", f"ours {kind}")
        for kind in ("fp32", "fp32 channels_last", "bf16 channels_last")
    ]
    best = [
        ("diffusers fp32", "ours fp32 channels_last"),
        ("diffusers fp32", "ours bf16 channels_last"),
    ]
    return [pair for pair in same + best if pair[0] in times and pair[1] in times]


def _spread(ratios: list[float]) -> dict[str, float]:
    ordered = sorted(ratios)
    return {
        "p10": round(ordered[len(ordered) // 10], 3),
        "median": round(statistics.median(ordered), 3),
        "p90": round(ordered[-1 - len(ordered) // 10], 3),
    }


if __name__ == "__main__":
    main()
