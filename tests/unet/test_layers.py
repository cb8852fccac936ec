"""Formulas of the layers, by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import LatentConsistencyModelPipeline
from torch import Tensor, nn

from archsearch.unet import units
from archsearch.unet.model import (
    AttentionLayer,
    FeedForwardLayer,
    ResnetBlock,
    RMSNorm,
    TimestepEmbedder,
    Transformer,
    build_unit,
    conv3x3,
    guidance_sinusoids,
    timestep_sinusoids,
)

C, HEADS, T, S, WIDTH = 12, 3, 10, 7, 5


def attend(layer: AttentionLayer, x: Tensor, source: Tensor, value: nn.Linear) -> Tensor:
    """One head at a time, one weight matrix at a time; normaliser as the layer's."""
    q, k, v = layer.to_q(layer.norm(x)), layer.to_k(source), value(source)
    dim = C // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * dim, (head + 1) * dim)
        if layer.normalizer == "linear":
            positive = q[..., part].clamp(min=0) @ k[..., part].clamp(min=0).transpose(1, 2)
            weights = positive / (positive.sum(-1, keepdim=True) + 1e-6 * source.shape[1])
        else:
            scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(dim)
            weights = (
                scores.clamp(min=0) / source.shape[1]
                if layer.normalizer == "relu"
                else scores.exp() / scores.exp().sum(-1, keepdim=True)
            )
        heads.append(weights @ v[..., part])
    return x + layer.to_out(torch.cat(heads, dim=-1))


@pytest.mark.parametrize("normalizer", ["softmax", "relu", "linear"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_attention_is_its_formula(normalizer: str, shared: bool, cross: bool) -> None:
    """softmax(QKᵀ/√d)·V, relu(QKᵀ/√d)/N·V with N the number of keys, or relu(Q)·relu(K)ᵀ·V over the
    sum of its weights; with shared K/V the keys are the values.
    """
    torch.manual_seed(0)
    unit: units.SelfAttention | units.CrossAttention = (
        units.CrossAttention(C, T, HEADS, shared, normalizer, WIDTH, S)
        if cross
        else units.SelfAttention(C, T, HEADS, shared, normalizer)
    )
    layer = AttentionLayer(unit)
    x, context = torch.randn(2, T, C), torch.randn(2, S, WIDTH)
    source = context if cross else layer.norm(x)
    value = layer.to_k if shared else layer.to_v
    assert isinstance(value, nn.Linear)
    torch.testing.assert_close(layer(x, context), attend(layer, x, source, value))


@pytest.mark.parametrize("normalizer", ["softmax", "relu", "linear"])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_attention_is_full_attention_with_repeated_keys_and_values(
    kv_heads: int, normalizer: str
) -> None:
    torch.manual_seed(0)
    grouped = AttentionLayer(units.SelfAttention(16, T, 4, False, normalizer, kv_heads))
    full = AttentionLayer(units.SelfAttention(16, T, 4, False, normalizer))
    state = grouped.state_dict()
    for name in ("to_k.weight", "to_v.weight"):
        state[name] = (
            state[name].view(kv_heads, 4, 16).repeat_interleave(4 // kv_heads, dim=0).flatten(0, 1)
        )
    full.load_state_dict(state)
    x = torch.randn(2, T, 16)
    torch.testing.assert_close(grouped(x), full(x))


def test_normed_queries_and_keys_have_unit_root_mean_square() -> None:
    torch.manual_seed(0)
    x = 5 * torch.randn(2, 3, T, 8)
    torch.testing.assert_close(RMSNorm(8)(x), F.rms_norm(x, (8,), eps=1e-5))
    layer = AttentionLayer(units.SelfAttention(C, T, HEADS, False, "softmax", 0, "rms"))
    scaled = {
        name: 100 * tensor if name.startswith(("to_q", "to_k")) else tensor
        for name, tensor in layer.state_dict().items()
    }
    x = torch.randn(2, T, C)
    before = layer(x)
    layer.load_state_dict(scaled)
    torch.testing.assert_close(
        layer(x), before, rtol=1e-3, atol=1e-3
    )  # the size of queries and keys does not matter


def test_compressed_attention_is_attention_to_the_means_of_four_pixels() -> None:
    """As it begins: 6×6 queries, 3×3 keys and values, each the mean of its 2×2 pixels' ones."""
    torch.manual_seed(0)
    plain = AttentionLayer(units.SelfAttention(C, 36, HEADS, False, "softmax"))
    layer = AttentionLayer(units.SelfAttention(C, 36, HEADS, False, "softmax", 0, "none", "conv"))
    layer.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 36, C)
    source = layer.norm(x).transpose(1, 2).view(2, C, 6, 6)
    pooled = F.avg_pool2d(source, 2).flatten(2).transpose(1, 2)
    assert isinstance(layer.to_v, nn.Linear)
    torch.testing.assert_close(layer(x), attend(layer, x, pooled, layer.to_v))


def test_added_embedding_joins_before_the_last_activation() -> None:
    torch.manual_seed(0)
    layer = TimestepEmbedder(units.TimeEmbedding(8, 16, 5, 3, 4))
    times, text, ids = (
        torch.tensor([3.0, 7.0]),
        torch.randn(2, 5),
        torch.tensor([[1.0, 2, 3], [4, 5, 6]]),
    )
    assert layer.added1 is not None
    assert layer.added2 is not None
    sinusoids = torch.cat([timestep_sinusoids(ids[:, column], 4) for column in range(3)], dim=1)
    added = layer.added2(F.silu(layer.added1(torch.cat([text, sinusoids], dim=1))))
    plain = layer.linear2(F.silu(layer.linear1(timestep_sinusoids(times, 8))))
    torch.testing.assert_close(layer(times, text, ids), F.silu(plain + added))
    with pytest.raises(ValueError, match=r"takes text_embeds and time_ids beside .* but got 0"):
        layer(times)


def test_the_guidance_weight_joins_the_sinusoids_of_the_timestep() -> None:
    torch.manual_seed(0)
    layer = TimestepEmbedder(units.TimeEmbedding(8, 16, guidance_dim=6))
    times, weights = torch.tensor([3.0, 7.0]), torch.tensor([1.0, 4.5])
    assert layer.guidance is not None
    joined = timestep_sinusoids(times, 8) + layer.guidance(guidance_sinusoids(weights, 6))
    wanted = F.silu(layer.linear2(F.silu(layer.linear1(joined))))
    torch.testing.assert_close(layer(times, weights), wanted)
    with pytest.raises(ValueError, match=r"takes guidance beside sample, .* but got 0 further"):
        layer(times)


def test_sinusoids_of_the_guidance_weight_are_those_of_diffusers_pipelines() -> None:
    weights = torch.tensor([1.0, 3.0, 7.5])
    embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    theirs = embed(None, weights - 1, embedding_dim=32)
    torch.testing.assert_close(guidance_sinusoids(weights, 32), theirs, rtol=0, atol=1e-3)


def test_linear_projections_are_the_1x1_convolutions() -> None:
    torch.manual_seed(0)
    layers = ((units.SelfAttention(16, 36, 4, False, "softmax"),),)
    conv, linear = (
        Transformer(units.Projection(16, 6, 8, form), layers) for form in ("conv", "linear")
    )
    state = conv.state_dict()
    linear.load_state_dict(
        {
            name: t.flatten(1) if name.startswith("proj_") and t.ndim == 4 else t
            for name, t in state.items()
        }
    )
    x, context = torch.randn(2, 16, 6, 6), torch.randn(2, 3, 4)
    torch.testing.assert_close(linear(x, context), conv(x, context))


def test_shared_keys_and_values_are_one_projection() -> None:
    separate, shared = (
        AttentionLayer(units.SelfAttention(C, T, HEADS, shared, "softmax"))
        for shared in (False, True)
    )
    names = {name for name, _ in separate.named_parameters()} - {
        name for name, _ in shared.named_parameters()
    }
    assert names == {"to_v.weight"}


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        ("gelu", F.gelu),
        ("silu", lambda x: x * torch.sigmoid(x)),
        ("relu", lambda x: x.clamp(min=0)),
    ],
)
def test_plain_feed_forward(activation: str, formula: type) -> None:
    torch.manual_seed(0)
    layer = FeedForwardLayer(units.FeedForward(C, T, 3, activation))
    x = torch.randn(2, T, C)
    assert layer.expand.weight.shape == (3 * C, C)
    assert layer.contract.weight.shape == (C, 3 * C)
    torch.testing.assert_close(layer(x), x + layer.contract(formula(layer.expand(layer.norm(x)))))


@pytest.mark.parametrize(("activation", "formula"), [("geglu", F.gelu), ("swiglu", F.silu)])
def test_gated_feed_forward_gates_one_half_with_the_other(activation: str, formula: type) -> None:
    """The expansion counts both halves: SD's 8 is 1280 → 10240 → 1280 from 5120; the first half is
    gated by the second.
    """
    torch.manual_seed(0)
    layer = FeedForwardLayer(units.FeedForward(C, T, 4, activation))
    x = torch.randn(2, T, C)
    assert layer.expand.weight.shape == (4 * C, C)
    assert layer.contract.weight.shape == (C, 2 * C)
    h = layer.expand(layer.norm(x))
    torch.testing.assert_close(
        layer(x), x + layer.contract(h[..., : 2 * C] * formula(h[..., 2 * C :]))
    )


def test_separable_convolution_is_depthwise_then_pointwise() -> None:
    torch.manual_seed(0)
    separable = conv3x3(8, 12, "separable")
    assert isinstance(separable, nn.Sequential)
    depthwise, pointwise = separable
    x = torch.randn(1, 8, 6, 6)
    by_channel = torch.cat(
        [
            F.conv2d(
                x[:, c : c + 1], depthwise.weight[c : c + 1], depthwise.bias[c : c + 1], padding=1
            )
            for c in range(8)
        ],
        dim=1,
    )
    expected = (
        torch.einsum("oi,bihw->bohw", pointwise.weight[:, :, 0, 0], by_channel)
        + pointwise.bias[:, None, None]
    )
    torch.testing.assert_close(separable(x), expected)
    assert [p.numel() for p in separable.parameters()] == [8 * 9, 8, 8 * 12, 12]


@pytest.mark.parametrize("conv", ["full", "separable"])
def test_residual_block_is_its_formula(conv: str) -> None:
    torch.manual_seed(0)
    block = ResnetBlock(units.Residual(8, 16, 4, conv, 24, 4))
    x, time = torch.randn(2, 8, 4, 4), torch.randn(2, 24)
    h = block.conv1(F.silu(F.group_norm(x, 4, block.norm1.weight, block.norm1.bias, eps=1e-5)))
    h = h + block.time(time)[:, :, None, None]
    h = block.conv2(F.silu(F.group_norm(h, 4, block.norm2.weight, block.norm2.bias, eps=1e-5)))
    assert block.shortcut is not None
    torch.testing.assert_close(block(x, time), h + block.shortcut(x))


def test_a_residual_block_of_equal_widths_adds_its_input_itself() -> None:
    assert ResnetBlock(units.Residual(8, 8, 4, "full", 24, 4)).shortcut is None


def test_resampling_halves_and_doubles() -> None:
    x = torch.randn(1, 8, 6, 6)
    assert build_unit(units.Downsample(8, 6))(x).shape == (1, 8, 3, 3)
    assert build_unit(units.Upsample(8, 6))(x).shape == (1, 8, 12, 12)


def test_timestep_sinusoids_are_stable_diffusions() -> None:
    from diffusers.models.embeddings import get_timestep_embedding

    times = torch.tensor([0.0, 1.0, 17.5, 999.0])
    reference = get_timestep_embedding(times, 32, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(timestep_sinusoids(times, 32), reference)
