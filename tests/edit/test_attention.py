"""Attention with other options: products of weights as close as they can be, and closer than the simple ways."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from archsearch.edit.attention import inherit_attention
from archsearch.edit.heads import Heads, share, with_dim
from archsearch.edit.maps import State
from archsearch.unet import units
from archsearch.unet.layers import Attention

C, T = 32, 12
SOURCE = units.SelfAttention(C, T, 4, False, "softmax")
ALL = torch.arange(C)


def run(state: State, unit: units.SelfAttention, x: Tensor) -> Tensor:
    layer = Attention(unit)
    layer.load_state_dict(state)
    with torch.no_grad():
        y: Tensor = layer(x)
    return y


def trained() -> tuple[State, Tensor]:
    """Random weights large enough for attention to look somewhere."""
    torch.manual_seed(0)
    state = Attention(SOURCE).state_dict()
    state = {name: 3 * tensor if name.startswith("to_") else tensor for name, tensor in state.items()}
    return state, torch.randn(3, T, C)


def products(heads: Heads) -> Tensor:
    """QᵀK and OV of every head, each divided by the norm it has over the heads of its group in the original."""
    groups = heads.count // len(heads.k)
    k, v = heads.k.repeat_interleave(groups, dim=0), heads.v.repeat_interleave(groups, dim=0)
    return torch.stack([heads.q.transpose(1, 2) @ k, heads.o @ v])


def random_heads(count: int = 4, kv_heads: int = 4, dim: int = 8) -> Heads:
    torch.manual_seed(0)
    k, v = torch.randn(2, kv_heads, dim, C)
    return Heads(torch.randn(count, dim, C), k, v, torch.randn(count, C, dim))


def test_sharing_is_closer_than_taking_the_keys_or_the_values_for_both() -> None:
    state, x = trained()
    shared = replace(SOURCE, shared_kv=True)
    before = run(state, SOURCE, x)
    rest = {name: tensor for name, tensor in state.items() if name != "to_v.weight"}
    ours = run(inherit_attention(state, SOURCE, shared, ALL), shared, x)
    keys, values = run(rest, shared, x), run(rest | {"to_k.weight": state["to_v.weight"]}, shared, x)
    ours_off, keys_off, values_off = (float((each - before).norm()) for each in (ours, keys, values))
    assert ours_off < 0.8 * keys_off
    assert ours_off < 0.8 * values_off


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_no_nearby_shared_projection_changes_the_products_less(kv_heads: int) -> None:
    """Moving the projection, with queries and outputs refitted to it, never brings both products closer."""
    heads = random_heads(kv_heads=kv_heads)
    wanted = products(heads)
    sizes = wanted.view(2, kv_heads, -1).norm(dim=2).repeat_interleave(4 // kv_heads, dim=1)[..., None, None]

    def off(found: Heads) -> float:
        return float(((products(found) - wanted) / sizes).square().sum())

    def refit(shared: Tensor) -> Heads:
        again = shared.repeat_interleave(4 // kv_heads, dim=0)
        inverse = torch.linalg.pinv(again)  # (4, C, D)
        return Heads((wanted[0] @ inverse).transpose(1, 2), shared, shared, wanted[1] @ inverse)

    found = share(heads, 8)
    assert torch.equal(found.k, found.v)
    assert off(refit(found.k)) == pytest.approx(off(found), rel=1e-3)
    assert all(off(refit(found.k + 0.05 * torch.randn_like(found.k))) >= off(found) * (1 - 1e-4) for _ in range(20))


def test_fewer_channels_a_head_keep_the_best_products() -> None:
    """What is lost is what the singular values beyond the rank say, and scores keep their size under their new 1/√D."""
    heads = random_heads()
    found = with_dim(heads, 6, shared=False)
    wanted, got = products(heads), products(replace(found, q=found.q * (8 / 6) ** 0.5))
    lost = torch.linalg.svdvals(wanted)[..., 6:].square().sum(dim=-1).sqrt()
    torch.testing.assert_close((wanted - got).flatten(2).norm(dim=2), lost, rtol=1e-3, atol=1e-3)


def test_more_channels_a_head_change_nothing() -> None:
    heads = random_heads()
    found = with_dim(heads, 16, shared=False)
    torch.testing.assert_close(products(replace(found, q=found.q * (8 / 16) ** 0.5)), products(heads))


def test_a_new_norm_keeps_the_size_of_the_scores() -> None:
    """Queries and keys at their expected size: attention looks about where it looked."""
    state, x = trained()
    normed = replace(SOURCE, qk_norm="rms")
    inherited = inherit_attention(state, SOURCE, normed, ALL)
    before, after = run(state, SOURCE, x), run(inherited, normed, x)
    ones = {name: torch.ones_like(tensor) if name.startswith("norm_") else tensor for name, tensor in inherited.items()}
    naive = run(ones, normed, x)
    assert float((after - before).norm()) < 0.8 * float((naive - before).norm())
