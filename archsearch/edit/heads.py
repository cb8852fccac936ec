"""Heads of attention taken apart, and what can be done to their weights.

A head of queries counts by two products alone: QᵀK, from which its scores come, and OV, which it writes. Every change of the
number of channels a head, or of what keys and values share, is the best approximation of these products in the least-squares
sense. Shapes: H heads of queries, K of keys and values, D channels a head, C width of the stream, S width of the source.
"""

import math
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


def ungroup(heads: Heads) -> Heads:
    """Give every head of queries keys and values of its own, equal within its group. The output stays."""
    times = heads.count // len(heads.k)
    return replace(heads, k=heads.k.repeat_interleave(times, dim=0), v=heads.v.repeat_interleave(times, dim=0))


def regroup(heads: Heads, kv_heads: int) -> Heads:
    """Mean of keys and values over groups (the start of grouped-query attention, arXiv 2305.13245, section 2.1)."""
    if kv_heads == len(heads.k):
        return heads
    k, v = (_grouped(each.double(), kv_heads).mean(dim=1).float() for each in (heads.k, heads.v))
    return replace(heads, k=k, v=v)


def with_count(heads: Heads, count: int) -> Heads:
    """Keep the heads with the largest products, or repeat them from the first on, unheard. Needs ungrouped heads."""
    have = heads.count
    if count > have:
        again = torch.arange(count) % have
        o = torch.cat([heads.o, torch.zeros(count - have, *heads.o.shape[1:])])
        return Heads(heads.q[again], heads.k[again], heads.v[again], o)
    norms = [each.flatten(1).norm(dim=1) for each in (heads.q, heads.k, heads.v, heads.o)]
    score = norms[0] * norms[1] / (norms[0] * norms[1]).sum() + norms[2] * norms[3] / (norms[2] * norms[3]).sum()
    kept = score.topk(count).indices.sort().values
    return Heads(heads.q[kept], heads.k[kept], heads.v[kept], heads.o[kept])


def with_dim(heads: Heads, dim: int, shared: bool) -> Heads:
    """Another number of channels a head: fewer by the best products of lower rank, more by zeros. Needs ungrouped heads.

    Scores are divided by √D when they are computed; queries are scaled so that they come out as before.
    """
    scale = math.sqrt(dim / heads.dim)
    if dim > heads.dim:
        q, k, v = (torch.cat([e, torch.zeros(len(e), dim - heads.dim, e.shape[2])], dim=1) for e in (heads.q, heads.k, heads.v))
        o = torch.cat([heads.o, torch.zeros(*heads.o.shape[:2], dim - heads.dim)], dim=2)
        return Heads(q * scale, k, v, o)
    if shared:
        heads = share(heads, dim)
        return replace(heads, q=heads.q * scale)
    if dim == heads.dim:
        return heads
    q, k = _lower_rank(heads.q, heads.k, dim)
    o, v = _lower_rank(heads.o.transpose(1, 2), heads.v, dim)
    return Heads(q * scale, k, v, o.transpose(1, 2))


def _lower_rank(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Best aᵀb of lower rank, head by head: (H, D, C) and (H, D, S) to (H, rank, C) and (H, rank, S)."""
    basis_a, small_a = torch.linalg.qr(a.double().transpose(1, 2))  # (H, C, ≤D), (H, ≤D, D)
    basis_b, small_b = torch.linalg.qr(b.double().transpose(1, 2))
    left, values, right = torch.linalg.svd(small_a @ small_b.transpose(1, 2))
    rank_found = min(rank, values.shape[1])
    root = values[:, :rank_found].sqrt()
    new_a = (basis_a @ left[:, :, :rank_found] * root[:, None]).transpose(1, 2)
    new_b = (basis_b @ right[:, :rank_found].transpose(1, 2) * root[:, None]).transpose(1, 2)
    return _padded(new_a, rank), _padded(new_b, rank)


def share(heads: Heads, dim: int) -> Heads:
    """One projection M of ``dim`` channels for keys and values of each of the K heads, queries and output refitted to it.

    M spans the leading ``dim`` directions that QᵀK and OV, each brought to norm one, read together; with the queries and the output
    projected onto them this is the least change of both products that any shared projection allows.
    """
    q = _grouped(heads.q.double(), len(heads.k))  # (K, G, D, C)
    o = _grouped(heads.o.double(), len(heads.k))  # (K, G, C, D)
    both = torch.cat([heads.k, heads.v], dim=1).double().transpose(1, 2)  # (K, S, 2D)
    basis, small = torch.linalg.qr(both)  # (K, S, R), (K, R, 2D)
    key, value = small[..., : heads.dim], small[..., heads.dim :]  # keys and values in the basis, (K, R, D)
    reads_key = torch.einsum("krd,kgdc->kgrc", key, q)  # (K, G, R, C): QᵀK read in the basis
    reads_value = torch.einsum("krd,kgcd->kgrc", value, o)
    gram = torch.zeros(len(basis), basis.shape[2], basis.shape[2], dtype=torch.float64)
    for reads in (reads_key, reads_value):
        weight = reads.flatten(1).square().sum(dim=1).clamp(min=1e-30)
        gram += torch.einsum("kgrc,kgsc->krs", reads, reads) / weight[:, None, None]
    leading = torch.linalg.eigh(gram).eigenvectors.flip(-1)[..., :dim]  # (K, R, ≤dim)
    shared = _padded((basis @ leading).transpose(1, 2), dim)
    new_q = _padded(torch.einsum("kri,kgrc->kgic", leading, reads_key).flatten(0, 1), dim)
    new_o = _padded(torch.einsum("kri,kgrc->kgic", leading, reads_value).flatten(0, 1), dim).transpose(1, 2)
    return Heads(new_q, shared, shared, new_o)


def _grouped(each: Tensor, groups: int) -> Tensor:
    return each.view(groups, -1, *each.shape[1:])


def _padded(rows: Tensor, wanted: int) -> Tensor:
    """Back to fp32, with rows of zeros up to ``wanted`` where the rank is lower: (N, ≤wanted, C) to (N, wanted, C)."""
    missing = wanted - rows.shape[1]
    return torch.cat([rows.float(), torch.zeros(len(rows), missing, rows.shape[2])], dim=1) if missing > 0 else rows.float()
