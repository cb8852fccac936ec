"""What diffusers' UNet cannot express is refused by the path of the option in the way; all else is
written whole.
"""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.diffusers import from_diffusers, to_diffusers
from archsearch.unet.plan import plan
from archsearch.unet.presets import preset
from tests.strategies import attentions, configs, convs, feed_forwards, projections
from tests.unet.published import small_settings

BLOCK = {"transformers": 1, "layers": ["sa", "ca", "ff"]}


def _base(**changes: Any) -> dict[str, Any]:
    stages: list[dict[str, Any]] = [
        {"channels": 32, "down": [BLOCK], "up": [BLOCK] * 2},
        {"channels": 64, "down": [BLOCK], "up": [BLOCK] * 2},
    ]
    stages[1] |= changes.pop("inner", {})
    return {"sample_size": 8, "stages": stages, "middle": [BLOCK, {}]} | changes


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            _base(inner={"conv": "separable"}),
            r"^stages\[1\]\.conv separable: diffusers has full convolutions only",
        ),
        (
            _base(inner={"flat": True}),
            r"^stages\[1\]\.flat true: diffusers halves the size between all stages",
        ),
        (
            _base(inner={"attention": {"kv_compression": "conv"}}),
            r"^stages\[1\]\.attention\.kv_compression conv: diffusers has none only",
        ),
        (
            _base(inner={"projection": "linear"}),
            "^projection conv and linear: diffusers has one form in all stages",
        ),
        (
            _base(attention={"kv": "shared"}),
            r"^stages\[0\]\.attention\.kv shared: .*\nstages\[1\]\.attention\.kv shared",
        ),
        (
            _base(inner={"attention": {"normalizer": "relu"}}),
            r"^stages\[1\]\.attention\.normalizer relu: diffusers has softmax",
        ),
        (
            _base(inner={"attention": {"kv_heads": 2}}),
            r"^stages\[1\]\.attention\.kv_heads 2: diffusers has 8 only",
        ),
        (
            _base(inner={"attention": {"qk_norm": "rms"}}),
            r"^stages\[1\]\.attention\.qk_norm rms: diffusers has none only",
        ),
        (
            _base(inner={"feed_forward": {"activation": "silu"}}),
            r"^stages\[1\]\.feed_forward\.activation silu: diffusers has",
        ),
        (
            _base(inner={"feed_forward": {"expansion": 4}}),
            r"^stages\[1\]\.feed_forward\.expansion 4: diffusers has 8 only",
        ),
        (
            _base(inner={"up": [BLOCK]}),
            (
                r"^stages\[1\]\.up has 1 residual blocks for 1 down: diffusers has one more up "
                r"than down"
            ),
        ),
        (
            _base(inner={"up": [BLOCK, {}]}),
            r"^stages\[1\]\.up: diffusers has transformer blocks after every residual block",
        ),
        (
            _base(inner={"down": [{"layers": ["ca", "ff"]}]}),
            r"^stages\[1\]\.down: layers \[ca, ff\]: .* are \[sa, ca, ff\]",
        ),
        (_base(middle=[BLOCK]), r"^middle has transformer blocks \[1\]"),
        (_base(middle=[{}, {}]), r"^middle has transformer blocks \[0, 0\]"),
        (
            _base(middle=[BLOCK | {"transformers": 2}, {}]),
            r"^middle\[0\]\.transformers 2: diffusers has the last stage's, 1 after",
        ),
        (
            _base(added={"text_dim": 1000, "ids": 4}),
            r"^added\.ids 4: .* width 2024 of text and time ids only, of which 6 ids",
        ),
    ],
)
def test_options_that_diffusers_lacks_are_refused_by_path(
    data: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        to_diffusers(UNetConfig.model_validate(data))
    head, problems = str(caught.value).split("\n", 1)
    assert head.endswith("cannot be a diffusers UNet2DConditionModel:")
    assert re.search(message, problems)


def test_every_option_in_the_way_is_named() -> None:
    with pytest.raises(InputError) as caught:
        to_diffusers(preset("mobilediffusion-lite"))
    for name in (
        "stages[2].conv",
        "stages[1].down: layers [ca, ff]",
        "attention.kv",
        "normalizer",
        "activation",
        "expansion",
    ):
        assert name in str(caught.value)


def test_options_of_what_a_stage_does_not_have_are_no_obstacle() -> None:
    plain = {"down": [{}], "up": [{}] * 2, "attention": {"kv": "shared"}, "projection": "linear"}
    data = _base(middle=[])
    data["stages"][0] |= plain
    config = UNetConfig.model_validate(data)
    assert plan(from_diffusers(to_diffusers(config))) == plan(config)


@settings(max_examples=100)
@given(st.one_of(configs, small_settings().map(from_diffusers)), st.data())
def test_a_network_is_written_whole_or_refused(config: UNetConfig, data: st.DataObject) -> None:
    """No knob is lost on the way: what comes back is the same network, unit by unit."""
    knobs = {
        "conv": convs,
        "projection": projections,
        "attention": attentions,
        "feed_forward": feed_forwards,
    }
    knob = data.draw(st.sampled_from([None, *knobs]))
    if knob:
        stage = data.draw(st.integers(0, len(config.stages) - 1))
        changed = config.to_dict()
        changed["stages"][stage][knob] = data.draw(knobs[knob])
        try:
            config = UNetConfig.model_validate(changed)
        except ValueError:
            return
    try:
        written = to_diffusers(config)
    except InputError:
        return
    assert plan(from_diffusers(written, context_tokens=config.context_tokens)) == plan(config)
