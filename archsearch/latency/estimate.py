"""A guess at an entry that a table lacks, from its nearest entries of the same kind.

Only where it is asked for (``--on-missing predict``), and marked wherever it shows: an estimate is no measurement.
"""

import math
from dataclasses import astuple, fields
from functools import lru_cache

from archsearch.cost.bill import bill
from archsearch.cost.units import macs, params, tape
from archsearch.latency.table import LatencyTable
from archsearch.unet import units
from archsearch.unet.units import Unit

NEIGHBOURS = 4
BYTES_A_MAC = 2.0
"""Weight of an element moved against a multiply-accumulate: depthwise convolutions and norms move much and multiply little."""


def estimate(unit: Unit, table: LatencyTable, leave_out: Unit | None = None) -> float | None:
    """Estimate the median of ``unit`` in ms.

    Its nearest entries, those with the same options (kind of convolution, normaliser, …) first, each tell how long a unit of work
    takes; their mean, weighted by nearness in the logarithm of the shapes, times the work of ``unit``.

    Args:
        unit: What the table lacks.
        table: Where to look for its like.
        leave_out: An entry not to look at, to see how well it would have been estimated.

    Returns:
        Milliseconds, or None where the table has no entry of its kind.
    """
    candidates = [entry for entry in table.entries if entry.unit.kind == unit.kind and entry.unit != leave_out]
    if not candidates:
        return None
    options, shape = _options(unit), _shape(unit)
    ranked = sorted(
        (
            (sum(a != b for a, b in zip(options, _options(entry.unit), strict=True)), math.dist(shape, _shape(entry.unit)), entry)
            for entry in candidates
        ),
        key=lambda item: item[:2],
    )
    same = [item for item in ranked if item[0] == ranked[0][0]][:NEIGHBOURS]
    weights = [1 / (distance + 0.05) for _, distance, _ in same]
    pace = sum(w * math.log(e.p50 / work(e.unit)) for w, (_, _, e) in zip(weights, same, strict=True)) / sum(weights)
    return max(round(math.exp(pace) * work(unit), 6), 1e-6)


@lru_cache(maxsize=65536)
def work(unit: Unit) -> float:
    """Multiply-accumulates and elements moved, in one figure."""
    if isinstance(unit, units.Projection):
        moved = 6 * unit.channels * unit.size**2
    else:
        moved = sum(op.elements for op in tape(unit)) + bill(unit).peak
    return macs(unit).total + BYTES_A_MAC * (moved + params(unit))


def _options(unit: Unit) -> list[object]:
    return [value for value in astuple(unit) if not isinstance(value, int) or isinstance(value, bool)]


def _shape(unit: Unit) -> list[float]:
    return [
        math.log(value + 1)
        for field in fields(unit)
        if isinstance(value := getattr(unit, field.name), int) and not isinstance(value, bool)
    ]
