"""What int8 costs a network, by the activation of its feed-forward layers.

MobileDiffusion-Lite under the quickstart's proxy and recipe, once for each activation and seed: the
held-out loss in float32 and quantised, and the ranges around the feed-forward's activation. The
scheme leaves activation functions in float32; ``in steps`` rounds what GELU (tanh form) and SiLU
compute on the way as well, as integer-only hardware without a table would. Weights and finished
lines are kept in the output folder, so a second call goes on.
"""

import argparse
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import safetensors.torch
import torch
import torch.nn.functional as F

from archsearch.data.prepare import prepare
from archsearch.diffusion import quantise
from archsearch.diffusion.evaluate import held_out
from archsearch.diffusion.recipe import pick_device
from archsearch.diffusion.trainer import Trainer
from archsearch.files import write_bytes, write_json
from archsearch.study.setting import load_setting
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet
from archsearch.unet.presets import preset

ACTIVATIONS = ("gelu", "silu", "relu", "geglu", "swiglu")
COLUMNS = ("int8", "int6", "int5", "int8 in steps")
SPANS = (2.5, 5.0, 10.0, 20.0, 50.0)


class InSteps(quantise.Operators):
    """Also rounds what the feed-forwards' activation functions compute on the way; maps
    (4-dimensional) are left alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in STEPS and args[0].dim() == 3:
            return STEPS[func](args[0], partial(self.at, "activation"))
        return super().__torch_function__(func, types, args, kwargs)


def gelu_in_steps(
    x: torch.Tensor, rounded: Callable[[str, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³))) (arXiv 1606.08415), every product and function
    rounded.
    """
    x = rounded("input", x)
    cube = rounded("cube", rounded("square", x * x) * x)
    inner = rounded("inner", math.sqrt(2 / math.pi) * (x + 0.044715 * cube))
    return rounded("output", 0.5 * x * (1 + rounded("tanh", torch.tanh(inner))))


def silu_in_steps(
    x: torch.Tensor, rounded: Callable[[str, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """x · sigmoid(x), both rounded."""
    x = rounded("input", x)
    return rounded("output", x * rounded("sigmoid", torch.sigmoid(x)))


STEPS = {F.gelu: gelu_in_steps, F.silu: silu_in_steps}


def errors_by_span() -> list[dict[str, float]]:
    """Root mean square error of both in 8-bit steps, over x normal but for one outlier that spans
    the range to ±span.
    """
    lines = []
    for span in SPANS:
        x = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).clamp(-span, span)
        x[:2] = torch.tensor([-span, span])

        def rounded(value: str, y: torch.Tensor) -> torch.Tensor:
            return quantise.round_activation(
                y, min(0.0, y.min().item()), max(0.0, y.max().item()), 8
            )

        line = {"span": span}
        for name, exact, steps in (
            ("gelu", F.gelu, gelu_in_steps),
            ("silu", F.silu, silu_in_steps),
        ):
            line[name] = (steps(x, rounded) - exact(x)).pow(2).mean().sqrt().item()
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, default=Path("studies/quickstart.yaml"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    setting, device = load_setting(arguments.study), pick_device()
    data = prepare(setting.spec.data, setting.spec.proxy.latent)
    recipe = setting.spec.proxy.recipe
    exact = recipe.model_copy(
        update={"precision": "fp32"}
    )  # the quantised network runs in float32 too: nothing else differs
    lines: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for activation in ACTIVATIONS:
            tree = setting.proxy(preset("mobilediffusion-lite")).to_dict()
            proxy = UNetConfig.model_validate(
                tree | {"feed_forward": tree["feed_forward"] | {"activation": activation}}
            )
            path = arguments.output / f"{activation}-{seed}.json"
            if not path.is_file():
                weights = path.with_suffix(".safetensors")
                if weights.is_file():
                    model = UNet(proxy)
                    model.load_state_dict(safetensors.torch.load_file(weights))
                    model = model.eval().to(device, memory_format=torch.channels_last)
                else:
                    trainer = Trainer(proxy, data, recipe, seed, device)
                    trainer.run(recipe.samples)
                    model = trainer.averaged()
                    tensors = {
                        name: tensor.contiguous().cpu()
                        for name, tensor in model.state_dict().items()
                    }
                    write_bytes(weights, safetensors.torch.save(tensors))
                line: dict[str, Any] = {"activation": activation, "seed": seed}
                line["float"] = held_out(model, data, exact, device).loss
                for column in COLUMNS:
                    operators = InSteps if "steps" in column else quantise.Operators
                    with patch.object(quantise, "Operators", operators):
                        int8 = quantise.quantise_for(
                            model, data, recipe, device, bits=int(column[3])
                        )
                        line[column] = held_out(int8, data, exact, device).loss
                        line |= ranges(int8) if "steps" in column else {}
                write_json(path, line)
            lines.append(json.loads(path.read_text(encoding="utf-8")))
            print(json.dumps(lines[-1]), flush=True)
    print(table(lines))
    print(json.dumps({"networks": lines, "errors_by_span": errors_by_span()}, indent=1))


def ranges(int8: quantise.Quantised) -> dict[str, float]:
    """Medians over the feed-forwards: largest magnitude before the activation, lowest and highest
    value after it; none for ReLU.

    Of a gated activation it is the gate, before its product with the other half.
    """
    before = [
        max(-site.low, site.high)
        for site in int8.sites
        if (site.operator, site.value) == ("activation", "input")
    ]
    after = [
        (site.low, site.high)
        for site in int8.sites
        if (site.operator, site.value) == ("activation", "output")
    ]
    if not before:
        return {}
    return {
        "before": median(before),
        "lowest": median(low for low, _ in after),
        "highest": median(high for _, high in after),
    }


def table(lines: list[dict[str, Any]]) -> str:
    """A row an activation; what differs between seeds is given for each."""
    head = [
        "activation",
        "float32",
        *(f"{column}, more by" for column in COLUMNS),
        "before the activation",
        "after it",
    ]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for activation in ACTIVATIONS:
        mine = [line for line in lines if line["activation"] == activation]
        cells = [activation, ", ".join(f"{line['float']:.4f}" for line in mine)]
        cells += [
            ", ".join(f"{1e3 * (line[column] - line['float']):.2f}e-3" for line in mine)
            for column in COLUMNS
        ]
        known = [line for line in mine if "before" in line]
        cells.append(", ".join(f"± {line['before']:.1f}" for line in known) or "–")
        cells.append(
            ", ".join(f"{line['lowest']:.2f} to {line['highest']:.1f}" for line in known) or "–"
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
