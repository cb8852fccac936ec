"""``--table`` and ``--on-missing``: what architectures cost, and how long a table says they take."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from archsearch import resources
from archsearch.cost.price import price
from archsearch.errors import InputError, nearest
from archsearch.latency.load import load_table
from archsearch.latency.predict import ON_MISSING, AnyTable, OnMissing, predict, unit_ms
from archsearch.latency.published import PublishedTable
from archsearch.unet.config import UNetConfig
from archsearch.unet.units import Unit

TableOption = Annotated[str | None, typer.Option("--table", help="Latency table, by name or path.")]
MissingOption = Annotated[
    str, typer.Option("--on-missing", help="Units the table lacks: error, or predict (estimated from others, and marked).")
]


@dataclass(frozen=True)
class Look:
    """A latency table and what to do about units that it lacks."""

    table: AnyTable
    on_missing: OnMissing

    @property
    def has_units(self) -> bool:
        """Whether the table has times of units: a published one has not."""
        return not isinstance(self.table, PublishedTable)

    def ms_of(self, unit: Unit) -> float | None:
        """Milliseconds of a unit, before the table's correction; None where a published table has no units."""
        return None if isinstance(self.table, PublishedTable) else unit_ms(unit, self.table, self.on_missing)


def load_look(name: str | None, on_missing: str) -> Look | None:
    """Load what ``--table`` names, if it was given."""
    if on_missing not in ON_MISSING:
        raise InputError(f"--on-missing {on_missing}: allowed are {', '.join(ON_MISSING)}.{nearest(on_missing, ON_MISSING)}")
    return None if name is None else Look(load_table(resources.find("table", name)), on_missing)


def figures_of(config: UNetConfig, look: Look | None) -> dict[str, Any]:
    """The cost of an architecture as plain data, with a table also its predicted latency."""
    figures = price(config).to_dict()
    if look:
        predicted = predict(config, look.table, look.on_missing)
        figures |= {"latency_ms": predicted.latency_ms, "latency_table": look.table.name}
        figures |= {"latency_note": predicted.mark} if predicted.mark else {}
    return figures
