"""The figures of an architecture as plain data: counted and, with a latency table, predicted."""

from functools import partial
from typing import Any

from archsearch.cost.price import Times, price
from archsearch.latency.predict import AnyTable, OnMissing, predict, unit_ms
from archsearch.latency.table import PublishedTable
from archsearch.unet.config import UNetConfig


def figures_of(
    config: UNetConfig, table: AnyTable | None = None, on_missing: OnMissing = "error"
) -> dict[str, Any]:
    """The cost of an architecture at deployment scale and batch 1.

    Args:
        config: The architecture.
        table: Latency table; None leaves the latency out.
        on_missing: What to do about units that the table lacks.

    Returns:
        What ``Cost.to_dict`` gives; with a table also ``latency_ms``, ``latency_table`` and, where
        something has to be said of the latency, ``latency_note``.

    Raises:
        MissingEntryError: The table lacks units of the architecture.
        InputError: The architecture is not of the family that a published table is good for.
    """
    figures = price(config).to_dict()
    if table is not None:
        predicted = predict(config, table, on_missing)
        figures |= {"latency_ms": predicted.latency_ms, "latency_table": table.name}
        figures |= {"latency_note": predicted.mark} if predicted.mark else {}
    return figures


def unit_times(table: AnyTable | None, on_missing: OnMissing) -> Times | None:
    """Milliseconds of a unit, before the table's correction; None without a table, and for a
    published one, which has no units.
    """
    if table is None or isinstance(table, PublishedTable):
        return None
    return partial(unit_ms, table=table, on_missing=on_missing)
