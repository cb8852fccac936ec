"""Attention with other heads, sharing and norms: its weights taken apart by head and changed.

A head of queries counts by two products alone: QᵀK, from which its scores come, and OV, which it
writes. Another number of channels a head and one projection for keys and values are the best
approximations of these products in the least-squares sense; grouping is the mean over the heads of
a group. Where queries and keys are normed the products say less: see ``_normed``. What is new is
zero on one side of a product only, so that training can move it.

Shapes: H heads of queries, K of keys and values, G of queries for each of these (H = K·G), D
channels a head, C width of the stream, S width of the source of keys and values.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from archsearch.edit.maps import State, noise_like, take, thin_part
from archsearch.unet import units

AttentionUnit = units.SelfAttention | units.CrossAttention


@dataclass(frozen=True, slots=True)
class Heads:
    """Weights by head. While keys and values are shared, ``v`` is equal to ``k``.

    Attributes:
        q: (H, D, C)
        k: (K, D, S)
        v: (K, D, S)
        o: (H, C, D)
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor

    @property
    def count(self) -> int:
        """Heads of queries."""
        return len(self.q)

    @property
    def dim(self) -> int:
        """Channels a head."""
        return self.q.shape[1]


def inherit_attention(
    state: State, source: AttentionUnit, target: AttentionUnit, stream: Tensor
) -> State:
    """Thin attention to the channels ``stream`` of its stream and give it the target's heads,
    sharing and norms.

    The normaliser needs nothing: the ReLU network starts from the softmax network's weights, as
    MobileDiffusion's finetuning does, and so does the linear one, whose output moves further.
    Order: heads of queries, groups of keys and values, then channels a head and sharing at once.
    Queries are scaled so that scores, which are divided by √D, come out as before.
    """
    norm, out = thin_part(state, "norm", stream), thin_part(state, "to_out", stream)
    heads = split(state | out, source)
    heads = replace(heads, q=take(heads.q, 2, stream))
    if isinstance(source, units.SelfAttention):
        heads = replace(heads, k=take(heads.k, 2, stream), v=take(heads.v, 2, stream))
    if target.heads != heads.count:
        heads = with_count(heads, target.heads)
    heads = _regroup(heads, target.kv_heads or target.heads)
    before, dim = heads.dim, target.channels // target.heads
    refitted = target.shared_kv and (not source.shared_kv or dim < before)
    if refitted:
        heads = share(heads, dim)
    elif dim != before:
        heads = with_dim(heads, dim)
    heads = replace(heads, q=heads.q * math.sqrt(dim / before))
    trained = {name: tensor for name, tensor in state.items() if name.startswith("norm_")}
    heads, scales = _normed(heads, trained, norm, target, mixed=refitted or dim != before)
    new = {"to_q.weight": heads.q.flatten(0, 1), "to_k.weight": heads.k.flatten(0, 1)}
    if not target.shared_kv:
        new["to_v.weight"] = heads.v.flatten(0, 1)
    out["to_out.weight"] = heads.o.transpose(0, 1).flatten(1)
    kept = (source.heads, source.kv_heads, before) == (target.heads, target.kv_heads, dim)
    return norm | new | out | scales | _compressors(state, target, kept and not refitted)


def _compressors(state: State, target: AttentionUnit, kept: bool) -> State:
    # The convolutions that compress keys and values: as they were while their channels are, else
    # the mean kernel of all channels; the mean of the pixels, as at the start, where there were
    # none.
    if isinstance(target, units.CrossAttention) or target.kv_compression == "none":
        return {}
    channels = target.channels // target.heads * (target.kv_heads or target.heads)
    new = {}
    for each in ("k",) if target.shared_kv else ("k", "v"):
        name, shared = f"compress_{each}.conv.weight", "compress_k.conv.weight"
        kernels = state.get(name, state.get(shared, torch.full((channels, 1, 2, 2), 1 / 4)))
        new[name] = kernels if kept else kernels.mean(dim=0, keepdim=True).repeat(channels, 1, 1, 1)
    return new


def split(state: State, unit: AttentionUnit) -> Heads:
    """Take the weights of a layer apart."""

    def rows(weight: Tensor, count: int) -> Tensor:
        return weight.reshape(count, -1, weight.shape[1])

    kv_heads = unit.kv_heads or unit.heads
    key = rows(state["to_k.weight"], kv_heads)
    value = key if unit.shared_kv else rows(state["to_v.weight"], kv_heads)
    output = rows(state["to_out.weight"].T, unit.heads).transpose(1, 2)
    return Heads(rows(state["to_q.weight"], unit.heads), key, value, output)


def _normed(
    heads: Heads, trained: State, norm: State, target: AttentionUnit, mixed: bool
) -> tuple[Heads, State]:
    # The norms of queries and keys, and queries that make up for norms that go.
    #
    # A trained norm stays as it is while its channels do, and keeps the mean of its scales where
    # they are mixed. A new one begins with the root mean square that it takes away; where one goes,
    # what it did to the size of the scores goes into the queries.
    #
    # Args:
    #     heads: Weights by head, as they will be.
    #     trained: Scales of the trained norms; empty where there are none.
    #     norm: Layer norm of the stream.
    #     target: The layer wanted.
    #     mixed: Whether channels of a head are combinations of those there were.
    wanted = target.qk_norm == "rms"
    if not trained and not wanted:
        return heads, {}
    if trained and wanted and not mixed:
        return heads, trained
    sizes = {
        "norm_q.weight": _size(heads.q, norm),
        "norm_k.weight": _size(heads.k, norm if isinstance(target, units.SelfAttention) else None),
    }
    scales = {name: float(tensor.mean()) for name, tensor in trained.items()} or sizes
    if wanted:
        return heads, {name: torch.full((heads.dim,), scale) for name, scale in scales.items()}
    return replace(heads, q=heads.q * math.prod(scales[name] / sizes[name] for name in sizes)), {}


def _size(weights: Tensor, norm: State | None) -> float:
    # Root mean square of what ``weights`` (heads, D, C) make of a layer norm's output, or of input
    # of unit variance.
    if norm is None:
        return float(weights.square().sum(dim=2).mean().sqrt())
    scale, shift = norm["norm.weight"], norm["norm.bias"]
    return float(((weights * scale).square().sum(dim=2) + (weights @ shift).square()).mean().sqrt())


def _regroup(heads: Heads, kv_heads: int) -> Heads:
    # Another number of heads of keys and values: the mean over groups (the start of grouped-query
    # attention, arXiv 2305.13245, section 2.1), or repetition, which keeps the output.
    if kv_heads == len(heads.k):
        return heads
    k, v = (
        _grouped(each.double(), kv_heads).mean(dim=1).float() for each in _one_for_each_query(heads)
    )
    return replace(heads, k=k, v=v)


def with_count(heads: Heads, count: int) -> Heads:
    """Another number of heads of queries, group by group as far as the groups divide it, else after
    ungrouping.

    Fewer: those with the largest products stay. More: they are repeated from the first on, the
    repetitions unheard.
    """
    if count % len(heads.k):
        heads = _regroup(heads, heads.count)
    groups = len(heads.k)
    own = groups == heads.count  # every head with keys and values of its own: one group of all
    scores = _scores(heads).view(1 if own else groups, -1)  # (groups, heads of each)
    have, want = scores.shape[1], count // len(scores)
    if want > have:
        places = (torch.arange(want) % have).expand(len(scores), want)
    else:
        places = scores.topk(want, dim=1).indices.sort(dim=1).values
    chosen = (places + have * torch.arange(len(scores))[:, None]).flatten()
    heard = (torch.arange(want) < have).repeat(len(scores))
    heads = replace(heads, q=heads.q[chosen], o=heads.o[chosen] * heard[:, None, None])
    return replace(heads, k=heads.k[chosen], v=heads.v[chosen]) if own else heads


def _scores(heads: Heads) -> Tensor:
    # Importance of each head of queries: its shares of all heads' QᵀK and OV, by the norms of their
    # factors, (H,).
    k, v = _one_for_each_query(heads)
    q_norm, k_norm, v_norm, o_norm = (
        each.flatten(1).norm(dim=1) for each in (heads.q, k, v, heads.o)
    )
    scores: Tensor = (
        q_norm * k_norm / (q_norm * k_norm).sum() + v_norm * o_norm / (v_norm * o_norm).sum()
    )
    return scores


def with_dim(heads: Heads, dim: int) -> Heads:
    """Another number of channels a head: fewer by the best products of lower rank, of all the
    queries of a group at once; more by channels that are not heard yet."""
    if dim > heads.dim:
        k, v = _with_noise(heads.k, dim), _with_noise(heads.v, dim)
        if torch.equal(heads.k, heads.v):
            v = k  # shared stays shared
        o = _with_zeros(heads.o.transpose(1, 2), dim).transpose(1, 2)
        return Heads(_with_zeros(heads.q, dim), k, v, o)
    groups = len(heads.k)
    q, k = _lower_rank(_stacked(heads.q, groups), heads.k, dim)
    o, v = _lower_rank(_stacked(heads.o.transpose(1, 2), groups), heads.v, dim)
    return Heads(_unstacked(q, heads.count), k, v, _unstacked(o, heads.count).transpose(1, 2))


def _lower_rank(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    # Best aᵀb of lower rank, group by group: (K, D, C) and (K, D, S) to (K, rank, C) and (K, rank,
    # S).
    basis_a, small_a = torch.linalg.qr(a.double().transpose(1, 2))  # (K, C, ≤D), (K, ≤D, D)
    basis_b, small_b = torch.linalg.qr(b.double().transpose(1, 2))
    left, values, right = torch.linalg.svd(small_a @ small_b.transpose(1, 2), full_matrices=False)
    found = min(rank, values.shape[1])
    root = values[:, :found].sqrt()
    new_a = (basis_a @ left[:, :, :found] * root[:, None]).transpose(1, 2)
    new_b = (basis_b @ right[:, :found].transpose(1, 2) * root[:, None]).transpose(1, 2)
    return _with_zeros(new_a.float(), rank), _with_noise(new_b.float(), rank)


def share(heads: Heads, dim: int) -> Heads:
    """One projection M of ``dim`` channels for keys and values of each of the K heads, queries and
    output refitted to it.

    M spans the leading ``dim`` directions that QᵀK and OV, each brought to norm one, read together;
    with the queries and the output projected onto them this is the least change of both products
    that any shared projection allows.
    """
    both = torch.cat([heads.k, heads.v], dim=1).double().transpose(1, 2)  # (K, S, 2D)
    basis, small = torch.linalg.qr(both)  # (K, S, R), (K, R, 2D)
    key, value = small.split(heads.dim, dim=2)  # keys and values in the basis, (K, R, D)
    q = _grouped(heads.q.double(), len(heads.k))  # (K, G, D, C)
    o = _grouped(heads.o.double(), len(heads.k))  # (K, G, C, D)
    reads_key = torch.einsum("krd,kgdc->kgrc", key, q)  # (K, G, R, C): QᵀK read in the basis
    reads_value = torch.einsum("krd,kgcd->kgrc", value, o)
    gram = torch.zeros(len(basis), basis.shape[2], basis.shape[2], dtype=torch.float64)
    for reads in (reads_key, reads_value):
        weight = reads.flatten(1).square().sum(dim=1).clamp(min=1e-30)
        gram += torch.einsum("kgrc,kgsc->krs", reads, reads) / weight[:, None, None]
    leading = torch.linalg.eigh(gram).eigenvectors.flip(-1)[..., :dim]  # (K, R, ≤dim)
    shared = _with_noise((basis @ leading).transpose(1, 2).float(), dim)
    new_q, new_o = (
        _with_zeros(torch.einsum("kri,kgrc->kgic", leading, reads).flatten(0, 1).float(), dim)
        for reads in (reads_key, reads_value)
    )
    return Heads(new_q, shared, shared, new_o.transpose(1, 2))


def _one_for_each_query(heads: Heads) -> tuple[Tensor, Tensor]:
    # Keys and values with a head for each head of queries, (H, D, S) each.
    times = heads.count // len(heads.k)
    return heads.k.repeat_interleave(times, dim=0), heads.v.repeat_interleave(times, dim=0)


def _grouped(each: Tensor, groups: int) -> Tensor:
    # (H, …) to (K, G, …).
    return each.view(groups, -1, *each.shape[1:])


def _stacked(each: Tensor, groups: int) -> Tensor:
    # The heads of a group side by side: (H, D, C) to (K, D, G·C).
    return _grouped(each, groups).transpose(1, 2).flatten(2)


def _unstacked(each: Tensor, count: int) -> Tensor:
    # Reverse of ``_stacked``: (K, D, G·C) to (H, D, C).
    groups, dim, _ = each.shape
    return each.view(groups, dim, count // groups, -1).transpose(1, 2).flatten(0, 1)


def _with_noise(rows: Tensor, wanted: int) -> Tensor:
    # (N, ≤wanted, C) to (N, wanted, C): what is missing is drawn at the size of what is there. It
    # is unheard while the other side of its product is zero.
    missing = wanted - rows.shape[1]
    if missing <= 0:
        return rows
    return torch.cat([rows, noise_like(rows, len(rows), missing, rows.shape[2])], dim=1)


def _with_zeros(rows: Tensor, wanted: int) -> Tensor:
    # (N, ≤wanted, C) to (N, wanted, C): what is missing is zero.
    return F.pad(rows, (0, 0, 0, wanted - rows.shape[1]))
