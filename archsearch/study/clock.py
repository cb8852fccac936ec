"""How long a study has been searched, over all sittings and machines."""

import socket
import time
import uuid

import sqlalchemy as sql

from archsearch.study.storage import TABLES

_SITTINGS = sql.Table(
    "archsearch_sittings",
    TABLES,
    sql.Column("token", sql.String(32), primary_key=True),
    sql.Column("study", sql.String(255), nullable=False),
    sql.Column("host", sql.String(255), nullable=False),
    sql.Column("started", sql.Float, nullable=False),
    sql.Column("seen", sql.Float, nullable=False),
)


class Clock:
    """The time that sittings of a study have taken; where two were at once, once.

    Args:
        engine: Of the study's database.
        study: The study's name.
        minutes: How long it may take; None is for ever.
    """

    def __init__(self, engine: sql.Engine, study: str, minutes: float | None) -> None:
        self._engine, self._study, self.minutes = engine, study, minutes
        self._token: str | None = None

    def beat(self) -> None:
        """Begin a sitting, or note that it still goes on."""
        now = time.time()
        with self._engine.begin() as connection:
            if self._token is None:
                self._token = uuid.uuid4().hex
                row = {"token": self._token, "study": self._study, "host": socket.gethostname()}
                connection.execute(_SITTINGS.insert().values(**row, started=now, seen=now))
            else:
                mine = _SITTINGS.c.token == self._token
                connection.execute(_SITTINGS.update().where(mine).values(seen=now))

    def seconds(self) -> float:
        """Seconds taken so far, up to the last note."""
        query = _SITTINGS.select().where(_SITTINGS.c.study == self._study)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(_SITTINGS.c.started)).fetchall()
        total, reached = 0.0, 0.0
        for row in rows:
            total += max(0.0, row.seen - max(row.started, reached))
            reached = max(reached, row.seen)
        return total

    def left(self) -> float:
        """Seconds that are left; without end where there is no limit."""
        return float("inf") if self.minutes is None else 60 * self.minutes - self.seconds()
