"""The architecture: equal networks are equal, canonical form leaves defaults out, what cannot be
built is refused by name.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from pydantic import ValidationError

from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs
from archsearch.unet.presets import PRESETS, preset
from tests.strategies import configs

GOLDEN = sorted((Path(__file__).parents[1] / "golden" / "configs").glob("*.json"))
DATA: dict[str, Any] = {
    "norm_groups": 8,
    "sample_size": 16,
    "stages": [
        {"channels": 16, "down": [{}], "up": [{"transformers": 1, "layers": ["sa", "ca", "ff"]}]},
        {"channels": 32, "down": [{"layers": ["sa", "ff"]}, {}], "up": [{}]},
    ],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """DATA with one value set: keys and indices separated by dots."""
    data = copy.deepcopy(DATA)
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    target: Any = data
    for part in parents:
        target = target.setdefault(part, {}) if isinstance(target, dict) else target[part]
    target[last] = value
    return data


def build(path: str = "schema", value: Any = 1) -> UNetConfig:
    return UNetConfig.model_validate(changed(path, value))


@given(configs)
def test_json_round_trip_is_exact(config: UNetConfig) -> None:
    again = UNetConfig.model_validate_json(config.to_json())
    assert again == config
    assert hash(again) == hash(config)
    assert again.to_json() == config.to_json()
    assert UNetConfig.model_validate(config.to_dict()) == config
    assert UNetConfig.model_validate(config) == config


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_digests_never_change(path: Path) -> None:
    """A new knob with a default must not rename old networks: latency tables and stores know them
    by their digest.
    """
    golden = json.loads(path.read_text())
    config = UNetConfig.model_validate(golden["config"])
    assert config.digest == golden["digest"]
    assert config.to_dict() == golden["config"]


def test_every_preset_has_a_golden_digest() -> None:
    golden = {path.stem: json.loads(path.read_text())["digest"] for path in GOLDEN}
    assert len(golden) > len(PRESETS)
    assert {name: preset(name).digest for name in PRESETS}.items() <= golden.items()


def test_it_is_frozen_and_a_key() -> None:
    config = build()
    with pytest.raises(ValidationError, match="frozen"):
        config.sample_size = 32  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.stages[0].channels = 32  # type: ignore[misc]
    assert {config: 1}[build()] == 1
    assert build("sample_size", 32) not in {config: 1}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", 1),
        ("in_channels", 4),
        ("time_width", 64),
        ("conv", "full"),
        ("middle", []),
        ("attention", {}),
        ("attention", {"kv": "separate", "normalizer": "softmax", "heads": 8, "head_dim": None}),
        ("feed_forward", {"expansion": 8, "activation": "geglu"}),
        ("stages.0.conv", "full"),
        ("stages.1.attention", {"heads": 8}),
        ("stages.1.feed_forward", {"activation": "geglu"}),
        ("stages.0.down.0", {"transformers": 0}),
        ("stages.0.down.0", {"transformers": 0, "layers": ["sa"]}),
        ("stages.0.down.0", {"transformers": 3, "layers": []}),
        ("stages.0.down.0", {"transformers": [[], []]}),
        ("stages.0.up.0", {"layers": ["sa", "ca", "ff"]}),
        ("stages.0.up.0", {"transformers": [["sa", "ca", "ff"], []]}),
    ],
)
def test_what_is_default_anyway_makes_no_difference(path: str, value: Any) -> None:
    assert build(path, value) == build()
    assert build(path, value).digest == build().digest


@pytest.mark.parametrize(
    ("group", "value"),
    [
        ("conv", "separable"),
        ("attention", {"kv": "shared"}),
        ("attention", {"head_dim": 8}),
        ("feed_forward", {"activation": "silu", "expansion": 3}),
    ],
)
def test_a_stage_that_says_what_the_network_says_makes_no_difference(
    group: str, value: Any
) -> None:
    network = changed(group, value)
    agreeing = copy.deepcopy(network)
    agreeing["stages"][1][group] = value
    assert UNetConfig.model_validate(agreeing) == UNetConfig.model_validate(network) != build()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("stages.1.conv", "separable"),
        ("stages.1.attention.kv", "shared"),
        ("attention.normalizer", "relu"),
        ("time_width", 128),
        ("middle", [{}]),
        ("stages.1.down", [{}, {"layers": ["sa", "ff"]}]),
        ("stages.0.up.0.layers", ["ff", "ca", "sa"]),
        ("stages.0.up.0.transformers", 2),
    ],
)
def test_different_networks_differ(path: str, value: Any) -> None:
    assert build(path, value) != build()
    assert build(path, value).digest != build().digest


def test_canonical_form_leaves_defaults_out() -> None:
    assert build().to_dict() == {
        "schema": 1,
        "sample_size": 16,
        "norm_groups": 8,
        "stages": [
            {
                "channels": 16,
                "down": [{}],
                "up": [{"transformers": 1, "layers": ["sa", "ca", "ff"]}],
            },
            {"channels": 32, "down": [{"transformers": 1, "layers": ["sa", "ff"]}, {}], "up": [{}]},
        ],
    }
    assert build().to_json() == json.dumps(build().to_dict(), sort_keys=True, separators=(",", ":"))


def test_blocks_that_differ_are_written_one_by_one() -> None:
    block = {"transformers": [["sa", "ca", "ff"], ["ca"]]}
    config = build("stages.0.down.0", block)
    assert config.stages[0].down[0].transformers == (("sa", "ca", "ff"), ("ca",))
    assert config.to_dict()["stages"][0]["down"] == [block]


def test_options_are_inherited_from_stage_to_network_to_default() -> None:
    config = UNetConfig.model_validate(
        changed("attention", {"kv": "shared", "heads": 4})
        | {
            "conv": "separable",
            "feed_forward": {"expansion": 4},
            "stages": [
                DATA["stages"][0]
                | {
                    "conv": "full",
                    "attention": {"head_dim": 8},
                    "feed_forward": {"activation": "relu"},
                },
                DATA["stages"][1],
            ],
        }
    )
    assert [config.conv_of(0), config.conv_of(1)] == ["full", "separable"]
    rest = {
        "normalizer": "softmax",
        "kv_heads": None,
        "qk_norm": "none",
        "kv_compression": "none",
    }
    assert dict(config.attention_of(0)) == rest | {"kv": "shared", "heads": None, "head_dim": 8}
    assert dict(config.attention_of(1)) == rest | {"kv": "shared", "heads": 4, "head_dim": None}
    assert dict(config.feed_forward_of(0)) == {"expansion": 4, "activation": "relu"}
    assert dict(config.feed_forward_of(1)) == {"expansion": 4, "activation": "geglu"}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("norm_groups", 32, r"stages\[0\]\.channels 16 is not a multiple of norm_groups 32"),
        ("stages.0.channels", 24, None),
        (
            "attention.heads",
            5,
            r"stages\[0\]\.channels 16 is not a multiple of its attention\.heads 5",
        ),
        (
            "stages.1.attention.head_dim",
            6,
            r"stages\[1\]\.channels 32 is not a multiple of its attention\.head_dim 6",
        ),
        (
            "sample_size",
            15,
            r"sample_size 15 does not halve evenly 1 times, as its 2 stages need; allowed are "
            r"multiples of 2",
        ),
        (
            "feed_forward.expansion",
            3,
            r"stages\[0\]\.feed_forward\.expansion 3 cannot be halved, as the gated geglu needs",
        ),
        ("feed_forward", {"expansion": 3, "activation": "silu"}, None),
        (
            "attention",
            {"heads": 4, "head_dim": 8},
            r"heads \(4\) and head_dim \(8\) exclude each other, set one",
        ),
        (
            "stages.0.up.0.layers",
            ["ca", "ff", "ca"],
            r"layers \['ca', 'ff', 'ca'\] repeats a layer; allowed are sa, ca, ff and norm",
        ),
        (
            "stages.0.down.0",
            {"transformers": 3},
            r"transformers: 3 needs layers, e\.g\. layers: \[sa, ca, ff\]",
        ),
        (
            "stages.0.up.0.transformers",
            65,
            r"transformers must be a number from 0 to 64 .* but got 65",
        ),
        ("stages.0.up.0.layers", ["sx"], r"Input should be 'sa', 'ca', 'ff' or 'norm'"),
        ("stages.0.channels", 20, r"multiple of 8"),
        ("stages.0.channels", 0, r"greater than or equal to 8"),
        ("stages.0.down", [], r"at least 1 item"),
        ("stages", [], r"at least 1 item"),
        ("conv", "half", r"Input should be 'full', 'separable', 'expanded' or 'inverted'"),
        ("projection", "dense", r"Input should be 'conv' or 'linear'"),
        (
            "attention",
            {"heads": 4, "kv_heads": 3},
            r"attention.kv_heads 3 does not divide its 4 heads; allowed are 1, 2, 4",
        ),
        ("attention", {"qk_norm": "layer"}, r"Input should be 'none' or 'rms'"),
        ("attention", {"kv_compression": "mean"}, r"Input should be 'none' or 'conv'"),
        ("context_dim", 0, r"context_dim\n  Input should be greater than or equal to 1"),
        ("context_tokens", 0, r"context_tokens\n  Input should be greater than or equal to 1"),
        ("added", {"text_dim": 8, "id_dim": 3}, r"added.id_dim\n  Input should be a multiple of 2"),
        ("guidance_dim", 5, r"guidance_dim\n  Input should be a multiple of 2"),
        ("feed_forward.activation", "tanh", r"'gelu', 'geglu', 'silu', 'swiglu' or 'relu'"),
        ("feed_forward.expansion", 17, r"less than or equal to 16"),
        ("schema", 2, r"Input should be 1"),
        ("chanels", 3, r"Extra inputs are not permitted"),
        ("stages.0.attention.head", 3, r"Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_built_is_refused_with_field_value_and_what_is_allowed(
    path: str, value: Any, expected: str | None
) -> None:
    if expected is None:
        assert build(path, value)
        return
    with pytest.raises(ValidationError, match=expected):
        build(path, value)


@pytest.mark.parametrize("widths", [(16, 16, 8), (16, 8, 16)])
def test_single_values_cannot_be_normalised(widths: tuple[int, ...]) -> None:
    """One channel a group on one pixel, of the stage or entering it: torch refuses that at batch 1,
    so the configuration does.
    """
    stages = [{"channels": channels, "down": [{}], "up": [{}]} for channels in widths]
    with pytest.raises(
        ValidationError,
        match=r"stages\[2\] has a size of 1×1, where norm_groups 8 over 8 channels leave single",
    ):
        UNetConfig.model_validate({"norm_groups": 8, "sample_size": 4, "stages": stages})
    for mended in ({"norm_groups": 4, "sample_size": 4}, {"norm_groups": 8, "sample_size": 8}):
        config = UNetConfig.model_validate(mended | {"stages": stages})
        with torch.no_grad():
            assert UNet(config)(*example_inputs(config)).isfinite().all()


def test_options_that_no_layer_uses_are_not_in_the_way() -> None:
    """No attention and no feed-forward in the stage: its width need not suit heads, nor the
    expansion a gate.
    """
    plain = [
        {
            "channels": 24,
            "down": [{}],
            "up": [{}],
            "attention": {"heads": 7},
            "feed_forward": {"expansion": 3},
        }
    ]
    assert UNetConfig.model_validate(DATA | {"stages": plain})
    with pytest.raises(ValidationError, match="heads 7"):
        UNetConfig.model_validate(DATA | {"stages": plain, "middle": [{"layers": ["sa"]}]})
