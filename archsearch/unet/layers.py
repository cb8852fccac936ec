"""The transformer's layers, each built from its unit.

Shape suffixes: B batch, T tokens, S context tokens, C channels, H heads, D channels a head.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archsearch.unet import units
from archsearch.unet.options import GATED

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "geglu": F.gelu,
    "silu": F.silu,
    "swiglu": F.silu,
    "relu": F.relu,
}


FAST_HEAD = 16
"""Channels a head from which on torch's fused attention is at its speed on CPUs."""


class RMSNorm(nn.Module):
    """x / √(mean of x² over channels) · scale (arXiv 1910.07467), from operations that every exporter knows."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., channels)."""
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    """Layer norm, multi-head attention, plus the input. ``cross`` says whether it attends to the text context.

    With the ReLU normaliser the weights are relu(QKᵀ/√d)/N, N the number of keys (MobileDiffusion, section on ReLU attention;
    formula reconstructed); ReLU being homogeneous, 1/N goes into the scale of the query. Where a head of keys serves several of
    queries, these are laid behind one another as further tokens: nothing is copied but the queries.
    """

    def __init__(self, unit: units.SelfAttention | units.CrossAttention) -> None:
        super().__init__()
        self.kv_heads = unit.kv_heads or unit.heads
        self.groups = unit.heads // self.kv_heads
        self.cross = isinstance(unit, units.CrossAttention)
        self.relu = unit.normalizer == "relu"
        width = unit.context_dim if isinstance(unit, units.CrossAttention) else unit.channels
        head_dim = unit.channels // unit.heads
        self.norm = nn.LayerNorm(unit.channels)
        self.to_q = nn.Linear(unit.channels, unit.channels, bias=False)
        self.to_k = nn.Linear(width, self.kv_heads * head_dim, bias=False)
        self.to_v = None if unit.shared_kv else nn.Linear(width, self.kv_heads * head_dim, bias=False)
        self.norm_q = RMSNorm(head_dim) if unit.qk_norm == "rms" else None
        self.norm_k = RMSNorm(head_dim) if unit.qk_norm == "rms" else None
        self.to_out = nn.Linear(unit.channels, unit.channels)

    def forward(self, x_BTC: Tensor, context_BSC: Tensor | None = None) -> Tensor:
        """Attend from (B, T, C) to the context (B, S, context width) where ``cross``, else to itself."""
        h_BTC = self.norm(x_BTC)
        source_BSC = context_BSC if self.cross else h_BTC
        q_BHTD = self._queries(self.to_q(h_BTC))
        k_BHSD = self._split(self.to_k(source_BSC))
        v_BHSD = k_BHSD if self.to_v is None else self._split(self.to_v(source_BSC))
        if self.norm_q is not None and self.norm_k is not None:
            q_BHTD, k_BHSD = self.norm_q(q_BHTD), self.norm_k(k_BHSD)
        if self.relu:
            scale = 1 / (math.sqrt(q_BHTD.shape[-1]) * k_BHSD.shape[-2])
            h_BHTD = F.relu((q_BHTD * scale) @ k_BHSD.transpose(-2, -1)) @ v_BHSD
        else:
            h_BHTD = softmax_attention(q_BHTD, k_BHSD, v_BHSD)
        out_BTC: Tensor = self.to_out(self._merge(h_BHTD, x_BTC))
        return x_BTC + out_BTC

    def _split(self, x_BTC: Tensor) -> Tensor:
        batch, tokens, channels = x_BTC.shape
        return x_BTC.view(batch, tokens, self.kv_heads, channels // self.kv_heads).transpose(1, 2)

    def _queries(self, x_BTC: Tensor) -> Tensor:
        if self.groups == 1:
            return self._split(x_BTC)
        batch, tokens, channels = x_BTC.shape
        head_dim = channels // (self.kv_heads * self.groups)
        x = x_BTC.view(batch, tokens, self.kv_heads, self.groups, head_dim).permute(0, 2, 3, 1, 4)
        return x.reshape(batch, self.kv_heads, self.groups * tokens, head_dim)

    def _merge(self, h_BHTD: Tensor, x_BTC: Tensor) -> Tensor:
        if self.groups > 1:
            batch, tokens, channels = x_BTC.shape
            head_dim = channels // (self.kv_heads * self.groups)
            h_BHTD = h_BHTD.view(batch, self.kv_heads * self.groups, tokens, head_dim)
        return h_BHTD.transpose(1, 2).reshape(x_BTC.shape)


def softmax_attention(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
    """softmax(QKᵀ/√D)·V.

    On CPUs the fused kernel takes up to twice as long for heads of 8 or 10 channels, as proxies have them, as for heads of 16
    (``benchmarks/LOG.md``): narrower ones are filled up with zeros, which add nothing to any product. What is traced, compiled or
    exported stays one plain operation.
    """
    dim = q_BHTD.shape[-1]
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined, no-untyped-call]
    if traced or q_BHTD.device.type != "cpu" or dim >= FAST_HEAD:
        return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD)
    q, k, v = (F.pad(each, (0, FAST_HEAD - dim)) for each in (q_BHTD, k_BHSD, v_BHSD))
    return F.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(dim))[..., :dim]


class FeedForward(nn.Module):
    """Layer norm, linear, activation (gated or plain), linear, plus the input."""

    def __init__(self, unit: units.FeedForward) -> None:
        super().__init__()
        self.gated = unit.activation in GATED
        self.activation = ACTIVATIONS[unit.activation]
        hidden = unit.expansion * unit.channels
        self.norm = nn.LayerNorm(unit.channels)
        self.expand = nn.Linear(unit.channels, hidden)
        self.contract = nn.Linear(hidden // 2 if self.gated else hidden, unit.channels)

    def forward(self, x_BTC: Tensor, context_BSC: Tensor | None = None) -> Tensor:
        """Map (B, T, C) to (B, T, C); the context is not looked at."""
        h: Tensor = self.expand(self.norm(x_BTC))  # (B, T, expansion · C)
        if self.gated:
            h, gate = h.chunk(2, dim=-1)
            h = h * self.activation(gate)
        else:
            h = self.activation(h)
        out_BTC: Tensor = self.contract(h)
        return x_BTC + out_BTC


def timestep_sinusoids(timesteps_B: Tensor, channels: int) -> Tensor:
    """Sinusoids of the timesteps, (B, channels): cosines first, as in Stable Diffusion; frequencies from 1 to 1/10,000."""
    half = channels // 2
    exponent = torch.arange(half, dtype=torch.float32, device=timesteps_B.device) * (-math.log(10_000) / half)
    angles = timesteps_B.float()[:, None] * exponent.exp()[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
