"""Latency of a network from the times of its units."""

from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args

from archsearch.errors import InputError
from archsearch.latency.entry import describe
from archsearch.latency.estimate import estimate
from archsearch.latency.keys import measured_as
from archsearch.latency.published import PublishedTable
from archsearch.latency.table import LatencyTable
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import Plan, plan
from archsearch.unet.units import Unit

NAMED = 4

AnyTable = LatencyTable | PublishedTable
OnMissing = Literal["error", "predict"]
ON_MISSING: tuple[OnMissing, ...] = get_args(OnMissing)


class MissingEntryError(InputError):
    """A table lacks units of a network. ``missing`` has all of them; the message names the first few."""

    def __init__(self, table: LatencyTable, missing: list[Unit]) -> None:
        self.missing = missing
        failed = {failure.unit: failure.reason for failure in table.failed}
        named = "; ".join(
            describe(unit) + (f" (failed: {failed[unit]})" if unit in failed else "") for unit in islice(missing, NAMED)
        )
        more = f"; and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        super().__init__(
            f"latency table {table.name} lacks {len(missing)} of the network's units: {named}{more}. "
            "Measure them with: archsearch latency measure"
        )


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted latency at batch 1."""

    latency_ms: float
    """Scale times the sum of the units' medians, plus offset; of a published table a point of its line."""
    provenance: Literal["predicted", "published"] = "predicted"
    estimated: tuple[Unit, ...] = ()
    """Entries that the table lacks and that were estimated from others of their kind."""

    @property
    def mark(self) -> str:
        """What has to be said wherever the figure shows; empty where every unit was measured."""
        if self.provenance == "published":
            return "published estimate"
        return f"{len(self.estimated)} of its units estimated" if self.estimated else ""


def predict(config: UNetConfig | Plan, table: AnyTable, on_missing: OnMissing = "error") -> Prediction:
    """Predict the latency of a network: the sum of its units' medians, corrected as the table says.

    Args:
        config: The network, at deployment scale.
        table: A measured table, or a published one, which is good for its own family only.
        on_missing: What to do about units the table lacks: refuse, or estimate them (``archsearch.latency.estimate``).

    Raises:
        MissingEntryError: The table lacks units of it, or even has nothing to estimate them from.
        InputError: The network is not of the family that a published table is good for.
    """
    resolved = config if isinstance(config, Plan) else plan(config)
    if isinstance(table, PublishedTable):
        return Prediction(table.latency_ms(resolved), "published")
    total, times = 0.0, table.times
    lacking: list[tuple[Unit, int]] = []
    for unit, count in resolved.tally():
        ms = times[unit]
        if ms is None:
            lacking.append((unit, count))
        else:
            total += count * ms
    if not lacking:
        return Prediction(_corrected(table, total))
    missing = table.lacks(unit for unit, _ in lacking)
    if on_missing == "error":
        raise MissingEntryError(table, missing)
    total += sum(count * unit_ms(unit, table, on_missing) for unit, count in lacking)
    return Prediction(_corrected(table, total), estimated=tuple(missing))


def _corrected(table: LatencyTable, total: float) -> float:
    ms = table.correction.apply(total)
    if ms <= 0:
        raise InputError(f"latency table {table.name}: correction: gives {ms:.4g} ms for a sum of {total:.4g} ms.")
    return ms


def unit_ms(unit: Unit, table: LatencyTable, on_missing: OnMissing = "error") -> float:
    """Median of a unit in ms, before the table's correction.

    Raises:
        MissingEntryError: The table lacks it, or even has nothing to estimate it from.
    """
    known = table.ms_of(unit)
    if known is not None:
        return known
    missing = table.lacks([unit])
    estimates = {part: estimate(part, table) if on_missing == "predict" else None for part in missing}
    if hopeless := [part for part, ms in estimates.items() if ms is None]:
        raise MissingEntryError(table, hopeless)
    return sum(estimates[part] if part in estimates else table.by_unit[part].p50 for part in measured_as(unit))  # type: ignore[misc]
