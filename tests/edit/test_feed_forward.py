"""Feed-forward layers of other expansion and activation."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from archsearch.edit.blocks import inherit_feed_forward
from archsearch.edit.maps import State
from archsearch.unet import units
from archsearch.unet.model import FeedForwardLayer

C = 24
ALL = torch.arange(C)


def made(activation: str, expansion: int) -> tuple[units.FeedForward, State, Tensor]:
    torch.manual_seed(0)
    unit = units.FeedForward(C, 50, expansion, activation)
    state = {
        name: 2 * tensor if name.startswith("expand") else tensor
        for name, tensor in FeedForwardLayer(unit).state_dict().items()
    }
    return unit, state, torch.randn(4, 50, C)


def branch(state: State, unit: units.FeedForward, x: Tensor) -> Tensor:
    """What the layer adds to its input."""
    layer = FeedForwardLayer(unit)
    layer.load_state_dict(state)
    with torch.no_grad():
        y: Tensor = layer(x) - x
    return y


def inherited(state: State, source: units.FeedForward, target: units.FeedForward) -> State:
    torch.manual_seed(1)
    return inherit_feed_forward(state, source, target, ALL)


def off(before: Tensor, after: Tensor) -> float:
    return float((after - before).norm() / before.norm())


@pytest.mark.parametrize(
    ("source", "target"),
    [("gelu", "silu"), ("silu", "gelu"), ("geglu", "swiglu"), ("swiglu", "geglu")],
)
def test_gelu_and_silu_follow_one_another_closely(source: str, target: str) -> None:
    """Scaled by 1.702; merely swapping the function is several times as far."""
    unit, state, x = made(source, 8)
    other = replace(unit, activation=target)
    before = branch(state, unit, x)
    assert off(before, branch(inherited(state, unit, other), other, x)) < 0.05
    assert off(before, branch(state, other, x)) > 0.1


@pytest.mark.parametrize("gated", ["geglu", "swiglu"])
def test_dropping_the_gate_is_closer_than_dropping_the_value(gated: str) -> None:
    """Regressed, a plain layer cannot say what the product said, but it is nearer than the same
    layer without its value half.
    """
    unit, state, x = made(gated, 8)
    state["expand.bias"] = state["expand.bias"] + 0.5  # products with a mean, as trained ones have
    plain = units.FeedForward(C, 50, 4, {"geglu": "gelu", "swiglu": "silu"}[gated])
    before = branch(state, unit, x)
    ours = off(before, branch(inherited(state, unit, plain), plain, x))
    without = state | {
        "expand.weight": state["expand.weight"][4 * C :],
        "expand.bias": state["expand.bias"][4 * C :],
    }
    assert ours < 0.95
    assert ours < 0.9 * off(before, branch(without, plain, x))


def test_trimming_drops_the_hidden_units_that_say_least() -> None:
    unit, state, x = made("silu", 4)
    quiet = torch.randperm(4 * C)[: 2 * C]
    state["contract.weight"][:, quiet] *= 1e-4
    trimmed = replace(unit, expansion=2)
    assert off(branch(state, unit, x), branch(inherited(state, unit, trimmed), trimmed, x)) < 1e-3


def test_hidden_units_of_gates_go_in_pairs() -> None:
    unit, state, x = made("geglu", 8)
    quiet = torch.randperm(4 * C)[: 2 * C]
    state["contract.weight"][:, quiet] *= 1e-4
    trimmed = replace(unit, expansion=4)
    assert off(branch(state, unit, x), branch(inherited(state, unit, trimmed), trimmed, x)) < 1e-3
