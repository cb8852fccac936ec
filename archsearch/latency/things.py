"""What is measured: units, whole networks, parts of a pipeline."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import TypeIs

from archsearch.latency.parts import Part
from archsearch.latency.table import describe, parse_unit
from archsearch.unet import units
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, build_unit, example_inputs
from archsearch.unet.units import Unit, unit_fields


class _NoContext(nn.Module):
    """A projection without transformer blocks: nothing looks at the text context its ``forward``
    wants.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        y: Tensor = self.module(x, None)
        return y


def unit_module(unit: units.Unit, seed: int = 0) -> nn.Module:
    """Build ``unit`` with random weights, for the arguments ``unit_inputs`` gives; torch's own
    random state is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build_unit(unit).eval()
    return _NoContext(module).eval() if isinstance(unit, units.Projection) else module


def unit_inputs(unit: units.Unit, seed: int = 0) -> tuple[Tensor, ...]:
    """Random arguments for the ``forward`` of ``unit_module(unit)``, batch 1.

    Returns:
        Feature maps (1, C, H, W), tokens (1, T, C), time embedding (1, width), context (1, S,
        width) or timesteps (1,), where added also pooled text (1, width) and time ids (1, ids).
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
            return random(unit.in_channels, unit.size, unit.size), random(
                unit.time_width or unit.out_channels
            )
        case units.SelfAttention() | units.FeedForward():
            return (random(unit.tokens, unit.channels),)
        case units.CrossAttention():
            return random(unit.tokens, unit.channels), random(unit.context_tokens, unit.context_dim)
        case units.Projection() | units.Downsample() | units.Upsample():
            return (random(unit.channels, unit.size, unit.size),)
        case units.Input() | units.Output():
            return (random(unit.in_channels, unit.size, unit.size),)


Thing = Unit | UNetConfig | Part


def is_unit(thing: Thing) -> TypeIs[Unit]:
    """Whether it is one of the units a UNet is made of, not something that is measured whole."""
    return not isinstance(thing, UNetConfig | Part)


def build(thing: Thing, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Module with random weights, in evaluation mode, and arguments for its ``forward``; torch's
    random state is left alone.
    """
    match thing:
        case UNetConfig():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return UNet(thing).eval(), example_inputs(thing)
        case Part():
            return thing.build(seed)
        case _:
            return unit_module(thing, seed), unit_inputs(thing, seed)


def name_of(thing: Thing) -> str:
    """What messages call it: fields of a unit, digest of a network, name of a part."""
    match thing:
        case UNetConfig():
            return f"network {thing.digest}"
        case Part():
            return thing.name
        case _:
            return describe(thing)


def to_data(thing: Thing) -> dict[str, Any]:
    """Plain data that ``from_data`` reads."""
    match thing:
        case UNetConfig():
            return {"network": thing.to_dict()}
        case Part():
            return {"part": asdict(thing)}
        case _:
            return {"unit": unit_fields(thing)}


def from_data(data: dict[str, Any]) -> Thing:
    """Rebuild what ``to_data`` wrote.

    Raises:
        ValueError: It is none of the three, or not valid.
    """
    match data:
        case {"network": dict(config)}:
            return UNetConfig.model_validate(config)
        case {"part": dict(part)}:
            return Part(**part)
        case {"unit": dict(unit)}:
            return parse_unit(unit)
    raise ValueError(f"a unit, a network or a part was expected, but got {sorted(data)}")
