"""Costs of single units by hand, and against the built unit."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from archsearch.cost.price import Macs, macs, params, tape
from archsearch.unet import units
from archsearch.unet.model import build_unit

UNITS: list[units.Unit] = [
    units.Input(4, 16, 8),
    units.TimeEmbedding(16, 64),
    units.TimeEmbedding(16, 64, 10, 3, 4),
    units.TimeEmbedding(16, 64, guidance_dim=6),
    units.TimeEmbedding(16, 64, 10, 3, 4, 6),
    units.TimeProjection(64, 32),
    units.Residual(16, 32, 8, "full", 0, 8),
    units.Residual(16, 32, 8, "full", 64, 8),
    units.Residual(32, 32, 8, "full", 64, 8),
    units.Residual(16, 32, 8, "separable", 64, 8),
    units.Residual(16, 32, 8, "expanded", 64, 8),
    units.Residual(16, 32, 8, "inverted", 64, 8),
    units.Residual(16, 32, 8, "inverted", 0, 8),
    units.Projection(16, 8, 8),
    units.Projection(16, 8, 8, "linear"),
    units.SelfAttention(16, 64, 4, False, "softmax"),
    units.SelfAttention(16, 64, 4, True, "relu"),
    units.CrossAttention(16, 64, 4, False, "relu", 12, 5),
    units.CrossAttention(16, 64, 4, True, "softmax", 12, 5),
    units.SelfAttention(16, 64, 4, False, "softmax", 2, "rms"),
    units.CrossAttention(16, 64, 4, True, "relu", 12, 5, 1),
    units.SelfAttention(16, 64, 4, True, "linear"),
    units.CrossAttention(16, 64, 4, False, "linear", 12, 5, 2, "rms"),
    units.SelfAttention(16, 64, 4, False, "softmax", 2, "rms", "conv"),
    units.SelfAttention(16, 64, 4, True, "linear", 0, "none", "conv"),
    units.Norm(16, 64),
    units.FeedForward(16, 64, 3, "silu"),
    units.FeedForward(16, 64, 6, "swiglu"),
    units.Downsample(16, 8),
    units.Upsample(16, 8),
    units.Output(16, 4, 8, 8),
]


def inputs(unit: units.Unit) -> list[torch.Tensor]:
    match unit:
        case units.TimeEmbedding():
            added = [torch.zeros(1, unit.text_dim), torch.zeros(1, unit.ids)]
            guidance = [torch.zeros(1)] if unit.guidance_dim else []
            return [torch.zeros(1), *(added if unit.added else []), *guidance]
        case units.TimeProjection():
            return [torch.zeros(1, unit.width)]
        case units.Residual():
            return [
                torch.zeros(1, unit.in_channels, unit.size, unit.size),
                torch.zeros(1, unit.time_width or unit.inner_channels),
            ]
        case units.CrossAttention():
            return [
                torch.zeros(1, unit.tokens, unit.channels),
                torch.zeros(1, unit.context_tokens, unit.context_dim),
            ]
        case units.SelfAttention() | units.FeedForward() | units.Norm():
            return [torch.zeros(1, unit.tokens, unit.channels)]
        case units.Projection():
            return [torch.zeros(1, unit.channels, unit.size, unit.size), torch.zeros(1, 1, 1)]
        case units.Downsample() | units.Upsample():
            return [torch.zeros(1, unit.channels, unit.size, unit.size)]
        case _:
            return [torch.zeros(1, unit.in_channels, unit.size, unit.size)]


@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_closed_form_is_what_the_built_unit_has(unit: units.Unit) -> None:
    with torch.device("meta"):  # on the CPU the counter does not see into fused attention
        module, given = build_unit(unit), inputs(unit)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = module(*given)
    assert params(unit) == sum(parameter.numel() for parameter in module.parameters())
    assert macs(unit).total == counter.get_total_flops() // 2
    if not isinstance(unit, units.Projection):
        assert tape(unit)[-1].makes == "y"
        assert tape(unit)[-1].elements == output.numel()


def test_every_kind_of_unit_is_here() -> None:
    assert {unit.kind for unit in UNITS} == set(units.UNIT_TYPES)


def test_attention_by_hand() -> None:
    """64 tokens of width 16 to 5 of width 12: queries and output on 64 tokens, keys and values on
    5; QKᵀ and its product with V.
    """
    unit = units.CrossAttention(16, 64, 4, False, "softmax", 12, 5)
    assert macs(unit) == Macs(linear=2 * 64 * 16 * 16 + 2 * 5 * 12 * 16, attention=2 * 64 * 5 * 16)
    assert params(unit) == 2 * 16 + 16 * 16 + 2 * 12 * 16 + 16 * 16 + 16


def test_sharing_keys_and_values_saves_one_projection() -> None:
    separate, shared = (units.SelfAttention(16, 64, 4, kv, "softmax") for kv in (False, True))
    assert params(separate) - params(shared) == 16 * 16
    assert macs(separate).linear - macs(shared).linear == 64 * 16 * 16
    assert macs(separate).attention == macs(shared).attention


def test_one_head_of_keys_and_values_for_all_by_hand() -> None:
    """Multi-query attention: keys and values of 4 channels instead of 16; every query still meets
    every key.
    """
    many, one = (units.SelfAttention(16, 64, 4, False, "softmax", kv_heads) for kv_heads in (0, 1))
    assert params(many) - params(one) == 2 * 16 * (16 - 4)
    assert macs(many).attention == macs(one).attention
    elements = {op.makes: op.elements for op in tape(one)}
    assert (elements["k"], elements["scores"]) == (64 * 4, 4 * 64 * 64)


def test_expanded_convolutions_by_hand() -> None:
    """Depthwise over 32, pointwise to 64, depthwise over 64, pointwise to 32; twice a block."""
    unit = units.Residual(32, 32, 8, "expanded", 64, 8)
    assert macs(unit).conv == 2 * 64 * (9 * 32 + 32 * 64 + 9 * 64 + 64 * 32)


def test_separable_convolutions_by_hand() -> None:
    full, separable = (units.Residual(32, 32, 8, conv, 64, 8) for conv in ("full", "separable"))
    assert macs(full).conv == 2 * 64 * 9 * 32 * 32
    assert macs(separable).conv == 2 * 64 * (9 * 32 + 32 * 32)
    assert params(full) - params(separable) == 2 * (
        9 * 32 * 32 + 32 - (9 * 32 + 32) - (32 * 32 + 32)
    )


def test_a_gated_activation_contracts_from_half() -> None:
    plain, gated = (units.FeedForward(16, 64, 8, activation) for activation in ("gelu", "geglu"))
    assert macs(plain).linear == 64 * 16 * (128 + 128)
    assert macs(gated).linear == 64 * 16 * (128 + 64)


def test_a_projection_has_no_tape_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"frames its transformer blocks: it has no tape"):
        tape(units.Projection(16, 8, 8))
