"""Everything that one unit costs, looked up once: pricing many networks is looking up units that many of them share."""

from dataclasses import dataclass
from functools import lru_cache

from archsearch.cost.units import Op, macs, params, tape
from archsearch.unet import units


@dataclass(frozen=True, slots=True)
class Bill:
    """Parameters, multiply-accumulates by kind, and the most elements alive at once while the unit runs."""

    params: int
    conv: int
    linear: int
    attention: int
    peak: int
    """Its input counted."""
    peak_held: int
    """Its input not counted, since someone else holds it."""


@lru_cache(maxsize=65536)
def bill(unit: units.Unit) -> Bill:
    """Price a unit at batch 1."""
    counted = macs(unit)
    x = _input_elements(unit)
    # What frames transformer blocks has no tape of its own: see cost.memory.
    peaks = (0, 0) if isinstance(unit, units.Projection) else (peak(tape(unit), x), peak(tape(unit), 0))
    return Bill(params(unit), counted.conv, counted.linear, counted.attention, *peaks)


def _input_elements(unit: units.Unit) -> int:
    """Elements of a unit's input; 0 where it belongs to the caller."""
    match unit:
        case units.Input() | units.TimeEmbedding() | units.TimeProjection():
            return 0
        case units.Residual() | units.Output():
            return unit.in_channels * unit.size**2
        case units.Projection() | units.Downsample() | units.Upsample():
            return unit.channels * unit.size**2
        case _:
            return unit.tokens * unit.channels


def peak(ops: list[Op], x: int) -> int:
    """Most elements alive at once over ``ops``, with ``x`` elements of input to count."""
    last_read = {name: step for step, op in enumerate(ops) for name in op.reads}
    alive = {"x": x}
    most = x
    for step, op in enumerate(ops):
        alive[op.makes] = op.elements
        most = max(most, sum(alive.values()))
        for name in [name for name in alive if last_read.get(name, -1) <= step and name != "y"]:
            del alive[name]
    return most
