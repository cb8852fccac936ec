"""The convolutional blocks and the transformer around its layers, each built from its unit. Feature maps are (B, C, H, W)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archsearch.unet import units
from archsearch.unet.layers import Attention, FeedForward, timestep_sinusoids
from archsearch.unet.plan import Block


def conv3x3(in_channels: int, out_channels: int, kind: str) -> nn.Module:
    """Build a 3×3 convolution: full, or of the parts that ``Stage.conv`` tells."""
    if kind == "full":
        return nn.Conv2d(in_channels, out_channels, 3, padding=1)
    if kind == "separable":
        return nn.Sequential(_depthwise(in_channels), nn.Conv2d(in_channels, out_channels, 1))
    wide = 2 * in_channels
    return nn.Sequential(
        _depthwise(in_channels), nn.Conv2d(in_channels, wide, 1), nn.SiLU(), _depthwise(wide), nn.Conv2d(wide, out_channels, 1)
    )


def _depthwise(channels: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels)


class TimeEmbedding(nn.Module):
    """Timesteps (B,) to the activated embedding (B, width) that every residual block projects."""

    def __init__(self, unit: units.TimeEmbedding) -> None:
        super().__init__()
        self.channels = unit.channels
        self.linear1 = nn.Linear(unit.channels, unit.width)
        self.linear2 = nn.Linear(unit.width, unit.width)
        self.id_dim = unit.id_dim
        self.added1 = nn.Linear(unit.added, unit.width) if unit.added else None
        self.added2 = nn.Linear(unit.width, unit.width) if unit.added else None

    def forward(self, timesteps: Tensor, text: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        """Embed (B,) timesteps, whole or fractional; where added, also the pooled text (B, width) and the numbers (B, N)."""
        h = timestep_sinusoids(timesteps, self.channels).to(self.linear1.weight.dtype)
        h = self.linear2(F.silu(self.linear1(h)))
        if self.added1 is not None and self.added2 is not None:
            if text is None or ids is None:
                raise ValueError("this network has an added embedding (config.added): give text_embeds and time_ids")
            sinusoids = timestep_sinusoids(ids.flatten(), self.id_dim).reshape(ids.shape[0], -1).to(h.dtype)
            h = h + self.added2(F.silu(self.added1(torch.cat([text, sinusoids], dim=-1))))
        return F.silu(h)


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, plus time; norm, SiLU, convolution; plus the input."""

    def __init__(self, unit: units.Residual) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(unit.norm_groups, unit.in_channels, eps=1e-5)
        self.conv1 = conv3x3(unit.in_channels, unit.out_channels, unit.conv)
        self.time = nn.Linear(unit.time_width, unit.out_channels) if unit.time_width else nn.Identity()
        self.norm2 = nn.GroupNorm(unit.norm_groups, unit.out_channels, eps=1e-5)
        self.conv2 = conv3x3(unit.out_channels, unit.out_channels, unit.conv)
        self.shortcut = None if unit.in_channels == unit.out_channels else nn.Conv2d(unit.in_channels, unit.out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (B, in, H, W) and the time embedding (B, width), or (B, out) where it comes projected, to (B, out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(time)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        y: Tensor = h + (x if self.shortcut is None else self.shortcut(x))
        return y


class Transformer(nn.Module):
    """Norm and projection in, transformer blocks over the H·W tokens, projection out, plus the input."""

    def __init__(self, unit: units.Projection, transformers: tuple[tuple[units.TransformerLayer, ...], ...]) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(unit.norm_groups, unit.channels, eps=1e-6)
        self.linear = unit.form == "linear"
        self.proj_in = self._projection(unit)
        self.blocks = nn.ModuleList(nn.ModuleList(build_layer(layer) for layer in layers) for layers in transformers)
        self.proj_out = self._projection(unit)

    def _projection(self, unit: units.Projection) -> nn.Module:
        return nn.Linear(unit.channels, unit.channels) if self.linear else nn.Conv2d(unit.channels, unit.channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map (B, C, H, W) and the text context (B, S, width) to (B, C, H, W)."""
        h = self.norm(x)
        h = self.proj_in(_tokens(h)) if self.linear else _tokens(self.proj_in(h))  # (B, H·W, C)
        for layers in self.blocks:
            for layer in layers:  # type: ignore[attr-defined]
                h = layer(h, context)
        y: Tensor = x + (_map(self.proj_out(h), x) if self.linear else self.proj_out(_map(h, x)))
        return y


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2).contiguous()  # (B, C, H, W) → (B, H·W, C)


def _map(h: Tensor, x: Tensor) -> Tensor:
    return h.transpose(1, 2).reshape(x.shape)  # (B, H·W, C) → (B, C, H, W)


def build_layer(unit: units.TransformerLayer) -> nn.Module:
    """Build a transformer layer."""
    return FeedForward(unit) if isinstance(unit, units.FeedForward) else Attention(unit)


class Downsample(nn.Module):
    """3×3 convolution of stride 2."""

    def __init__(self, unit: units.Downsample) -> None:
        super().__init__()
        self.conv = nn.Conv2d(unit.channels, unit.channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H/2, W/2)."""
        y: Tensor = self.conv(x)
        return y


class Upsample(nn.Module):
    """Nearest neighbour × 2, then a 3×3 convolution."""

    def __init__(self, unit: units.Upsample) -> None:
        super().__init__()
        self.conv = nn.Conv2d(unit.channels, unit.channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2H, 2W)."""
        y: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y


class Output(nn.Module):
    """Norm, SiLU and the convolution to the prediction."""

    def __init__(self, unit: units.Output) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(unit.norm_groups, unit.in_channels, eps=1e-5)
        self.conv = nn.Conv2d(unit.in_channels, unit.out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H, W)."""
        y: Tensor = self.conv(F.silu(self.norm(x)))
        return y


class ConvBlock(nn.Module):
    """A residual block and the transformer that follows it, if any."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.residual = ResidualBlock(block.residual)
        self.transformer = Transformer(block.projection, block.transformers) if block.projection else None

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H, W)."""
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
            return TimeEmbedding(unit)
        case units.TimeProjection():
            return nn.Linear(unit.width, unit.channels)
        case units.Residual():
            return ResidualBlock(unit)
        case units.Projection():
            return Transformer(unit, ())
        case units.Downsample():
            return Downsample(unit)
        case units.Upsample():
            return Upsample(unit)
        case units.Output():
            return Output(unit)
        case _:
            return build_layer(unit)
