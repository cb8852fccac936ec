"""Attention with other options: products of weights as close as they can be, and closer than the
simple ways.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from archsearch.edit.heads import Heads, inherit_attention, share, split, with_count, with_dim
from archsearch.edit.maps import State, first
from archsearch.unet import units
from archsearch.unet.model import AttentionLayer

C, T = 32, 12
SOURCE = units.SelfAttention(C, T, 4, False, "softmax")
ALL = torch.arange(C)


def run(state: State, unit: units.SelfAttention, x: Tensor) -> Tensor:
    layer = AttentionLayer(unit)
    layer.load_state_dict(state)
    with torch.no_grad():
        y: Tensor = layer(x)
    return y


def trained() -> tuple[State, Tensor]:
    """Random weights large enough for attention to look somewhere."""
    torch.manual_seed(0)
    state = AttentionLayer(SOURCE).state_dict()
    state = {
        name: 3 * tensor if name.startswith("to_") else tensor for name, tensor in state.items()
    }
    return state, torch.randn(3, T, C)


def products(heads: Heads) -> Tensor:
    """QᵀK and OV of every head, (2, H, C, C)."""
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
    keys, values = (
        run(rest, shared, x),
        run(rest | {"to_k.weight": state["to_v.weight"]}, shared, x),
    )
    ours_off, keys_off, values_off = (
        float((each - before).norm()) for each in (ours, keys, values)
    )
    assert ours_off < 0.8 * keys_off
    assert ours_off < 0.8 * values_off


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_no_nearby_shared_projection_changes_the_products_less(kv_heads: int) -> None:
    """Moving the projection, with queries and outputs refitted to it, never brings both products
    closer.
    """
    heads = random_heads(kv_heads=kv_heads)
    wanted = products(heads)
    sizes = (
        wanted.view(2, kv_heads, -1)
        .norm(dim=2)
        .repeat_interleave(4 // kv_heads, dim=1)[..., None, None]
    )

    def off(found: Heads) -> float:
        return float(((products(found) - wanted) / sizes).square().sum())

    def refit(shared: Tensor) -> Heads:
        again = shared.repeat_interleave(4 // kv_heads, dim=0)
        inverse = torch.linalg.pinv(again)  # (4, C, D)
        return Heads((wanted[0] @ inverse).transpose(1, 2), shared, shared, wanted[1] @ inverse)

    found = share(heads, 8)
    assert torch.equal(found.k, found.v)
    assert off(refit(found.k)) == pytest.approx(off(found), rel=1e-3)
    assert all(
        off(refit(found.k + 0.05 * torch.randn_like(found.k))) >= off(found) * (1 - 1e-4)
        for _ in range(20)
    )


def test_fewer_channels_a_head_keep_the_best_products() -> None:
    """What is lost is what the singular values beyond the rank say."""
    heads = random_heads()
    wanted, got = products(heads), products(with_dim(heads, 6))
    lost = torch.linalg.svdvals(wanted)[..., 6:].square().sum(dim=-1).sqrt()
    torch.testing.assert_close((wanted - got).flatten(2).norm(dim=2), lost, rtol=1e-3, atol=1e-3)


def test_more_channels_a_head_change_nothing() -> None:
    torch.testing.assert_close(products(with_dim(random_heads(), 16)), products(random_heads()))


@pytest.mark.parametrize("kv_heads", [0, 1, 2])
@pytest.mark.parametrize("head_dim", [4, 16])
def test_heads_of_another_size_lose_only_what_they_must(kv_heads: int, head_dim: int) -> None:
    """Of weights whose products have rank 4, four channels a head are enough, and more change
    nothing: grouped or not.
    """
    torch.manual_seed(0)
    source, wide = units.SelfAttention(C, T, 4, False, "softmax", kv_heads), 4 * head_dim
    state = AttentionLayer(source).state_dict()
    for name in ("to_k.weight", "to_v.weight"):
        state[name] = (
            state[name] * (torch.arange(len(state[name])) % 8 < 4)[:, None]
        )  # the others of 8 channels are zero
    target = units.SelfAttention(wide, T, 4, False, "softmax", kv_heads)
    kept = torch.arange(wide) if wide <= C else first(C, wide)
    inherited = inherit_attention(state, source, target, kept)
    # The stream itself changes with the width: compare what queries and keys, values and output
    # make of its surviving part.
    shared = min(C, wide)
    before, after = (
        products(split(each, unit))[:, :, :shared, :shared]
        for each, unit in ((state, source), (inherited, target))
    )
    scores = torch.tensor([(8 / head_dim) ** 0.5, 1.0])[:, None, None, None]
    torch.testing.assert_close(after * scores, before, rtol=1e-3, atol=1e-4)


def test_heads_of_a_group_stay_together() -> None:
    """Fewer heads of queries: each group keeps its own best, and its keys and values."""
    heads = random_heads(count=8, kv_heads=2)
    fewer, more = with_count(heads, 4), with_count(heads, 16)
    for changed in (fewer, more):
        assert torch.equal(changed.k, heads.k)
        assert torch.equal(changed.v, heads.v)
    assert all(any(torch.equal(head, other) for other in heads.q[:4]) for head in fewer.q[:2])
    assert all(any(torch.equal(head, other) for other in heads.q[4:]) for head in fewer.q[2:])
    written = (
        products(more)[1].view(2, 8, C, C).sum(dim=1)
    )  # over the heads of a group: repetitions are not heard
    torch.testing.assert_close(written, products(heads)[1].view(2, 4, C, C).sum(dim=1))


@pytest.mark.parametrize(("heads", "dim"), [(8, 8), (4, 16), (2, 32)])
@pytest.mark.parametrize("shared", [False, True])
def test_what_is_new_can_be_trained(heads: int, dim: int, shared: bool) -> None:
    """No row or column is zero on both sides of its product: after a step each has a gradient."""
    state, x = trained()
    source = units.SelfAttention(C, T, 4, shared, "softmax")
    target = units.SelfAttention(heads * dim, T, heads, shared, "softmax")
    layer = AttentionLayer(target)
    layer.load_state_dict(inherit_attention(state, source, target, first(C, heads * dim)))
    x = torch.cat([x, torch.randn(3, T, heads * dim - C)], dim=2)
    for _ in range(2):  # what is read first by a zero learns in the second step
        layer.zero_grad()
        layer(x).square().sum().backward()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter -= 1e-3 * (parameter.grad if parameter.grad is not None else 0)
    for name, dimension in (("to_q", 0), ("to_k", 0), ("to_out", 1)):
        gradient = getattr(layer, name).weight.grad
        assert bool((gradient.abs().sum(dim=1 - dimension) > 0).all()), name


def test_a_norm_that_goes_leaves_the_size_of_the_scores() -> None:
    torch.manual_seed(0)
    normed = replace(SOURCE, qk_norm="rms")
    state = AttentionLayer(normed).state_dict()
    state |= {f"norm_{each}.weight": torch.full((8,), 3.0) for each in "qk"}
    x = torch.randn(3, T, C)
    before = run(state, normed, x)
    plain = {name: tensor for name, tensor in state.items() if not name.startswith("norm_")}
    after, naive = (
        run(inherit_attention(state, normed, SOURCE, ALL), SOURCE, x),
        run(plain, SOURCE, x),
    )
    assert float((after - before).norm()) < 0.8 * float((naive - before).norm())


def test_a_new_norm_keeps_the_size_of_the_scores() -> None:
    """Queries and keys at their expected size: attention looks about where it looked."""
    state, x = trained()
    normed = replace(SOURCE, qk_norm="rms")
    inherited = inherit_attention(state, SOURCE, normed, ALL)
    before, after = run(state, SOURCE, x), run(inherited, normed, x)
    ones = {
        name: torch.ones_like(tensor) if name.startswith("norm_") else tensor
        for name, tensor in inherited.items()
    }
    naive = run(ones, normed, x)
    assert float((after - before).norm()) < 0.8 * float((naive - before).norm())
