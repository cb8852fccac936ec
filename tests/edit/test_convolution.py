"""One kind of convolution from another: equal where it can be, the closest where not."""

import pytest
import torch

from archsearch.edit.blocks import LAST_PART, inherit_conv
from archsearch.edit.maps import NEW, State, part, placed, silenced
from archsearch.unet.model import conv3x3

INPUTS, OUTPUTS = 6, 10
ALL_IN, ALL_OUT = torch.arange(INPUTS), torch.arange(OUTPUTS)


def run(state: State, kind: str, x: torch.Tensor) -> torch.Tensor:
    inputs = state["weight"].shape[1] if kind == "full" else len(state["0.bias"])
    outputs = (
        len(state["bias"])
        if kind == "full"
        else len(state["1.bias" if kind == "separable" else "4.bias"])
    )
    module = conv3x3(inputs, outputs, kind)
    module.load_state_dict(state)
    with torch.no_grad():
        result: torch.Tensor = module(x)
    return result


def made(kind: str) -> tuple[State, torch.Tensor]:
    torch.manual_seed(0)
    return conv3x3(INPUTS, OUTPUTS, kind).state_dict(), torch.randn(2, INPUTS, 7, 7)


@pytest.mark.parametrize("target", ["full", "expanded"])
def test_a_separable_convolution_is_a_full_and_an_expanded_one_too(target: str) -> None:
    state, x = made("separable")
    torch.testing.assert_close(
        run(inherit_conv(state, "separable", target, ALL_IN, ALL_OUT), target, x),
        run(state, "separable", x),
    )


@pytest.mark.parametrize("target", ["separable", "expanded"])
def test_a_full_kernel_that_factors_is_found_again(target: str) -> None:
    separable, x = made("separable")
    full = inherit_conv(separable, "separable", "full", ALL_IN, ALL_OUT)
    torch.testing.assert_close(
        run(inherit_conv(full, "full", target, ALL_IN, ALL_OUT), target, x), run(full, "full", x)
    )


def test_no_other_depthwise_kernel_is_closer_to_the_full_one() -> None:
    """The kernel itself, not a layer's output, is what the factors come closest to; random and
    plain mean kernels are farther.
    """
    state, _ = made("full")
    kernel = state["weight"]

    def distance(depthwise: torch.Tensor) -> float:
        """To the best pointwise factors for a depthwise kernel (in, 9)."""
        unit = depthwise / depthwise.norm(dim=1, keepdim=True)
        factors = torch.einsum("oik,ik->oi", kernel.flatten(2), unit)
        return float((kernel.flatten(2) - factors[..., None] * unit).norm())

    found = inherit_conv(state, "full", "separable", ALL_IN, ALL_OUT)
    best = distance(found["0.weight"].flatten(1))
    again = inherit_conv(found, "separable", "full", ALL_IN, ALL_OUT)["weight"]
    assert float((kernel - again).norm()) == pytest.approx(best, rel=1e-4)
    assert best < distance(kernel.mean(dim=0).flatten(1))
    assert all(best < distance(torch.randn(INPUTS, 9)) for _ in range(20))


@pytest.mark.parametrize("kind", ["full", "separable", "expanded"])
def test_thinned_outputs_are_some_of_the_outputs(kind: str) -> None:
    state, x = made(kind)
    kept = torch.tensor([0, 3, 7])
    torch.testing.assert_close(
        run(inherit_conv(state, kind, kind, ALL_IN, kept), kind, x), run(state, kind, x)[:, kept]
    )


@pytest.mark.parametrize("kind", ["full", "separable"])
def test_thinned_inputs_act_as_if_the_others_were_zero(kind: str) -> None:
    state, x = made(kind)
    state = {
        name: tensor * 0 if name == "0.bias" else tensor for name, tensor in state.items()
    }  # zero in is then zero out
    kept = torch.tensor([1, 2, 5])
    alone = torch.zeros_like(x)
    alone[:, kept] = x[:, kept]
    torch.testing.assert_close(
        run(inherit_conv(state, kind, kind, kept, ALL_OUT), kind, x[:, kept]),
        run(state, kind, alone),
    )


@pytest.mark.parametrize("kind", ["full", "separable", "expanded"])
def test_new_inputs_and_outputs_are_zero(kind: str) -> None:
    state, x = made(kind)
    wider = inherit_conv(
        state,
        kind,
        kind,
        torch.cat([ALL_IN, torch.tensor([NEW])]),
        torch.cat([ALL_OUT, torch.tensor([NEW])]),
    )
    y = run(wider, kind, torch.cat([x, torch.randn(2, 1, 7, 7)], dim=1))
    torch.testing.assert_close(y[:, :-1], run(state, kind, x))
    assert not y[:, -1].any()


@pytest.mark.parametrize("kind", ["full", "separable", "expanded"])
def test_silenced_convolutions_write_zero(kind: str) -> None:
    state, x = made(kind)
    silent = silenced(placed(state, "conv"), f"conv{LAST_PART[kind]}")
    assert not run(part(silent, "conv"), kind, x).any()
