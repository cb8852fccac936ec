"""Every knob changes the module and its price. A knob that is forgotten in one of the two fails
here.

Free of cost, and listed as such: plain activations among each other (norms and activations count no
MACs, as is usual, and make tensors of the same size), the normaliser where it is softmax or ReLU
(weights of the same size and products), the order of layers, and the norm groups. They change the
output alone.
"""

from typing import Any

import pytest
import torch

from archsearch.cost.price import Cost, macs, params, price, tape
from archsearch.search_space import paths
from archsearch.unet.config import Stage, UNetConfig
from archsearch.unet.model import UNet, example_inputs
from archsearch.unet.plan import plan

ALL = {"transformers": 1, "layers": ["sa", "ca", "ff"]}
BASE: dict[str, Any] = {
    "sample_size": 16,
    "norm_groups": 8,
    "context_dim": 12,
    "context_tokens": 5,
    "added": {"text_dim": 8, "ids": 2, "id_dim": 4},
    "attention": {"heads": 4},
    "feed_forward": {"activation": "gelu"},
    "stages": [
        {"channels": 16, "down": [ALL], "up": [ALL, {}]},
        {"channels": 32, "down": [ALL], "up": [ALL]},
    ],
    "middle": [ALL],
}

PRICED = [
    ("in_channels", 5),
    ("out_channels", 5),
    ("sample_size", 32),
    ("context_dim", 16),
    ("context_tokens", 7),
    ("time_width", 128),
    ("added.text_dim", None),
    ("added.text_dim", 16),
    ("added.ids", 3),
    ("added.id_dim", 8),
    ("guidance_dim", 8),
    ("conv", "separable"),
    ("conv", "expanded"),
    ("conv", "inverted"),
    ("projection", "linear"),
    ("attention.kv", "shared"),
    ("attention.kv", "shared_everywhere"),
    ("attention.normalizer", "linear"),
    ("attention.normalizer", "linear_everywhere"),
    ("attention.heads", 2),
    ("attention.kv_heads", 1),
    ("attention.kv_heads", 2),
    ("attention.qk_norm", "rms"),
    ("attention.kv_compression", "conv"),
    ("stages[1].attention.kv_compression", "conv"),
    ("stages[1].attention.head_dim", 4),
    ("feed_forward.expansion", 4),
    ("feed_forward.activation", "geglu"),
    ("feed_forward.activation", "swiglu"),
    ("stages[0].channels", 24),
    ("stages[1].channels", 24),
    ("stages[1].flat", True),
    ("stages[1].conv", "separable"),
    ("stages[1].conv", "expanded"),
    ("stages[1].projection", "linear"),
    ("stages[1].attention.kv_heads", 1),
    ("stages[1].attention.qk_norm", "rms"),
    ("stages[1].attention.kv", "shared"),
    ("stages[1].attention.heads", 8),
    ("stages[1].feed_forward.expansion", 6),
    ("stages[1].feed_forward.activation", "geglu"),
    ("stages[1].down.length", 2),
    ("stages[1].up.length", 2),
    ("stages[0].up.length", 4),
    ("stages.length", 1),
    ("middle.length", 0),
    ("middle.length", 2),
    ("middle[0].layers", []),
    ("stages[1].down[0].transformers", 2),
    ("stages[1].up[0].transformers", 3),
    ("stages[1].down[0].layers", ["ca", "ff"]),
    ("stages[1].down[0].layers", ["sa", "ff"]),
    ("stages[1].up[0].layers", ["sa", "ca"]),
    ("stages[1].up[0].layers", ["norm", "ca", "ff"]),
    ("stages[0].*.layers", []),
]
FREE = [
    ("feed_forward.activation", "silu"),
    ("feed_forward.activation", "relu"),
    ("attention.normalizer", "relu"),
    ("stages[1].attention.normalizer", "relu"),
    ("stages[1].down[0].layers", ["ff", "ca", "sa"]),
    ("norm_groups", 4),
]


def changed(path: str, value: Any) -> UNetConfig:
    tree = paths.open_form(UNetConfig.model_validate(BASE))
    paths.assign(tree, paths.parse(path), value)
    return UNetConfig.model_validate(tree)


def bill(config: UNetConfig) -> tuple[Cost, list[tuple[int, int, list[int]]]]:
    """The whole price, and of every unit parameters, MACs and tensors made: heads decide the size
    of the scores of their own stage, which the peak shows only where it lies there."""
    placed = [unit for _, unit in plan(config).placed()]
    made = [
        [] if unit.kind == "projection" else [op.elements for op in tape(unit)] for unit in placed
    ]
    return price(config), sorted(
        (params(unit), macs(unit).total, each) for unit, each in zip(placed, made, strict=True)
    )


def shapes(config: UNetConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in UNet(config).named_parameters()}


def output(config: UNetConfig) -> torch.Tensor:
    """Prediction from equal weights, as far as shapes are equal, and equal inputs."""
    torch.manual_seed(0)
    model = UNet(config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        prediction: torch.Tensor = model(*example_inputs(config))
    return prediction


def differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape != b.shape or not torch.allclose(a, b)


@pytest.mark.parametrize(("path", "value"), PRICED + FREE)
def test_a_knob_changes_the_module(path: str, value: Any) -> None:
    base, config = UNetConfig.model_validate(BASE), changed(path, value)
    assert config != base
    assert shapes(config) != shapes(base) or differ(output(config), output(base))


@pytest.mark.parametrize(("path", "value"), PRICED)
def test_a_knob_changes_the_price(path: str, value: Any) -> None:
    assert bill(changed(path, value)) != bill(UNetConfig.model_validate(BASE))


@pytest.mark.parametrize(("path", "value"), FREE)
def test_a_free_knob_costs_nothing_but_changes_the_output(path: str, value: Any) -> None:
    base, config = UNetConfig.model_validate(BASE), changed(path, value)
    assert bill(config) == bill(base)
    assert shapes(config) == shapes(base) or path.endswith("layers")
    assert differ(output(config), output(base))


def test_no_knob_is_forgotten() -> None:
    """Every field of the configuration is in the lists above, for the network and, where it can be
    set there, for a stage.
    """
    groups = {
        name: model for name in UNetConfig.model_fields if (model := paths.group(UNetConfig, name))
    }
    of_stages = {name: model for name in Stage.model_fields if (model := paths.group(Stage, name))}
    knobs = set(UNetConfig.model_fields) - {"schema_version", *groups, "stages", "middle"} | {
        "stages.length",
        "middle.length",
    }
    knobs |= {
        f"{group}.{name}" for group, model in groups.items() for name in model.model_fields
    } - {"attention.head_dim"}
    knobs |= {f"stages[1].{name}" for name in set(Stage.model_fields) - {*of_stages, "down", "up"}}
    knobs |= {
        f"stages[1].{group}.{name}"
        for group, model in of_stages.items()
        for name in model.model_fields
    }
    knobs |= {f"stages[1].{side}.length" for side in ("down", "up")}
    knobs |= {f"stages[1].{side}[0].{key}" for side in ("down", "up") for key in paths.BLOCK_KEYS}
    assert knobs - {path for path, _ in PRICED + FREE} == set()


def test_knobs_of_one_stage_leave_the_others_alone() -> None:
    before = shapes(UNetConfig.model_validate(BASE))
    after = shapes(changed("stages[1].feed_forward.expansion", 6))
    assert {
        name.split(".")[1]
        for name in before
        if before[name] != after[name] and name.startswith("stages")
    } == {"1"}
