"""Heads of attention taken apart, and what can be done to their weights.

A head of queries counts by two products alone: QᵀK, from which its scores come, and OV, which it
writes. Another number of channels a head and one projection for keys and values are the best
approximations of these products in the least-squares sense; grouping is the mean over the heads of
a group. Where queries and keys are normed the products say less: see ``attention``. What is new is
zero on one side of a product only, so that training can move it.

Shapes: H heads of queries, K of keys and values, D channels a head, C width of the stream, S width
of the source.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Heads:
    """Weights by head. While keys and values are shared, ``v`` is equal to ``k``."""

    q: Tensor
    """(H, D, C)"""
    k: Tensor
    """(K, D, S)"""
    v: Tensor
    """(K, D, S)"""
    o: Tensor
    """(H, C, D)"""

    @property
    def count(self) -> int:
        """Heads of queries."""
        return len(self.q)

    @property
    def dim(self) -> int:
        """Channels a head."""
        return self.q.shape[1]


def regroup(heads: Heads, kv_heads: int) -> Heads:
    """Another number of heads of keys and values: the mean over groups (the start of grouped-query
    attention, arXiv 2305.13245, section 2.1), or repetition, which keeps the output."""
    have = len(heads.k)
    if kv_heads == have:
        return heads
    k, v = (
        each.repeat_interleave(heads.count // have, dim=0) for each in (heads.k, heads.v)
    )  # one for each head of queries
    k, v = (_grouped(each.double(), kv_heads).mean(dim=1).float() for each in (k, v))
    return replace(heads, k=k, v=v)


def with_count(heads: Heads, count: int) -> Heads:
    """Another number of heads of queries, group by group as far as the groups divide it, else after
    ungrouping.

    Fewer: those with the largest products stay. More: they are repeated from the first on, the
    repetitions unheard.
    """
    if count % len(heads.k):
        heads = regroup(heads, heads.count)
    if len(heads.k) == heads.count:  # every head with keys and values of its own
        chosen, unheard = _choose(_score(heads), count)
        o = heads.o[chosen] * ~unheard[:, None, None]
        return Heads(heads.q[chosen], heads.k[chosen], heads.v[chosen], o)
    size, scores = heads.count // len(heads.k), _score(heads)
    picks = [
        _choose(scores[start : start + size], count // len(heads.k))
        for start in range(0, heads.count, size)
    ]
    chosen = torch.cat([pick + number * size for number, (pick, _) in enumerate(picks)])
    unheard = torch.cat([silent for _, silent in picks])
    return replace(heads, q=heads.q[chosen], o=heads.o[chosen] * ~unheard[:, None, None])


def _choose(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Which heads stay or are repeated, and which of these are repetitions."""
    have = len(scores)
    if count > have:
        return torch.arange(count) % have, torch.arange(count) >= have
    return scores.topk(count).indices.sort().values, torch.zeros(count, dtype=torch.bool)


def _score(heads: Heads) -> Tensor:
    """Importance of each head of queries: its shares of all heads' QᵀK and OV, by the norms of
    their factors, (H,).
    """
    times = heads.count // len(heads.k)
    k, v = heads.k.repeat_interleave(times, dim=0), heads.v.repeat_interleave(times, dim=0)
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
        more = dim - heads.dim
        k, v = _noisy(heads.k, dim), _noisy(heads.v, dim)
        if torch.equal(heads.k, heads.v):
            v = k  # shared stays shared
        q = torch.cat([heads.q, torch.zeros(heads.count, more, heads.q.shape[2])], dim=1)
        return Heads(q, k, v, torch.cat([heads.o, torch.zeros(*heads.o.shape[:2], more)], dim=2))
    groups = len(heads.k)
    q, k = _lower_rank(_stacked(heads.q, groups), heads.k, dim)
    o, v = _lower_rank(_stacked(heads.o.transpose(1, 2), groups), heads.v, dim)
    return Heads(_unstacked(q, heads.count), k, v, _unstacked(o, heads.count).transpose(1, 2))


def _stacked(each: Tensor, groups: int) -> Tensor:
    """The heads of a group side by side: (H, D, C) to (K, D, G·C)."""
    return _grouped(each, groups).transpose(1, 2).flatten(2)


def _unstacked(each: Tensor, count: int) -> Tensor:
    """Reverse of ``_stacked``: (K, D, G·C) to (H, D, C)."""
    groups, dim, _ = each.shape
    return each.view(groups, dim, count // groups, -1).transpose(1, 2).flatten(0, 1)


def _lower_rank(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Best aᵀb of lower rank, group by group: (K, D, C) and (K, D, S) to (K, rank, C) and (K, rank,
    S).
    """
    basis_a, small_a = torch.linalg.qr(a.double().transpose(1, 2))  # (K, C, ≤D), (K, ≤D, D)
    basis_b, small_b = torch.linalg.qr(b.double().transpose(1, 2))
    left, values, right = torch.linalg.svd(small_a @ small_b.transpose(1, 2), full_matrices=False)
    found = min(rank, values.shape[1])
    root = values[:, :found].sqrt()
    new_a = (basis_a @ left[:, :, :found] * root[:, None]).transpose(1, 2)
    new_b = (basis_b @ right[:, :found].transpose(1, 2) * root[:, None]).transpose(1, 2)
    return _padded(new_a, rank), _noisy(new_b.float(), rank)


def share(heads: Heads, dim: int) -> Heads:
    """One projection M of ``dim`` channels for keys and values of each of the K heads, queries and
    output refitted to it.

    M spans the leading ``dim`` directions that QᵀK and OV, each brought to norm one, read together;
    with the queries and the output projected onto them this is the least change of both products
    that any shared projection allows.
    """
    q = _grouped(heads.q.double(), len(heads.k))  # (K, G, D, C)
    o = _grouped(heads.o.double(), len(heads.k))  # (K, G, C, D)
    both = torch.cat([heads.k, heads.v], dim=1).double().transpose(1, 2)  # (K, S, 2D)
    basis, small = torch.linalg.qr(both)  # (K, S, R), (K, R, 2D)
    key, value = (
        small[..., : heads.dim],
        small[..., heads.dim :],
    )  # keys and values in the basis, (K, R, D)
    reads_key = torch.einsum("krd,kgdc->kgrc", key, q)  # (K, G, R, C): QᵀK read in the basis
    reads_value = torch.einsum("krd,kgcd->kgrc", value, o)
    gram = torch.zeros(len(basis), basis.shape[2], basis.shape[2], dtype=torch.float64)
    for reads in (reads_key, reads_value):
        weight = reads.flatten(1).square().sum(dim=1).clamp(min=1e-30)
        gram += torch.einsum("kgrc,kgsc->krs", reads, reads) / weight[:, None, None]
    leading = torch.linalg.eigh(gram).eigenvectors.flip(-1)[..., :dim]  # (K, R, ≤dim)
    shared = _noisy((basis @ leading).transpose(1, 2).float(), dim)
    new_q = _padded(torch.einsum("kri,kgrc->kgic", leading, reads_key).flatten(0, 1), dim)
    new_o = _padded(
        torch.einsum("kri,kgrc->kgic", leading, reads_value).flatten(0, 1), dim
    ).transpose(1, 2)
    return Heads(new_q, shared, shared, new_o)


def _grouped(each: Tensor, groups: int) -> Tensor:
    return each.view(groups, -1, *each.shape[1:])


def _noisy(rows: Tensor, wanted: int) -> Tensor:
    """Rows up to ``wanted`` drawn at the size of those there are: unheard while the other side of
    their product is zero.
    """
    missing = wanted - rows.shape[1]
    return (
        torch.cat(
            [rows, rows.square().mean().sqrt() * torch.randn(len(rows), missing, rows.shape[2])],
            dim=1,
        )
        if missing > 0
        else rows
    )


def _padded(rows: Tensor, wanted: int) -> Tensor:
    """Back to fp32, with rows of zeros up to ``wanted`` where the rank is lower: (N, ≤wanted, C) to
    (N, wanted, C).
    """
    missing = wanted - rows.shape[1]
    return (
        torch.cat([rows.float(), torch.zeros(len(rows), missing, rows.shape[2])], dim=1)
        if missing > 0
        else rows.float()
    )
