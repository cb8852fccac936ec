"""Weights of edited networks: exact where a network can say the same in another form, close where
it cannot, complete always.
"""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archsearch.edit.inherit import inherit
from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs
from tests.edit.networks import change, change_from_scratch, edited, small, weights
from tests.strategies import configs

GELU = {"feed_forward.activation": "gelu"}
SILU = {"feed_forward.activation": "silu"}
HALF = {"feed_forward.expansion": 4}  # as many hidden units as a gated layer of 8 has
FULL_LAYERS = ["sa", "ca", "ff"]

EXACT: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("nothing", {}, {}),
    ("a latent of more channels", {}, {"in_channels": 8, "out_channels": 8}),
    ("a latent of fewer channels predicted", {}, {"out_channels": 2}),
    ("linear projections", {}, {"projection": "linear"}),
    ("1×1 convolutions again", {"projection": "linear"}, {"projection": "conv"}),
    ("separable to full", {"conv": "separable"}, {"conv": "full"}),
    ("separable to expanded", {"conv": "separable"}, {"conv": "expanded"}),
    (
        "keys and values apart again",
        {"attention.kv": "shared_everywhere"},
        {"attention.kv": "separate"},
    ),
    ("a head of keys for each of queries", {"attention.kv_heads": 1}, {"attention.kv_heads": 4}),
    ("more heads", {"attention.heads": None, "attention.head_dim": 8}, {}),
    ("wider expansion", {"feed_forward.expansion": 4}, {"feed_forward.expansion": 8}),
    ("wider plain expansion", GELU, {"feed_forward.expansion": 12}),
    (
        "plain to gated GELU",
        GELU | HALF,
        {"feed_forward.activation": "geglu", "feed_forward.expansion": 8},
    ),
    (
        "plain to gated SiLU",
        SILU | HALF,
        {"feed_forward.activation": "swiglu", "feed_forward.expansion": 8},
    ),
    ("more transformer blocks", {}, {"stages[1].*.transformers": 3, "middle[0].transformers": 2}),
    ("transformers where there were none", {}, {"stages[2].*.layers": FULL_LAYERS}),
    (
        "self-attention beside cross-attention",
        {"stages[0].*.layers": ["ca", "ff"]},
        {"stages[0].*.layers": FULL_LAYERS},
    ),
    ("more blocks in the middle", {}, {"middle.length": 4}),
    ("a middle where there was none", {"middle.length": 0}, {"middle.length": 1}),
    ("another block on the way up", {}, {"stages[1].up.length": 4}),
    (
        "a silent block down and up",
        {"stages[1].down.length": 1, "stages[1].up.length": 2},
        {"stages[1].down.length": 2, "stages[1].up.length": 3},
    ),
    ("flat throughout", {"stages[1].flat": True}, {}),
    ("an added embedding, not yet heard", {}, {"added.text_dim": 16}),
    ("a guidance weight, not yet heard", {}, {"guidance_dim": 16}),
    ("a guidance weight that is kept", {"guidance_dim": 16}, {"projection": "linear"}),
]

CLOSE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("shared keys and values", {}, {"attention.kv": "shared"}),
    ("shared in cross-attention too", {}, {"attention.kv": "shared_everywhere"}),
    ("fewer heads of keys", {}, {"attention.kv_heads": 2}),
    ("heads of fewer channels", {}, {"attention.heads": 8}),
    ("fewer heads", {}, {"attention.heads": 2}),
    ("norm of queries and keys", {}, {"attention.qk_norm": "rms"}),
    (
        "no norm of queries and keys any more",
        {"attention.qk_norm": "rms"},
        {"attention.qk_norm": "none"},
    ),
    ("compressed keys and values, four pixels alike", {}, {"attention.kv_compression": "conv"}),
    (
        "compressed ones of fewer heads",
        {"attention.kv_compression": "conv"},
        {"attention.kv_heads": 2},
    ),
    ("ReLU attention", {}, {"attention.normalizer": "relu"}),
    ("gated SiLU for gated GELU", {}, {"feed_forward.activation": "swiglu"}),
    ("plain for gated", {}, {"feed_forward.activation": "silu", "feed_forward.expansion": 6}),
    ("trimmed expansion", {}, {"feed_forward.expansion": 6}),
    ("no self-attention", {}, {"stages[0].*.layers": ["ca", "ff"]}),
    ("no attention in a stage", {}, {"stages[1].*.layers": []}),
    ("separable convolutions in a stage", {}, {"stages[2].conv": "separable"}),
    ("expanded convolutions in a stage", {}, {"stages[2].conv": "expanded"}),
    ("inverted convolutions in a stage", {}, {"stages[2].conv": "inverted"}),
    ("separable to inverted", {"conv": "separable"}, {"conv": "inverted"}),
    ("inverted to full", {"conv": "inverted"}, {"stages[1].conv": "full"}),
    ("a thinner inverted stage", {"conv": "inverted"}, {"stages[1].channels": 48}),
    ("a norm alone for self-attention", {}, {"stages[1].down[0].layers": ["norm", "ca", "ff"]}),
    ("a thinner stage", {}, {"stages[1].channels": 48}),
    ("a thinner last stage", {}, {"stages[2].channels": 48}),
    ("a thinner time embedding", {}, {"time_width": 96}),
    ("no guidance weight any more", {"guidance_dim": 16}, {"guidance_dim": None}),
    ("no middle", {}, {"middle.length": 0}),
    ("a stage fewer", {}, {"stages.length": 2}),
    ("a residual block fewer", {}, {"stages[1].down.length": 1, "stages[1].up.length": 2}),
]


def pairs(cases: list[tuple[str, dict[str, Any], dict[str, Any]]]) -> Any:
    built = [(small(**before), edited(small(**before), **after)) for _, before, after in cases]
    return pytest.mark.parametrize(("source", "target"), built, ids=[name for name, _, _ in cases])


@pairs(EXACT)
def test_what_says_the_same_in_another_form_leaves_the_output(
    source: UNetConfig, target: UNetConfig
) -> None:
    assert change(source, target) < 1e-5


@pairs(CLOSE)
def test_what_takes_something_away_stays_closer_than_a_network_from_scratch(
    source: UNetConfig, target: UNetConfig
) -> None:
    assert 0 < change(source, target) < 0.5 * change_from_scratch(source, target)


def test_thinning_everything_to_half_still_knows_something() -> None:
    target = small(
        **{
            "stages[0].channels": 16,
            "stages[1].channels": 32,
            "stages[2].channels": 32,
            "time_width": 64,
        }
    )
    assert change(small(), target) < 0.9 * change_from_scratch(small(), target)


def test_wider_stages_keep_more_of_the_output() -> None:
    """Thinned more and more, the output moves away more and more."""
    changes = [
        change(small(), small(**{"stages[2].channels": channels})) for channels in (64, 56, 32, 8)
    ]
    assert changes == sorted(changes)
    assert changes[0] == 0


def test_new_weights_come_from_the_seed_and_leave_torch_alone() -> None:
    source, target = small(), small(**{"stages[2].*.layers": FULL_LAYERS})
    state = weights(source)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = (
        inherit(source, state, target),
        inherit(source, state, target),
        inherit(source, state, target, seed=1),
    )
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            {"stages[1].channels": 96},
            r"stages\[1\].channels grows from 64 to 96; of trained weights widths can be thinned "
            r"only",
        ),
        ({"time_width": 256}, r"time_width grows from 128 to 256"),
        (
            {"context_dim": 32},
            r"context_dim changes from 24 to 32: another text encoder's features have nothing "
            r"in common",
        ),
        ({"stages.length": 4}, r"stages grow from 3 to 4; trained weights can lose stages only"),
    ],
)
def test_what_trained_weights_cannot_give_is_refused(sets: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        inherit(small(), weights(small()), small(**sets))


def test_channels_that_are_new_to_a_block_can_be_learned() -> None:
    """A stage of another width goes: what takes its place in the next block's input is not heard,
    but has a gradient.
    """
    source = small(**{"stages[2].channels": 40})
    target = edited(source, **{"stages.length": 2, "middle.length": 0})
    network = UNet(target)
    network.load_state_dict(inherit(source, weights(source), target))
    network(*example_inputs(target)).square().sum().backward()
    block = network.stages[1].up[0].residual
    assert not block.conv1.weight[:, :64].any()
    assert block.conv1.weight.grad[:, :64].flatten(2).abs().sum(dim=(0, 2)).min() > 0


def test_an_expanded_convolution_does_not_become_another() -> None:
    source = small(conv="expanded")
    with pytest.raises(
        InputError,
        match="an expanded convolution cannot become full: the activation within it cannot be "
        "folded",
    ):
        inherit(source, weights(source), edited(source, conv="full"))


EDITS: list[dict[str, Any]] = [
    {"stages[0].channels": 8},
    {"stages[0].*.layers": []},
    {"stages[0].*.layers": FULL_LAYERS},
    {"stages.length": 1},
    {"stages[0].down.length": 1},
    {"stages[0].up.length": 4},
    {"middle.length": 0},
    {"middle.length": 2},
    {"time_width": 8},
    {"in_channels": 7, "out_channels": 2},
    {"attention.kv": "shared_everywhere"},
    {"attention.kv": "separate"},
    {"attention.heads": 2, "attention.head_dim": None, "attention.kv_heads": 2},
    {"attention.head_dim": 8, "attention.heads": None},
    {"attention.qk_norm": "rms"},
    {"attention.kv_compression": "conv"},
    {"attention.kv_compression": "none"},
    {"attention.normalizer": "relu"},
    {"attention.normalizer": "linear"},
    {"feed_forward.activation": "silu"},
    {"projection": "linear"},
    {"feed_forward.activation": "swiglu", "feed_forward.expansion": 4},
    {"feed_forward.expansion": 2},
    {"conv": "expanded"},
    {"conv": "inverted"},
    {"stages[0].*.layers": ["norm", "ca"]},
    {"added.text_dim": 12},
    {"added.text_dim": None},
    {"guidance_dim": 12},
    {"guidance_dim": None},
    {"stages[0].up.length": 1},
]


def _impossible(source: UNetConfig, target: UNetConfig) -> bool:
    """Whether a width grows, or an expanded convolution of a block that stays becomes another."""
    grows = any(
        after.channels > before.channels
        for before, after in zip(source.stages, target.stages, strict=False)
    )
    times = [config.time_width or 4 * config.stages[0].channels for config in (source, target)]
    kinds = [(source.conv_of(index), target.conv_of(index)) for index in range(len(target.stages))]
    if source.middle and target.middle:
        kinds.append(
            (source.conv_of(-1), target.conv_of(-1))
        )  # where stages go, the middle is another stage's
    return (
        grows
        or times[1] > times[0]
        or any(before == "expanded" != after for before, after in kinds)
    )


@settings(max_examples=80)
@given(configs, st.lists(st.sampled_from(EDITS), min_size=1, max_size=3))
def test_edited_weights_are_complete_and_finite(
    source: UNetConfig, edits: list[dict[str, Any]]
) -> None:
    """Whatever is edited, in whatever network: every tensor of the target, none besides, each of
    its shape.
    """
    target = source
    for sets in edits:
        try:
            target = edited(target, **sets)
        except (
            ValueError
        ):  # this network cannot be edited so, e.g. its width is no multiple of the heads
            continue
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in UNet(target).state_dict().items()}
    if _impossible(source, target):
        with pytest.raises(InputError):
            inherit(source, weights(source), target)
        return
    state = inherit(source, weights(source), target)
    assert {name: tensor.shape for name, tensor in state.items()} == wanted
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
