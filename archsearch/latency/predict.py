"""Latency of a network from the times of its units."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from archsearch.errors import InputError
from archsearch.latency.entry import describe
from archsearch.latency.keys import keys_of
from archsearch.latency.table import LatencyTable
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import Plan, plan
from archsearch.unet.units import Unit

NAMED = 4


class MissingEntryError(InputError):
    """A table lacks units of a network. ``missing`` has all of them; the message names the first few."""

    def __init__(self, table: LatencyTable, missing: list[Unit]) -> None:
        self.missing = missing
        named = "; ".join(describe(unit) for unit in islice(missing, NAMED))
        more = f"; and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        super().__init__(
            f"latency table {table.name} lacks {len(missing)} of the network's units: {named}{more}. "
            "Measure them with: archsearch latency measure"
        )


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted latency at batch 1."""

    latency_ms: float
    """Scale times the sum of the units' medians, plus offset."""
    by_unit: list[tuple[str, Unit, float]]
    """Path, unit and its median in ms, before scale and offset, in execution order."""


def predict(config: UNetConfig | Plan, table: LatencyTable) -> Prediction:
    """Predict the latency of a network: the sum of its units' medians, corrected as the table says.

    Raises:
        MissingEntryError: The table lacks units of it.
    """
    resolved = config if isinstance(config, Plan) else plan(config)
    entries = table.by_unit
    try:
        by_unit = [(path, unit, entries[unit].p50) for path, unit in resolved.placed()]
    except KeyError:
        raise MissingEntryError(table, _missing((unit for _, unit in resolved.placed()), table)) from None
    total = sum(ms for _, _, ms in by_unit)
    return Prediction(table.correction.scale * total + table.correction.offset, by_unit)


def missing_keys(configs: Iterable[UNetConfig], table: LatencyTable) -> list[Unit]:
    """Return the different units of ``configs`` that ``table`` lacks, sorted."""
    return _missing(keys_of(configs), table)


def _missing(units: Iterable[Unit], table: LatencyTable) -> list[Unit]:
    return list(dict.fromkeys(unit for unit in units if unit not in table.by_unit))
