"""Derived networks: what was made from a run's trained networks after the search, by distillation
or as an adapter.

Each is a row of the run's database beside the records, under a key that holds what it was made
from and how, so that nothing is made twice and the run knows of it. The networks themselves lie in
the folder that they were made in; scores of their pictures stand with the other metrics, under the
derived network's key (``Store.metrics_of_derived``).
"""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sql

from archsearch import versions
from archsearch.study.storage import TABLES, key_of

What = Literal["distill", "adapt"]

_DERIVED = sql.Table(
    "archsearch_derived",
    TABLES,
    sql.Column("study", sql.String(255), primary_key=True),
    sql.Column("key", sql.String(16), primary_key=True),
    sql.Column("record", sql.String(16), nullable=False),
    sql.Column("budget", sql.BigInteger, nullable=False),
    sql.Column("what", sql.String(16), nullable=False),
    sql.Column("settings", sql.JSON, nullable=False),
    sql.Column("rows", sql.JSON, nullable=False),
    sql.Column("machine", sql.String(255), nullable=False),
)


@dataclass(frozen=True)
class Derived:
    """What was made from one training."""

    key: str
    """Names it: what it was made from, and how."""
    record: str
    """Key of the training that it was made from."""
    budget: int
    """Pictures that this training had seen."""
    what: What
    settings: dict[str, Any]
    """How: method, steps, pictures, learning rate, seed and the like."""
    rows: list[dict[str, Any]]
    """What came of it: of a progressive distillation a row a round, with its ``steps``; of a
    generator or an adapter one row."""
    machine: str

    @property
    def name(self) -> str:
        """As records are named."""
        return f"{self.key}-{self.budget}"


class DerivedNetworks:
    """The derived networks of a study.

    Args:
        engine: Of the database, with our tables.
        study: Name of the study.
    """

    def __init__(self, engine: sql.Engine, study: str) -> None:
        self._engine, self._study = engine, study

    def key(self, record: str, budget: int, what: What, settings: Mapping[str, Any]) -> str:
        """The key of what is made so from the training ``record`` after ``budget`` pictures. The
        training's own key holds network, data, recipe and device.
        """
        made = {"record": record, "budget": budget, "what": what, "settings": dict(settings)}
        made["deriving"] = versions.ADAPTING
        if what == "distill":
            made["deriving"] = versions.DISTILLING.get(settings["method"])
        return key_of(made)

    def find(self, key: str) -> Derived | None:
        """The derived network of that key, or None."""
        return next(iter(self._select(_DERIVED.c.key == key)), None)

    def all(self) -> list[Derived]:
        """Every derived network of the study, in the order of their keys; not those that this
        version of archsearch would make otherwise.
        """
        return [
            each
            for each in self._select(sql.true())
            if each.key == self.key(each.record, each.budget, each.what, each.settings)
        ]

    def keep(
        self,
        record: str,
        budget: int,
        what: What,
        settings: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]],
    ) -> Derived:
        """Keep what came of it; of two that made the same, the last."""
        made = Derived(
            self.key(record, budget, what, settings),
            record,
            budget,
            what,
            dict(settings),
            [dict(row) for row in rows],
            socket.gethostname(),
        )
        at = (_DERIVED.c.study == self._study) & (_DERIVED.c.key == made.key)
        with self._engine.begin() as connection:
            connection.execute(_DERIVED.delete().where(at))
            connection.execute(_DERIVED.insert().values(study=self._study, **vars(made)))
        return made

    def _select(self, where: sql.ColumnElement[bool]) -> list[Derived]:
        if not sql.inspect(self._engine).has_table(_DERIVED.name):
            return []  # of an earlier version, and may only be read
        columns = [column for column in _DERIVED.columns if column.name != "study"]
        query = sql.select(*columns).where(_DERIVED.c.study == self._study, where)
        with self._engine.connect() as connection:
            found = connection.execute(query.order_by(_DERIVED.c.key)).fetchall()
        return [Derived(**row._mapping) for row in found]
