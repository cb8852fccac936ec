"""What can be measured: a unit, a whole UNet, or another part of the text-to-image pipeline."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import TypeIs

from archsearch.latency.entry import describe, parse_unit
from archsearch.latency.inputs import unit_inputs, unit_module
from archsearch.latency.parts import Part
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs
from archsearch.unet.units import Unit, unit_fields

Thing = Unit | UNetConfig | Part


def is_unit(thing: Thing) -> TypeIs[Unit]:
    """Whether it is one of the units a UNet is made of, not something that is measured whole."""
    return not isinstance(thing, UNetConfig | Part)


def build(thing: Thing, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Module with random weights, in evaluation mode, and arguments for its ``forward``; torch's random state is left alone."""
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
