"""What has to be measured so that networks can be predicted."""

from collections.abc import Iterable
from dataclasses import astuple

from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import plan
from archsearch.unet.units import UNIT_TYPES, Unit


def sort_key(unit: Unit) -> tuple[object, ...]:
    """Order of units in tables: by kind as in ``UNIT_TYPES``, then by their fields."""
    return (list(UNIT_TYPES).index(unit.kind), *astuple(unit))


def keys_of(configs: Iterable[UNetConfig]) -> list[Unit]:
    """Return the different units of ``configs``, sorted. One pass: ``configs`` may be a generator over a whole space."""
    found: set[Unit] = set()
    for config in configs:
        found.update(unit for _, unit in plan(config).placed())
    return sorted(found, key=sort_key)
