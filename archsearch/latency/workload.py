"""What is measured, a workload: a unit of a network, a whole network or a part of the pipeline."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import TypeIs

from archsearch.latency.parts import Part, get_part
from archsearch.latency.table import describe, parse_unit
from archsearch.unet import units
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, build_unit, example_inputs
from archsearch.unet.units import Unit, unit_fields

Workload = Unit | UNetConfig | Part


def is_unit(workload: Workload) -> TypeIs[Unit]:
    """Whether it is one of the units a UNet is made of, not something that is measured whole."""
    return not isinstance(workload, UNetConfig | Part)


# Nothing in a projection without transformer blocks looks at the text context.
class _NoContext(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        # Map (B, C, H, W) to (B, C, H, W).
        y: Tensor = self.module(x, None)
        return y


def build(workload: Workload, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Build a workload with random weights.

    Args:
        workload: What to build.
        seed: Of the weights, and of the inputs of units and parts. torch's own random state is
            left alone.

    Returns:
        The module in evaluation mode, and arguments for its ``forward``, batch 1.
    """
    if isinstance(workload, Part):
        return workload.build(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(workload, UNetConfig):
            return UNet(workload).eval(), example_inputs(workload)
        module = build_unit(workload)
    if isinstance(workload, units.Projection):
        module = _NoContext(module)
    return module.eval(), _unit_inputs(workload, seed)


def _unit_inputs(unit: Unit, seed: int = 0) -> tuple[Tensor, ...]:
    # Random arguments for the ``forward`` of a unit's module, batch 1.
    #
    # Returns:
    #     Feature maps (1, C, H, W), tokens (1, T, C), time embedding (1, width), context (1, S,
    #     width) or timesteps (1,), where added also pooled text (1, width) and time ids (1, ids),
    #     where there is one the guidance weight (1,).
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator)

    match unit:
        case units.TimeEmbedding():
            added = (random(unit.text_dim), torch.full((1, unit.ids), 512.0)) if unit.added else ()
            guidance = (torch.full((1,), 3.0),) if unit.guidance_dim else ()
            return (torch.full((1,), 500.0), *added, *guidance)
        case units.TimeProjection():
            return (random(unit.width),)
        case units.Residual():
            x = random(unit.in_channels, unit.size, unit.size)
            return x, random(unit.time_width or unit.inner_channels)
        case units.SelfAttention() | units.FeedForward() | units.Norm():
            return (random(unit.tokens, unit.channels),)
        case units.CrossAttention():
            return random(unit.tokens, unit.channels), random(unit.context_tokens, unit.context_dim)
        case units.Projection() | units.Downsample() | units.Upsample():
            return (random(unit.channels, unit.size, unit.size),)
        case units.Input() | units.Output():
            return (random(unit.in_channels, unit.size, unit.size),)


def name_of(workload: Workload) -> str:
    """What messages call it: fields of a unit, digest of a network, name of a part."""
    match workload:
        case UNetConfig():
            return f"network {workload.digest}"
        case Part():
            return workload.name
        case _:
            return describe(workload)


def to_data(workload: Workload) -> dict[str, Any]:
    """Plain data that ``from_data`` reads."""
    match workload:
        case UNetConfig():
            return {"network": workload.to_dict()}
        case Part():
            return {"part": asdict(workload)}
        case _:
            return {"unit": unit_fields(workload)}


def from_data(data: dict[str, Any]) -> Workload:
    """Rebuild what ``to_data`` wrote.

    Raises:
        ValueError: It is none of the three, or not valid.
        InputError: There is no such part.
    """
    match data:
        case {"network": dict(config)}:
            return UNetConfig.model_validate(config)
        case {"part": {"name": str(name), **rest}} if not rest:
            return get_part(name)
        case {"unit": dict(unit)}:
            return parse_unit(unit)
    raise ValueError(f"a unit, a network or a part was expected, but got {sorted(data)}")
