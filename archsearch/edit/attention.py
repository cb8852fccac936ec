"""Attention layers with other options, from trained ones."""

import torch
from torch import Tensor

from archsearch.edit import heads as parts
from archsearch.edit.heads import Heads
from archsearch.edit.maps import State, take
from archsearch.unet import units

AttentionUnit = units.SelfAttention | units.CrossAttention


def inherit_attention(state: State, source: AttentionUnit, target: AttentionUnit, stream: Tensor) -> State:
    """Thin attention to the channels ``stream`` of its stream and give it the target's heads, sharing and norms.

    The normaliser needs nothing: the ReLU network starts from the softmax network's weights, as MobileDiffusion's finetuning does.
    Order: heads, channels a head, groups of keys and values, then sharing, each as ``heads`` tells. A new norm of queries and keys
    starts with the root mean square that they would have for normalised input as its scale, so that scores keep their size.
    """
    tensors = _thin(state, isinstance(source, units.SelfAttention), stream)
    heads = parts.ungroup(_split(tensors, source))
    head_dim = target.channels // target.heads
    if target.heads != heads.count:
        heads = parts.with_count(heads, target.heads)
    if head_dim != heads.dim:
        heads = parts.with_dim(heads, head_dim, shared=source.shared_kv and target.shared_kv)
    heads = parts.regroup(heads, target.kv_heads or target.heads)
    if target.shared_kv and not source.shared_kv:
        heads = parts.share(heads, head_dim)
    inherited = {name: tensors[name] for name in ("norm.weight", "norm.bias", "to_out.bias")} | _merge(heads, target.shared_kv)
    if target.qk_norm == "rms":
        inherited |= _norms(tensors, heads, isinstance(target, units.SelfAttention), source.qk_norm == "rms")
    return inherited


def _thin(state: State, self_attention: bool, stream: Tensor) -> State:
    thin = {name: take(state[name], 0, stream) for name in ("norm.weight", "norm.bias", "to_out.weight", "to_out.bias")}
    thin |= {name: tensor for name, tensor in state.items() if name.startswith(("norm_q", "norm_k"))}
    for name in ("to_q.weight", "to_k.weight", "to_v.weight"):
        if name in state:
            reads_stream = self_attention or name == "to_q.weight"
            thin[name] = take(state[name], 1, stream) if reads_stream else state[name]
    return thin


def _split(state: State, unit: AttentionUnit) -> Heads:
    kv_heads = unit.kv_heads or unit.heads
    key = _rows(state["to_k.weight"], kv_heads)
    value = key if unit.shared_kv else _rows(state["to_v.weight"], kv_heads)
    output = _rows(state["to_out.weight"].T, unit.heads).transpose(1, 2)
    return Heads(_rows(state["to_q.weight"], unit.heads), key, value, output)


def _rows(weight: Tensor, heads: int) -> Tensor:
    return weight.reshape(heads, -1, weight.shape[1])


def _merge(heads: Heads, shared: bool) -> State:
    merged = {"to_q.weight": heads.q.flatten(0, 1), "to_k.weight": heads.k.flatten(0, 1)}
    if not shared:
        merged["to_v.weight"] = heads.v.flatten(0, 1)
    return merged | {"to_out.weight": heads.o.transpose(0, 1).flatten(1)}


def _norms(state: State, heads: Heads, self_attention: bool, had: bool) -> State:
    """Scales of the norms of queries and keys: kept where there were some of this size, else from the expected squares."""
    if had and len(state["norm_q.weight"]) == heads.dim:
        return {name: state[name] for name in ("norm_q.weight", "norm_k.weight")}
    scale, shift = state["norm.weight"], state["norm.bias"]
    scales = {}
    for name, weights, normalised in (("norm_q", heads.q, True), ("norm_k", heads.k, self_attention)):
        squares = (weights * scale).square().sum(dim=2) + (weights @ shift).square() if normalised else weights.square().sum(dim=2)
        scales[f"{name}.weight"] = torch.full((heads.dim,), squares.mean().sqrt().item())
    return scales
