"""What has to be measured so that networks can be predicted."""

from collections.abc import Iterable
from dataclasses import astuple, replace
from functools import lru_cache

from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import Plan, plan
from archsearch.unet.units import UNIT_TYPES, Residual, TimeProjection, Unit


@lru_cache(maxsize=65536)
def measured_as(unit: Unit) -> tuple[Unit, ...]:
    """The entries of a table that stand for ``unit``: itself, or a residual block and its projection of time apart."""
    if isinstance(unit, Residual) and unit.time_width:
        return replace(unit, time_width=0), TimeProjection(unit.time_width, unit.out_channels)
    return (unit,)


def sort_key(unit: Unit) -> tuple[object, ...]:
    """Order of units in tables: by kind as in ``UNIT_TYPES``, then by their fields."""
    return (list(UNIT_TYPES).index(unit.kind), *astuple(unit))


def keys_of(configs: Iterable[UNetConfig | Plan]) -> list[Unit]:
    """Return the different entries that ``configs`` need, sorted. One pass: ``configs`` may be a generator over a whole space."""
    found: set[Unit] = set()
    for config in configs:
        resolved = config if isinstance(config, Plan) else plan(config)
        found.update(unit for unit, _ in resolved.tally())
    return sorted({part for unit in found for part in measured_as(unit)}, key=sort_key)
