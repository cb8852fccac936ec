"""The price of whole networks: published counts, and exact against the built module for presets and
random networks.
"""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings

from archsearch.cost.counters import count_torch
from archsearch.cost.price import kind_costs, price, stage_costs, unit_costs
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import plan
from archsearch.unet.presets import PRESETS, preset
from tests.cost.tracker import track_peak_activation_bytes
from tests.strategies import configs

GOLDEN = sorted(
    path
    for path in (Path(__file__).parents[1] / "golden" / "configs").glob("*.json")
    if path.stem not in PRESETS
)


@pytest.mark.parametrize(
    ("name", "parameters", "without_attention", "with_attention"),
    [
        ("sd15", 859_520_964, 338.61, 401.64),
        ("sdxl", 2_567_463_684, 2988.66, 3380.62),
        ("bk-sdm-base", 579_384_964, 223.67, 261.50),
    ],
)
def test_published_networks_have_their_exact_counts(
    name: str, parameters: int, without_attention: float, with_attention: float
) -> None:
    cost = price(preset(name))
    assert cost.params == parameters
    assert round((cost.macs_by_kind.conv + cost.macs_by_kind.linear) / 1e9, 2) == without_attention
    assert round(cost.macs / 1e9, 2) == with_attention


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [("mobilediffusion", 386e6, 182e9), ("mobilediffusion-lite", 278e6, 153e9)],
)
def test_reconstructed_networks_are_within_two_percent_of_the_published_size(
    name: str, parameters: float, macs: float
) -> None:
    cost = price(preset(name))
    assert cost.params == pytest.approx(parameters, rel=0.02)
    assert cost.macs_by_kind.conv + cost.macs_by_kind.linear == pytest.approx(macs, rel=0.02)


def test_mobilediffusion_has_twelve_residual_blocks_and_attends_where_the_lite_one_does() -> None:
    placed = list(plan(preset("mobilediffusion")).placed())
    assert [unit.kind for _, unit in placed].count("residual") == 12
    assert {place[:9] for place, unit in placed if unit.kind == "self_attention"} == {
        "stages[2]",
        "middle[0]",
    }
    assert {place[:9] for place, unit in placed if unit.kind == "cross_attention"} == {
        "stages[1]",
        "stages[2]",
        "middle[0]",
    }


def test_mobilediffusion_lite_has_the_published_layers() -> None:
    """The paper's table: 11 residual blocks, 12 self- and 15 cross-attentions, none at 64²."""
    placed = list(plan(preset("mobilediffusion-lite")).placed())
    kinds = [unit.kind for _, unit in placed]
    assert [kinds.count(kind) for kind in ("residual", "self_attention", "cross_attention")] == [
        11,
        12,
        15,
    ]
    assert not [
        place
        for place, unit in placed
        if place.startswith("stages[0]") and unit.kind.endswith("attention")
    ]
    assert {place[:9] for place, unit in placed if unit.kind == "self_attention"} == {"stages[2]"}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_exact_against_the_built_module(name: str) -> None:
    cost = price(preset(name))
    assert count_torch(preset(name)) == {"params": cost.params, "macs": cost.macs}
    assert cost.peak_activation_bytes == track_peak_activation_bytes(preset(name))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_networks_are_exact(path: Path) -> None:
    config = UNetConfig.model_validate(json.loads(path.read_text())["config"])
    cost = price(config)
    assert count_torch(config) == {"params": cost.params, "macs": cost.macs}
    assert cost.peak_activation_bytes == track_peak_activation_bytes(config)


def assert_exact(config: UNetConfig) -> None:
    """Parameters of the built module, MACs of ``FlopCounterMode``, peak of a tracker that sees
    every tensor live and die.
    """
    cost = price(config)
    assert count_torch(config) == {"params": cost.params, "macs": cost.macs}
    assert cost.peak_activation_bytes == track_peak_activation_bytes(config)


@settings(max_examples=40)
@given(configs)
def test_the_price_of_any_network_is_exact(config: UNetConfig) -> None:
    assert_exact(config)


@pytest.mark.slow
@settings(max_examples=300)
@given(configs)
def test_the_price_of_three_hundred_networks_is_exact(config: UNetConfig) -> None:
    assert_exact(config)


@pytest.mark.parametrize("time_width", [64, 16_384])
def test_a_wide_time_embedding_is_in_the_peak(time_width: int) -> None:
    """Wider than any feature map, it is the peak itself: two of its tensors at once."""
    config = UNetConfig.model_validate(
        {
            "sample_size": 8,
            "norm_groups": 8,
            "context_dim": 4,
            "context_tokens": 2,
            "time_width": time_width,
            "stages": [{"channels": 8, "down": [{}], "up": [{}]}],
        }
    )
    peak = price(config).peak_activation_bytes
    assert peak == track_peak_activation_bytes(config)
    assert (peak == 4 * (4 * 8 * 8 + 4 * 2 + 2 * time_width)) == (time_width > 1000)


def test_peak_of_one_block_by_hand() -> None:
    """Peak where the joined input (2C), its norm and its activation live at once, besides sample,
    context and time; C = 8·8².
    """
    config = UNetConfig.model_validate(
        {
            "sample_size": 8,
            "norm_groups": 8,
            "context_dim": 4,
            "context_tokens": 2,
            "stages": [{"channels": 8, "down": [{}], "up": [{}]}],
        }
    )
    width = 8 * 8 * 8
    assert price(config).peak_activation_bytes == 4 * (4 * 64 + 2 * 4 + 32 + 3 * 2 * width)


def test_skips_that_are_not_taken_are_not_held() -> None:
    """With one block up only the last tensor of the way down is kept, however many there are."""

    def peak(down: int) -> int:
        stages = [
            {"channels": 8, "down": [{}] * down, "up": [{}]},
            {"channels": 64, "down": [{}], "up": [{}]},
        ]
        return price(
            UNetConfig.model_validate({"sample_size": 8, "norm_groups": 8, "stages": stages})
        ).peak_activation_bytes

    assert peak(1) == peak(3)


def test_to_dict_is_what_arch_show_prints() -> None:
    cost = price(preset("sd15"))
    assert cost.to_dict() == {
        "params": 859_520_964,
        "macs": cost.macs,
        "macs_by_kind": {
            "conv": cost.macs_by_kind.conv,
            "linear": cost.macs_by_kind.linear,
            "attention": cost.macs_by_kind.attention,
        },
        "peak_activation_bytes": cost.peak_activation_bytes,
        "weight_bytes": {
            "float32": 3_438_083_856,
            "float16": 1_719_041_928,
            "int8": 859_520_964,
            "int4": 429_760_482,
        },
    }
    assert sum(cost.to_dict()["macs_by_kind"].values()) == cost.macs


@settings(max_examples=30)
@given(configs)
def test_parts_add_up(config: UNetConfig) -> None:
    cost = price(config)
    for rows in (unit_costs(config), stage_costs(config), kind_costs(config)):
        assert sum(row["params"] for row in rows) == cost.params
        assert sum(row["macs"] for row in rows) == cost.macs
    assert price(plan(config)) == cost


def test_stages_are_told_in_short() -> None:
    rows = {row["stage"]: row for row in stage_costs(preset("mobilediffusion-lite"))}
    assert list(rows) == ["stages[0]", "stages[1]", "stages[2]", "input, time, output"]
    assert rows["stages[0]"] | {"params": 0, "macs": 0} == {
        "stage": "stages[0]",
        "channels": 320,
        "size": 64,
        "down": "R",
        "up": "2 × R",
        "conv": "full",
        "params": 0,
        "macs": 0,
    }
    assert rows["stages[1]"]["down"] == "(R + [ca ff])"
    assert rows["stages[2]"]["up"] == "3 × (R + 2 [sa ca ff])"
    assert (rows["stages[2]"]["size"], rows["stages[2]"]["conv"]) == (16, "separable")


def test_the_units_of_a_kind_cost_together_what_each_costs() -> None:
    rows = kind_costs(preset("mobilediffusion-lite"), lambda unit: 2.0)
    by_stage = {(row["stage"], row["kind"]): row for row in rows}
    assert len(by_stage) == len(rows)
    # Two blocks down with three transformer blocks each, three up with two.
    attention = by_stage["stages[2]", "self_attention"]
    assert (attention["units"], attention["ms"]) == (12, 24.0)
    assert by_stage["input, time, output", "time"]["units"] == 1
    assert sum(row["units"] for row in rows) == len(unit_costs(preset("mobilediffusion-lite")))
    for stage in stage_costs(preset("mobilediffusion-lite")):
        parts = [row["params"] for row in rows if row["stage"] == stage["stage"]]
        assert sum(parts) == stage["params"]


def test_breakdown_takes_times_from_a_table() -> None:
    config = UNetConfig.model_validate(
        {
            "sample_size": 8,
            "norm_groups": 8,
            "stages": [{"channels": 8, "down": [{"transformers": [["sa"], ["ff"]]}], "up": [{}]}],
            "middle": [{}],
        }
    )
    rows = {row["stage"]: row for row in stage_costs(config, lambda unit: 2.0)}
    assert rows["stages[0]"]["down"] == "(R + [sa] [ff])"
    assert {stage: row["ms"] for stage, row in rows.items()} == {
        "stages[0]": 10.0,
        "middle": 2.0,
        "input, time, output": 6.0,
    }
    assert sum(row["ms"] for row in unit_costs(config, lambda unit: 2.0)) == 2.0 * len(
        list(plan(config).placed())
    )
