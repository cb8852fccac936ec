"""From deployment scale to the small network that is trained: widths, heads, groups by the stated
rule; the rest stays.
"""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from archsearch import catalog
from archsearch.cost.price import price
from archsearch.errors import InputError
from archsearch.search_space.proxy import ProxyShape, proxy_config, proxy_heads, scale_width
from archsearch.search_space.space import load_space
from archsearch.unet.config import UNetConfig
from archsearch.unet.presets import PRESETS, preset
from tests.strategies import configs

TEXT = {"channels": 3, "context_dim": 384, "context_tokens": 16}
SHIPPED = [load_space(path.stem) for path in (catalog.packaged() / "search_spaces").glob("*.yaml")]


def shrink(config: UNetConfig, width: float = 0.0625, sample_size: int = 32) -> UNetConfig:
    return proxy_config(config, ProxyShape(width=width, sample_size=sample_size), **TEXT)


@pytest.mark.parametrize(
    ("channels", "factor", "width"),
    [
        (320, 0.0625, 24),
        (640, 0.0625, 40),
        (256, 0.0625, 16),
        (64, 0.0625, 8),
        (864, 0.0625, 56),
        (8, 0.1, 8),
        (320, 1.0, 320),
        (24, 0.5, 16),
    ],
)
def test_widths_are_rounded_half_up_to_a_multiple_of_8(
    channels: int, factor: float, width: int
) -> None:
    """320 / 16 = 20 lies half way between 16 and 24, and goes up; nothing is narrower than 8."""
    assert scale_width(channels, factor) == width


@given(st.integers(1, 1024).map(lambda n: 8 * n), st.floats(0.001, 1))
def test_a_scaled_width_is_the_nearest_multiple_of_8(channels: int, factor: float) -> None:
    width = scale_width(channels, factor)
    assert width % 8 == 0
    assert width >= 8
    assert width == 8 or abs(width - channels * factor) <= 4 + 1e-9
    assert scale_width(channels + 8, factor) >= width


@pytest.mark.parametrize(
    ("heads", "channels", "expected"),
    [
        (8, 64, 8),
        (8, 56, 7),
        (8, 40, 5),
        (8, 24, 3),
        (8, 16, 2),
        (8, 8, 1),
        (2, 64, 2),
        (5, 64, 4),
        (1, 64, 1),
        (20, 320, 20),
    ],
)
def test_heads_keep_8_channels_and_divide_the_width(
    heads: int, channels: int, expected: int
) -> None:
    assert proxy_heads(heads, channels) == expected


@given(st.integers(1, 64), st.integers(1, 128).map(lambda n: 8 * n))
def test_heads_are_the_largest_number_that_may_be(heads: int, channels: int) -> None:
    allowed = [n for n in range(1, heads + 1) if channels % n == 0 and channels // n >= 8]
    assert proxy_heads(heads, channels) == max(allowed)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_at_a_sixteenth(name: str) -> None:
    config = preset(name)
    proxy = shrink(config)
    assert [stage.channels for stage in proxy.stages] == [
        scale_width(stage.channels, 0.0625) for stage in config.stages
    ]
    assert proxy.time_width == scale_width(4 * config.stages[0].channels, 0.0625)
    assert (proxy.in_channels, proxy.out_channels, proxy.sample_size) == (3, 3, 32)
    assert (proxy.context_dim, proxy.context_tokens, proxy.norm_groups) == (384, 16, 8)
    assert price(proxy).params < price(config).params / 100


def kept(config: UNetConfig) -> Any:
    """What the proxy keeps: stages, blocks, layers and options other than heads."""
    stages = [
        (
            stage.down,
            stage.up,
            config.conv_of(index),
            config.attention_of(index).kv,
            config.attention_of(index).normalizer,
            config.attention_of(index).qk_norm,
            config.projection_of(index),
            config.feed_forward_of(index),
        )
        for index, stage in enumerate(config.stages)
    ]
    return stages, config.middle


@settings(max_examples=60)
@given(configs, st.sampled_from([0.0625, 0.1, 0.25, 0.5, 1.0]))
def test_stages_blocks_layers_and_options_are_kept(config: UNetConfig, width: float) -> None:
    proxy = shrink(config, width)
    assert kept(proxy) == kept(config)
    for index, stage in enumerate(config.stages):
        options = config.attention_of(index)
        before = options.heads or stage.channels // (options.head_dim or 1)
        assert proxy.attention_of(index).heads == proxy_heads(before, proxy.stages[index].channels)
        assert proxy.attention_of(index).head_dim is None


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.sampled_from([0.01, 0.0625, 0.1, 0.125, 0.25, 0.5, 1.0]),
    st.sampled_from([16, 32, 64]),
)
def test_every_architecture_of_a_shipped_space_has_a_proxy(
    seed: int, width: float, size: int
) -> None:
    for space in SHIPPED:
        _, config = space.draw_valid(random.Random(seed))
        proxy = shrink(config, width, size)
        assert proxy == UNetConfig.model_validate_json(proxy.to_json())
        assert kept(proxy) == kept(config)
        assert price(proxy).params <= price(config).params


@pytest.mark.parametrize(("kv_heads", "expected"), [(1, 1), (2, 1), (4, 3), (8, 3)])
def test_heads_of_keys_divide_the_heads_that_are_left(kv_heads: int, expected: int) -> None:
    """Of 8 heads over 320 channels a proxy of 24 channels keeps 3; of keys and values as many as
    divide these.
    """
    stage = {"channels": 320, "down": [{"layers": ["sa"]}], "up": [{}]}
    proxy = shrink(
        UNetConfig.model_validate({"attention": {"kv_heads": kv_heads}, "stages": [stage]}), 0.0625
    )
    assert (proxy.attention_of(0).heads, proxy.attention_of(0).kv_heads) == (3, expected)


def test_the_added_embedding_is_left_out() -> None:
    """Its inputs are of a text encoder that no proxy has."""
    stage = {"channels": 320, "down": [{}], "up": [{}]}
    plain, added = (
        UNetConfig.model_validate({"stages": [stage]} | more)
        for more in ({}, {"added": {"text_dim": 1280}})
    )
    assert shrink(added) == shrink(plain)


def test_the_guidance_weight_is_left_out() -> None:
    """A network takes it from its distillation on; the proxy's training has none."""
    stage = {"channels": 320, "down": [{}], "up": [{}]}
    plain, guided = (
        UNetConfig.model_validate({"stages": [stage]} | more) for more in ({}, {"guidance_dim": 64})
    )
    assert shrink(guided) == shrink(plain)


def test_the_number_of_heads_is_kept_however_it_is_said() -> None:
    """8 heads of 40 channels, or 40 channels a head: the same network, the same proxy."""
    stage = {"channels": 320, "down": [{"layers": ["sa"]}], "up": [{}]}
    by_number, by_size = (
        UNetConfig.model_validate({"attention": options, "stages": [stage]})
        for options in ({"heads": 8}, {"head_dim": 40})
    )
    assert shrink(by_number) == shrink(by_size)


@pytest.mark.parametrize(
    ("key", "value"),
    [("width", 0), ("width", 1.5), ("sample_size", 4), ("sample_size", 256), ("size", 3)],
)
def test_shapes_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValidationError, match=key):
        ProxyShape.model_validate({key: value})


def test_a_resolution_that_does_not_halve_is_refused_by_name() -> None:
    with pytest.raises(
        InputError,
        match=r"proxy of width 0\.0625 and sample_size 36: sample_size 36 does not halve evenly 3 "
        r"times",
    ):
        shrink(preset("sd15"), sample_size=36)
