"""From configuration to units: shapes, options, and the rule of the skips."""

from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from archsearch.unet import units
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs
from archsearch.unet.plan import plan
from archsearch.unet.presets import preset
from tests.strategies import configs


def one_stage(down: int, up: int) -> UNetConfig:
    return UNetConfig.model_validate(
        {
            "norm_groups": 8,
            "sample_size": 8,
            "stages": [{"channels": 16, "down": [{}] * down, "up": [{}] * up}],
        }
    )


@pytest.mark.parametrize("down", [1, 2, 3, 4])
@pytest.mark.parametrize("up", [1, 2, 3, 4])
def test_skips_are_taken_latest_first_one_a_block(down: int, up: int) -> None:
    """A stage offers its entering tensor and the output of each block; surplus blocks take none,
    the earliest are not kept.
    """
    stage = plan(one_stage(down, up)).stages[0]
    taken = min(up, down + 1)
    assert [block.skip for block in stage.up] == [16] * taken + [0] * (up - taken)
    assert [block.residual.in_channels for block in stage.up] == [32] * taken + [16] * (up - taken)
    assert [stage.keeps(index) for index in range(down + 1)] == [
        index >= down + 1 - taken for index in range(down + 1)
    ]


def test_one_more_up_than_down_is_stable_diffusions_rule() -> None:
    """Input widths of SD 1.5's blocks on the way up, as in diffusers' ``UNet2DConditionModel``."""
    stages = plan(preset("sd15")).stages
    widths = [[block.residual.in_channels for block in stage.up] for stage in stages]
    assert widths == [[960, 640, 640], [1920, 1280, 960], [2560, 2560, 1920], [2560, 2560, 2560]]
    assert all(all(stage.keeps(index) for index in range(3)) for stage in stages)


def test_the_entering_tensor_of_a_stage_has_the_width_of_the_one_before() -> None:
    config = UNetConfig.model_validate(
        {
            "norm_groups": 8,
            "sample_size": 8,
            "stages": [
                {"channels": 16, "down": [{}], "up": [{}]},
                {"channels": 32, "down": [{}], "up": [{}, {}, {}]},
            ],
        }
    )
    outer, inner = plan(config).stages
    assert inner.down[0].residual.in_channels == 16
    assert [block.skip for block in inner.up] == [32, 16, 0]
    assert [block.residual.in_channels for block in inner.up] == [64, 48, 32]
    assert outer.up[0].residual.in_channels == 32 + 16


def test_units_are_named_by_place_in_execution_order() -> None:
    config = UNetConfig.model_validate(
        {
            "norm_groups": 8,
            "sample_size": 8,
            "stages": [
                {"channels": 16, "down": [{"layers": ["ca"]}], "up": [{}]},
                {"channels": 32, "down": [{}], "up": [{"transformers": [["sa"], ["ff", "ca"]]}]},
            ],
            "middle": [{}],
        }
    )
    assert [place for place, _ in plan(config).placed()] == [
        "time",
        "input",
        "stages[0].down[0].residual",
        "stages[0].down[0].projection",
        "stages[0].down[0].transformers[0].cross_attention",
        "stages[0].downsample",
        "stages[1].down[0].residual",
        "middle[0].residual",
        "stages[1].up[0].residual",
        "stages[1].up[0].projection",
        "stages[1].up[0].transformers[0].self_attention",
        "stages[1].up[0].transformers[1].feed_forward",
        "stages[1].up[0].transformers[1].cross_attention",
        "stages[1].upsample",
        "stages[0].up[0].residual",
        "output",
    ]


def test_options_are_resolved_per_stage() -> None:
    block = {"layers": ["sa", "ca", "ff"]}
    stage = {"channels": 32, "down": [block], "up": [{}]}
    config = UNetConfig.model_validate(
        {
            "norm_groups": 8,
            "sample_size": 8,
            "context_dim": 12,
            "context_tokens": 5,
            "attention": {"kv": "shared", "heads": 4},
            "feed_forward": {"activation": "silu", "expansion": 3},
            "stages": [
                stage,
                stage
                | {
                    "conv": "separable",
                    "attention": {"kv": "shared_everywhere", "normalizer": "relu", "head_dim": 16},
                    "feed_forward": {"expansion": 2},
                },
            ],
        }
    )
    first, second = (stage.down[0] for stage in plan(config).stages)
    assert first.transformers == (
        (
            units.SelfAttention(32, 64, 4, True, "softmax"),
            units.CrossAttention(32, 64, 4, False, "softmax", 12, 5),
            units.FeedForward(32, 64, 3, "silu"),
        ),
    )
    assert second.transformers == (
        (
            units.SelfAttention(32, 16, 2, True, "relu"),
            units.CrossAttention(32, 16, 2, True, "relu", 12, 5),
            units.FeedForward(32, 16, 2, "silu"),
        ),
    )
    assert (first.residual.conv, second.residual.conv) == ("full", "separable")


@given(configs)
def test_widths_and_sizes_of_neighbouring_units_fit(config: UNetConfig) -> None:
    """Followed through the whole network, skips and all."""
    resolved = plan(config)
    width, size = resolved.input.out_channels, resolved.input.size
    skips: list[tuple[int, int]] = []

    def follow(block: Any, width: int) -> int:
        if block.skip:
            assert skips.pop() == (block.skip, size)
        assert (block.residual.in_channels, block.residual.size) == (width + block.skip, size)
        if block.projection:
            assert (block.projection.channels, block.projection.size) == (
                block.residual.out_channels,
                size,
            )
        for layer in (layer for layers in block.transformers for layer in layers):
            assert (layer.channels, layer.tokens) == (block.residual.out_channels, size**2)
        return int(block.residual.out_channels)

    for stage in resolved.stages:
        if stage.keeps(0):
            skips.append((width, size))
        for index, block in enumerate(stage.down):
            width = follow(block, width)
            if stage.keeps(index + 1):
                skips.append((width, size))
        if stage.downsample:
            assert (stage.downsample.channels, stage.downsample.size) == (width, size)
            size //= 2
    for block in resolved.middle:
        width = follow(block, width)
    for stage in reversed(resolved.stages):
        for block in stage.up:
            width = follow(block, width)
        if stage.upsample:
            assert (stage.upsample.channels, stage.upsample.size) == (width, size)
            size *= 2
    assert not skips
    assert (
        (resolved.output.in_channels, resolved.output.size)
        == (width, size)
        == (config.stages[0].channels, config.sample_size)
    )


def test_a_trunk_of_flat_stages_keeps_its_size() -> None:
    """A small U-ViT: one stage that makes patches of 2×2 pixels, then transformer blocks at one
    size, with skip connections from the way down to the way up.
    """
    block = {"layers": ["sa", "ca", "ff"]}
    config = UNetConfig.model_validate(
        {
            "sample_size": 16,
            "norm_groups": 8,
            "attention": {"normalizer": "linear"},
            "stages": [
                {"channels": 16, "down": [{}], "up": [{}]},
                {"channels": 64, "down": [block], "up": [block]},
                {"channels": 64, "down": [block], "up": [block], "flat": True},
                {"channels": 64, "down": [block], "up": [block], "flat": True},
            ],
        }
    )
    stages = plan(config).stages
    assert config.sizes == [16, 8, 8, 8]
    assert [stage.down[0].residual.size for stage in stages] == config.sizes
    assert [stage.downsample is not None for stage in stages] == [True, False, False, False]
    assert [stage.upsample is not None for stage in stages] == [False, True, False, False]
    assert [stage.up[0].skip for stage in stages] == [16, 64, 64, 64]
    inputs = example_inputs(config)
    assert UNet(config)(*inputs).shape == inputs[0].shape
    deeper = config.to_dict() | {"sample_size": 6}
    assert UNetConfig.model_validate(deeper).sizes == [6, 3, 3, 3]


def test_the_first_stage_is_not_flat() -> None:
    stage = {"channels": 32, "down": [{}], "up": [{}], "flat": True}
    with pytest.raises(ValidationError, match=r"stages\[0\]\.flat true: there is no stage before"):
        UNetConfig.model_validate({"stages": [stage]})


def test_odd_sizes_cannot_be_compressed() -> None:
    stage = {"channels": 32, "down": [{"layers": ["sa"]}], "up": [{}]}
    data = {"sample_size": 7, "attention": {"kv_compression": "conv"}, "stages": [stage]}
    with pytest.raises(ValidationError, match=r"stages\[0\] has a size of 7×7, of which its"):
        UNetConfig.model_validate(data)


def test_linear_attention_leaves_the_text_its_softmax_unless_it_is_everywhere() -> None:
    def normalizers(normalizer: str) -> set[tuple[str, str]]:
        stage = {"channels": 32, "down": [{"layers": ["sa", "ca"]}], "up": [{}]}
        data = {"attention": {"normalizer": normalizer}, "stages": [stage]}
        layers = plan(UNetConfig.model_validate(data)).stages[0].down[0].transformers[0]
        return {
            (layer.kind, layer.normalizer)
            for layer in layers
            if isinstance(layer, units.SelfAttention | units.CrossAttention)
        }

    assert normalizers("linear") == {("self_attention", "linear"), ("cross_attention", "softmax")}
    assert normalizers("linear_everywhere") == {
        ("self_attention", "linear"),
        ("cross_attention", "linear"),
    }
