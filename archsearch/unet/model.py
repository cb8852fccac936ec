"""From a plan to a torch module: layers, blocks, the whole UNet."""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from archsearch.unet import units
from archsearch.unet.config import GATED, UNetConfig
from archsearch.unet.plan import Block, StagePlan, plan

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "geglu": F.gelu,
    "silu": F.silu,
    "swiglu": F.silu,
    "relu": F.relu,
}


LEAST_WEIGHT = 1e-6  # added to the mean over keys that linear attention divides by
FEW_KEYS = 256  # up to so many torch's fused attention in bf16 is slower on CPUs than in fp32
FAST_HEAD = 16  # channels a head from which on torch's fused attention is at its speed on CPUs


class RMSNorm(nn.Module):
    """x / √(mean of x² over channels) · scale (arXiv 1910.07467), from operations that every
    exporter knows.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    @override
    def forward(self, x: Tensor) -> Tensor:
        # Normalise (..., channels)
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight


class KeyCompressor(nn.Module):
    """One key or value for every 2×2 pixels of a square map: a depthwise convolution that begins as
    their mean.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(channels, channels, 2, stride=2, groups=channels, bias=False)
        nn.init.constant_(self.conv.weight, 1 / 4)

    @override
    def forward(self, x_BTC: Tensor) -> Tensor:
        # Map (B, H·W, C) to (B, H·W/4, C)
        batch, _, channels = x_BTC.shape
        return _tokens(self.conv(x_BTC.transpose(1, 2).reshape(batch, channels, self.size, -1)))


class AttentionLayer(nn.Module):
    """Layer norm, multi-head attention, plus the input. ``cross`` says whether it attends to the
    text context.

    With the ReLU normaliser the weights are relu(QKᵀ/√d)/N, N the number of keys (MobileDiffusion,
    section on ReLU attention; formula reconstructed); ReLU being homogeneous, 1/N goes into the
    scale of the query. Linear attention is SANA's (arXiv 2410.10629). Where a head of keys serves
    several of queries, these are laid behind one another as further tokens: nothing is copied but
    the queries.
    """

    def __init__(self, unit: units.SelfAttention | units.CrossAttention) -> None:
        super().__init__()
        self.kv_heads = unit.kv_heads or unit.heads
        self.groups = unit.heads // self.kv_heads
        self.cross = isinstance(unit, units.CrossAttention)
        self.normalizer = unit.normalizer
        width = unit.context_dim if isinstance(unit, units.CrossAttention) else unit.channels
        head_dim = unit.channels // unit.heads
        self.norm = nn.LayerNorm(unit.channels)
        self.to_q = nn.Linear(unit.channels, unit.channels, bias=False)
        self.to_k = nn.Linear(width, self.kv_heads * head_dim, bias=False)
        self.to_v = (
            None if unit.shared_kv else nn.Linear(width, self.kv_heads * head_dim, bias=False)
        )
        self.norm_q = RMSNorm(head_dim) if unit.qk_norm == "rms" else None
        self.norm_k = RMSNorm(head_dim) if unit.qk_norm == "rms" else None
        self.compress_k, self.compress_v = self._compressors(unit)
        self.to_out = nn.Linear(unit.channels, unit.channels)

    def _compressors(
        self, unit: units.SelfAttention | units.CrossAttention
    ) -> tuple[KeyCompressor | None, KeyCompressor | None]:
        if isinstance(unit, units.CrossAttention) or unit.kv_compression == "none":
            return None, None
        channels, size = self.to_k.out_features, math.isqrt(unit.tokens)
        return (
            KeyCompressor(channels, size),
            None if unit.shared_kv else KeyCompressor(channels, size),
        )

    @override
    def forward(self, x_BTC: Tensor, context_BSC: Tensor | None = None) -> Tensor:
        # Attend from (B, T, C) to the context (B, S, context width) where ``cross``, else to itself
        h_BTC = self.norm(x_BTC)
        source_BSC = context_BSC if self.cross else h_BTC
        q_BHTD = self._queries(self.to_q(h_BTC))
        k_BHSD = self._split(_through(self.compress_k, self.to_k(source_BSC)))
        v_BHSD = (
            k_BHSD
            if self.to_v is None
            else self._split(_through(self.compress_v, self.to_v(source_BSC)))
        )
        if self.norm_q is not None and self.norm_k is not None:
            q_BHTD, k_BHSD = self.norm_q(q_BHTD), self.norm_k(k_BHSD)
        if self.normalizer == "linear":
            h_BHTD = _linear_attention(q_BHTD, k_BHSD, v_BHSD)
        elif self.normalizer == "relu":
            scale = 1 / (math.sqrt(q_BHTD.shape[-1]) * k_BHSD.shape[-2])
            h_BHTD = F.relu((q_BHTD * scale) @ k_BHSD.transpose(-2, -1)) @ v_BHSD
        else:
            h_BHTD = _softmax_attention(q_BHTD, k_BHSD, v_BHSD)
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


def _through(module: nn.Module | None, x: Tensor) -> Tensor:
    return x if module is None else cast(Tensor, module(x))


def _softmax_attention(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
    # softmax(QKᵀ/√D)·V.
    #
    # On CPUs torch's fused kernel is slow for heads of 8 or 10 channels, as proxies have them: they
    # are filled up with zeros, which add nothing to any product. And forward and backward with few
    # keys take a quarter to two thirds of the time in fp32 that they take in bf16
    # (``benchmarks/LOG.md``). What is traced, compiled or exported stays one plain operation.
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined, no-untyped-call]
    if traced or q_BHTD.device.type != "cpu":
        return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD)
    dim, kind = q_BHTD.shape[-1], q_BHTD.dtype
    widened = kind == torch.bfloat16 and k_BHSD.shape[-2] <= FEW_KEYS
    filling = max(0, FAST_HEAD - dim)
    q, k, v = (
        F.pad(each.float() if widened else each, (0, filling)) for each in (q_BHTD, k_BHSD, v_BHSD)
    )
    with torch.autocast("cpu", enabled=torch.is_autocast_enabled("cpu") and not widened):
        h_BHTD = F.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(dim))
    return h_BHTD[..., :dim].to(kind)


def _linear_attention(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
    # relu(Q)·(relu(K)ᵀV) over relu(Q)·Σrelu(K). Means over the keys in place of both sums give the
    # same, and do not leave the range of float16. The divisor is no matrix product, so that int8
    # does not round it: to divide by what was rounded to zero would leave all bounds.
    q_BHTD, k_BHSD = F.relu(q_BHTD), F.relu(k_BHSD) / k_BHSD.shape[-2]
    h_BHTD = q_BHTD @ (k_BHSD.transpose(-2, -1) @ v_BHSD)
    divisor_BHT1 = (q_BHTD * k_BHSD.sum(-2, keepdim=True)).sum(-1, keepdim=True)
    return h_BHTD / (divisor_BHT1 + LEAST_WEIGHT)


class FeedForwardLayer(nn.Module):
    """Layer norm, linear, activation (gated or plain), linear, plus the input."""

    def __init__(self, unit: units.FeedForward) -> None:
        super().__init__()
        self.gated = unit.activation in GATED
        self.activation = ACTIVATIONS[unit.activation]
        hidden = unit.expansion * unit.channels
        self.norm = nn.LayerNorm(unit.channels)
        self.expand = nn.Linear(unit.channels, hidden)
        self.contract = nn.Linear(hidden // 2 if self.gated else hidden, unit.channels)

    @override
    def forward(self, x_BTC: Tensor, context_BSC: Tensor | None = None) -> Tensor:
        # Map (B, T, C) to (B, T, C); the context is not looked at
        h: Tensor = self.expand(self.norm(x_BTC))  # (B, T, expansion · C)
        if self.gated:
            h, gate = h.chunk(2, dim=-1)
            h = h * self.activation(gate)
        else:
            h = self.activation(h)
        out_BTC: Tensor = self.contract(h)
        return x_BTC + out_BTC


class NormLayer(nn.Module):
    """Layer norm, which takes the place of its input."""

    def __init__(self, unit: units.Norm) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(unit.channels)

    @override
    def forward(self, x_BTC: Tensor, context_BSC: Tensor | None = None) -> Tensor:
        # Map (B, T, C) to (B, T, C); the context is not looked at
        y_BTC: Tensor = self.norm(x_BTC)
        return y_BTC


def timestep_sinusoids(timesteps_B: Tensor, channels: int) -> Tensor:
    """Sinusoids of the timesteps, (B, channels): cosines first, as in Stable Diffusion; frequencies
    from 1 to 1/10,000.
    """
    half = channels // 2
    exponent = torch.arange(half, dtype=torch.float32, device=timesteps_B.device) * (
        -math.log(10_000) / half
    )
    angles = timesteps_B.float()[:, None] * exponent.exp()[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def guidance_sinusoids(guidance_B: Tensor, channels: int) -> Tensor:
    """Sinusoids of guidance weights, (B, channels): of 1000 · (w − 1), sines first, frequencies
    from 1 to 1/10,000, as diffusers' pipelines make them for ``timestep_cond``.
    """
    half = channels // 2
    exponent = torch.arange(half, dtype=torch.float32, device=guidance_B.device) * (
        -math.log(10_000) / (half - 1)
    )
    angles = (1000 * (guidance_B.float() - 1))[:, None] * exponent.exp()[None]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def conv3x3(in_channels: int, out_channels: int, kind: str) -> nn.Module:
    """Build a 3×3 convolution: full, or of the parts that ``Stage.conv`` tells."""
    if kind == "full":
        return nn.Conv2d(in_channels, out_channels, 3, padding=1)
    if kind in ("separable", "inverted"):
        bias = kind == "separable"
        return nn.Sequential(
            _depthwise(in_channels, bias), nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        )
    wide = 2 * in_channels
    return nn.Sequential(
        _depthwise(in_channels),
        nn.Conv2d(in_channels, wide, 1),
        nn.SiLU(),
        _depthwise(wide),
        nn.Conv2d(wide, out_channels, 1),
    )


def _depthwise(channels: int, bias: bool = True) -> nn.Module:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=bias)


# Names of a network's inputs in order. Two more are a network's with an added embedding only, and
# one that of a network with a guidance weight.
INPUTS = ("sample", "timesteps", "context")
ADDED_INPUTS = ("text_embeds", "time_ids")
GUIDANCE = "guidance"


class TimestepEmbedder(nn.Module):
    """Timesteps (B,) to the activated embedding (B, width) that every residual block projects.

    What else it takes follows in this order: pooled text (B, width) and numbers (B, N) where the
    unit has an added embedding, guidance weights (B,) where it has ``guidance_dim``.
    """

    def __init__(self, unit: units.TimeEmbedding) -> None:
        super().__init__()
        self.channels = unit.channels
        self.linear1 = nn.Linear(unit.channels, unit.width)
        self.linear2 = nn.Linear(unit.width, unit.width)
        self.id_dim, self.guidance_dim = unit.id_dim, unit.guidance_dim
        self.guidance = (
            nn.Linear(unit.guidance_dim, unit.channels, bias=False) if unit.guidance_dim else None
        )
        self.added1 = nn.Linear(unit.added, unit.width) if unit.added else None
        self.added2 = nn.Linear(unit.width, unit.width) if unit.added else None

    @override
    def forward(self, timesteps: Tensor, *conditions: Tensor) -> Tensor:
        # Embed (B,) timesteps, whole or fractional, and the conditions
        names = (*(ADDED_INPUTS if self.added1 else ()), *([GUIDANCE] if self.guidance else []))
        if len(conditions) != len(names):
            raise ValueError(
                f"this network takes {' and '.join(names) or 'nothing'} beside sample, timesteps "
                f"and context, but got {len(conditions)} further inputs"
            )
        h = timestep_sinusoids(timesteps, self.channels).to(self.linear1.weight.dtype)
        if self.guidance is not None:
            sinusoids = guidance_sinusoids(conditions[-1], self.guidance_dim)
            h = h + self.guidance(sinusoids.to(h.dtype))
        h = self.linear2(F.silu(self.linear1(h)))
        if self.added1 is not None and self.added2 is not None:
            text, ids = conditions[:2]
            sinusoids = (
                timestep_sinusoids(ids.flatten(), self.id_dim).reshape(ids.shape[0], -1).to(h.dtype)
            )
            h = h + self.added2(F.silu(self.added1(torch.cat([text, sinusoids], dim=-1))))
        return F.silu(h)


class ResnetBlock(nn.Module):
    """Norm, SiLU, convolution, plus time; norm, SiLU, convolution; plus the input."""

    def __init__(self, unit: units.Residual) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(unit.norm_groups, unit.in_channels, eps=1e-5)
        inner = unit.inner_channels
        self.conv1 = conv3x3(unit.in_channels, inner, unit.conv)
        self.time = nn.Linear(unit.time_width, inner) if unit.time_width else nn.Identity()
        self.norm2 = nn.GroupNorm(unit.norm_groups, inner, eps=1e-5)
        self.conv2 = conv3x3(inner, unit.out_channels, unit.conv)
        self.shortcut = (
            None
            if unit.in_channels == unit.out_channels
            else nn.Conv2d(unit.in_channels, unit.out_channels, 1)
        )

    @override
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        # Map (B, in, H, W) and the time embedding (B, width), or (B, inner) where it comes
        # projected, to (B, out, H, W)
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(time)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        y: Tensor = h + (x if self.shortcut is None else self.shortcut(x))
        return y


class Transformer(nn.Module):
    """Norm and projection in, transformer blocks over the H·W tokens, projection out, plus the
    input.
    """

    def __init__(
        self, unit: units.Projection, transformers: tuple[tuple[units.TransformerLayer, ...], ...]
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(unit.norm_groups, unit.channels, eps=1e-6)
        self.linear = unit.form == "linear"
        project = nn.Linear if self.linear else partial(nn.Conv2d, kernel_size=1)
        self.proj_in = project(unit.channels, unit.channels)
        self.blocks = nn.ModuleList(
            nn.ModuleList(build_unit(layer) for layer in layers) for layers in transformers
        )
        self.proj_out = project(unit.channels, unit.channels)

    @override
    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        # Map (B, C, H, W) and the text context (B, S, width) to (B, C, H, W)
        h = self.norm(x)
        h = self.proj_in(_tokens(h)) if self.linear else _tokens(self.proj_in(h))  # (B, H·W, C)
        for layers in self.blocks:
            for layer in layers:  # type: ignore[attr-defined]
                h = layer(h, context)
        return x + (_map(self.proj_out(h), x) if self.linear else self.proj_out(_map(h, x)))


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2).contiguous()  # (B, C, H, W) → (B, H·W, C)


def _map(h: Tensor, x: Tensor) -> Tensor:
    return h.transpose(1, 2).reshape(x.shape)  # (B, H·W, C) → (B, C, H, W)


class NearestUpsample(nn.Module):
    """Nearest neighbour × 2, then a 3×3 convolution."""

    def __init__(self, unit: units.Upsample) -> None:
        super().__init__()
        self.conv = nn.Conv2d(unit.channels, unit.channels, 3, padding=1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        # Map (B, C, H, W) to (B, C, 2H, 2W)
        y: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y


class ConvBlock(nn.Module):
    """A residual block and the transformer that follows it, if any."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.residual = ResnetBlock(block.residual)
        self.transformer = (
            Transformer(block.projection, block.transformers) if block.projection else None
        )

    @override
    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        # Map (B, in, H, W) to (B, out, H, W)
        x = self.residual(x, time)
        if self.transformer is not None:
            x = self.transformer(x, context)
        return x


def build_unit(unit: units.Unit) -> nn.Module:
    """Build one unit as a module of its own, as the latency tables measure it."""
    match unit:
        case units.Input():
            return nn.Conv2d(unit.in_channels, unit.out_channels, 3, padding=1)
        case units.TimeEmbedding():
            return TimestepEmbedder(unit)
        case units.TimeProjection():
            return nn.Linear(unit.width, unit.channels)
        case units.Residual():
            return ResnetBlock(unit)
        case units.Projection():
            return Transformer(unit, ())
        case units.SelfAttention() | units.CrossAttention():
            return AttentionLayer(unit)
        case units.FeedForward():
            return FeedForwardLayer(unit)
        case units.Norm():
            return NormLayer(unit)
        case units.Downsample():
            return _named(conv=nn.Conv2d(unit.channels, unit.channels, 3, stride=2, padding=1))
        case units.Upsample():
            return NearestUpsample(unit)
        case units.Output():
            norm = nn.GroupNorm(unit.norm_groups, unit.in_channels, eps=1e-5)
            conv = nn.Conv2d(unit.in_channels, unit.out_channels, 3, padding=1)
            return _named(norm=norm, act=nn.SiLU(), conv=conv)


def _named(**modules: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(modules))


class StageBlocks(nn.Module):
    """The blocks of one resolution, down and up."""

    def __init__(self, stage: StagePlan) -> None:
        super().__init__()
        self.down = nn.ModuleList(ConvBlock(block) for block in stage.down)
        self.downsample = build_unit(stage.downsample) if stage.downsample else None
        self.up = nn.ModuleList(ConvBlock(block) for block in stage.up)
        self.upsample = build_unit(stage.upsample) if stage.upsample else None
        self.keeps = [stage.keeps(index) for index in range(len(stage.down) + 1)]
        self.takes = [block.skip > 0 for block in stage.up]


class UNet(nn.Module):
    """Predicts from a noisy sample, its timesteps and the text context."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        resolved = plan(config)
        self.config = config
        self.time = build_unit(resolved.time)
        self.input = build_unit(resolved.input)
        self.stages = nn.ModuleList(StageBlocks(stage) for stage in resolved.stages)
        self.middle = nn.ModuleList(ConvBlock(block) for block in resolved.middle)
        self.output = build_unit(resolved.output)

    def forward(
        self, sample: Tensor, timesteps: Tensor, context: Tensor, *conditions: Tensor
    ) -> Tensor:
        """Map (B, in, H, W), (B,) and (B, S, context width) to (B, out, H, W).

        ``conditions`` are the further inputs that ``input_names`` tells, in its order: a network
        with an added embedding (SDXL) also takes the pooled text (B, text_dim) and the time ids
        (B, ids), one with ``guidance_dim`` the guidance weights (B,).
        """
        time = self.time(timesteps, *conditions)
        x, skips = self.encode(sample, time, context)
        for stage in reversed([cast(StageBlocks, stage) for stage in self.stages]):
            for take, block in zip(stage.takes, stage.up, strict=True):
                if take:
                    x = torch.cat([x, skips.pop()], dim=1)
                x = block(x, time, context)
            if stage.upsample is not None:
                x = stage.upsample(x)
        prediction: Tensor = self.output(x)
        return prediction

    def encode(self, sample: Tensor, time: Tensor, context: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The way down and the middle, given the embedded time (B, width): the innermost features
        (B, C, h, w), and the skips for the way up, the first to be taken last.
        """
        x = self.input(sample)
        skips: list[Tensor] = []
        for stage in [cast(StageBlocks, stage) for stage in self.stages]:
            if stage.keeps[0]:
                skips.append(x)
            for keep, block in zip(stage.keeps[1:], stage.down, strict=True):
                x = block(x, time, context)
                if keep:
                    skips.append(x)
            if stage.downsample is not None:
                x = stage.downsample(x)
        for block in self.middle:
            x = block(x, time, context)
        return x, skips


def input_names(config: UNetConfig) -> tuple[str, ...]:
    """Names of the network's inputs, in order."""
    added = ADDED_INPUTS if config.added.text_dim else ()
    return (*INPUTS, *added, *([GUIDANCE] if config.guidance_dim else []))


def example_inputs(config: UNetConfig, batch: int = 1, device: str = "cpu") -> tuple[Tensor, ...]:
    """Random inputs of the right shapes, as ``input_names`` names them.

    Sample (B, in, H, W), timesteps (B,), context (B, S, width); pooled text (B, text_dim), time ids
    (B, ids); guidance weights (B,).
    """
    size, added = config.sample_size, config.added
    inputs: tuple[Tensor, ...] = (
        torch.randn(batch, config.in_channels, size, size, device=device),
        torch.full((batch,), 500.0, device=device),
        torch.randn(batch, config.context_tokens, config.context_dim, device=device),
    )
    if added.text_dim is not None:
        pixels = float(8 * size)  # sizes and crops
        inputs += (
            torch.randn(batch, added.text_dim, device=device),
            torch.full((batch, added.ids), pixels, device=device),
        )
    if config.guidance_dim is not None:
        inputs += (torch.full((batch,), 3.0, device=device),)
    return inputs
