"""A unit on its own: the module to measure and what it is fed with."""

import torch
from torch import Tensor, nn

from archsearch.unet import units
from archsearch.unet.blocks import build_unit


class _NoContext(nn.Module):
    """A projection without transformer blocks: nothing looks at the text context its ``forward`` wants."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        y: Tensor = self.module(x, None)
        return y


def unit_module(unit: units.Unit, seed: int = 0) -> nn.Module:
    """Build ``unit`` with random weights, for the arguments ``unit_inputs`` gives; torch's own random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build_unit(unit).eval()
    return _NoContext(module).eval() if isinstance(unit, units.Projection) else module


def unit_inputs(unit: units.Unit, seed: int = 0) -> tuple[Tensor, ...]:
    """Random arguments for the ``forward`` of ``unit_module(unit)``, batch 1.

    Returns:
        Feature maps (1, C, H, W), tokens (1, T, C), time embedding (1, width), context (1, S, width) or timesteps (1,), where added
        also pooled text (1, width) and time ids (1, ids).
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator)

    match unit:
        case units.TimeEmbedding():
            added = (random(unit.text_dim), torch.full((1, unit.ids), 512.0)) if unit.added else ()
            return (torch.full((1,), 500.0), *added)
        case units.TimeProjection():
            return (random(unit.width),)
        case units.Residual():
            return random(unit.in_channels, unit.size, unit.size), random(unit.time_width or unit.out_channels)
        case units.SelfAttention() | units.FeedForward():
            return (random(unit.tokens, unit.channels),)
        case units.CrossAttention():
            return random(unit.tokens, unit.channels), random(unit.context_tokens, unit.context_dim)
        case units.Projection() | units.Downsample() | units.Upsample():
            return (random(unit.channels, unit.size, unit.size),)
        case units.Input() | units.Output():
            return (random(unit.in_channels, unit.size, unit.size),)
