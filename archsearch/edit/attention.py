"""Attention layers with other options, from trained ones."""

import math
from dataclasses import replace

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
    Order: heads of queries, groups of keys and values, then channels a head and sharing at once, each as ``heads`` tells. Queries
    are scaled so that scores, which are divided by √D, come out as before.
    """
    tensors = _thin(state, isinstance(source, units.SelfAttention), stream)
    heads, dim = _split(tensors, source), target.channels // target.heads
    if target.heads != heads.count:
        heads = parts.with_count(heads, target.heads)
    heads, before = parts.regroup(heads, target.kv_heads or target.heads), heads.dim
    mixed = True  # whether channels of a head are combinations of those there were
    if target.shared_kv and (not source.shared_kv or dim < before):
        heads = parts.share(heads, dim)
    elif dim != before:
        heads = parts.with_dim(heads, dim)
    else:
        mixed = False
    heads = replace(heads, q=heads.q * math.sqrt(dim / before))
    heads, scales = _normed(tensors, heads, source, target, mixed)
    kept = {name: tensors[name] for name in ("norm.weight", "norm.bias", "to_out.bias")}
    return kept | _merge(heads, target.shared_kv) | scales


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


def _normed(state: State, heads: Heads, source: AttentionUnit, target: AttentionUnit, mixed: bool) -> tuple[Heads, State]:
    """The norms of queries and keys, and queries that make up for a norm that goes.

    A trained norm stays as it is while its channels do, and keeps the mean of its scales where they are mixed. A new one begins
    with the root mean square that it takes away; where one goes, what it did to the size of the scores goes into the queries.
    """
    had, wanted = source.qk_norm == "rms", target.qk_norm == "rms"
    if not had and not wanted:
        return heads, {}
    if had and wanted and not mixed:
        return heads, {name: state[name] for name in ("norm_q.weight", "norm_k.weight")}
    sizes = {
        "norm_q.weight": _size(state, heads.q, normalised=True),
        "norm_k.weight": _size(state, heads.k, normalised=isinstance(target, units.SelfAttention)),
    }
    trained = {name: float(state[name].mean()) for name in sizes} if had else sizes
    if wanted:
        return heads, {name: torch.full((heads.dim,), size) for name, size in trained.items()}
    scale = math.prod(trained[name] / sizes[name] for name in sizes)
    return replace(heads, q=heads.q * scale), {}


def _size(state: State, weights: Tensor, normalised: bool) -> float:
    """Root mean square of what ``weights`` (heads, D, C) make of the layer norm's output, or of input of unit variance."""
    if not normalised:
        return float(weights.square().sum(dim=2).mean().sqrt())
    scale, shift = state["norm.weight"], state["norm.bias"]
    return float(((weights * scale).square().sum(dim=2) + (weights @ shift).square()).mean().sqrt())
