"""Claims: who is at work on what, as rows of the run's database.

A claim is taken in one statement, so that workers on many machines can share a study, and carries a
heartbeat, so that nothing stays claimed by the dead.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from archsearch.errors import ArchsearchError
from archsearch.study.storage import TABLES

HEARTBEAT_SECONDS = 10.0
LEASE_SECONDS = 60.0
"""A claim from another machine whose heartbeat is older than this is nobody's any more."""

_CLAIMS = sql.Table(
    "archsearch_claims",
    TABLES,
    sql.Column("study", sql.String(255), primary_key=True),
    sql.Column("name", sql.String(255), primary_key=True),
    sql.Column("token", sql.String(32), nullable=False),
    sql.Column("host", sql.String(255), nullable=False),
    sql.Column("processes", sql.String(64), nullable=False),
    sql.Column("pid", sql.BigInteger, nullable=False),
    sql.Column("started", sql.Double, nullable=False),
    sql.Column("taken", sql.Double, nullable=False),
    sql.Column("heartbeat", sql.Double, nullable=False),
)


class ClaimLostError(ArchsearchError):
    """What somebody is at work on was given to another."""


def process_space() -> str:
    """Names where a process number means one process: containers of one host may share its name,
    and so may hosts, but number their processes apart.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # no Linux: there the host's name has to do
        return ""


class Claims:
    """Who is at work on what: rows that are taken in one statement, so that machines can share.

    Args:
        engine: Of the database.
        study: Whose claims these are; another study's never collide with them.
    """

    def __init__(self, engine: sql.Engine, study: str) -> None:
        self._engine, self._study = engine, study
        self._held: dict[str, str] = {}  # name → token
        self._beating: threading.Thread | None = None

    @contextmanager
    def held(self, name: str, wait: bool = True, poll_seconds: float = 0.02) -> Iterator[bool]:
        """Hold the claim ``name`` inside the block; yields whether it is held.

        Args:
            name: What is claimed.
            wait: Whether to wait for whoever holds it; else the block runs without the claim.
            poll_seconds: Time between two looks while waiting.
        """
        while not (taken := self.take(name)) and wait:
            time.sleep(poll_seconds)
        try:
            yield taken
        finally:
            if taken:
                self.release(name)

    def take(self, name: str) -> bool:
        """Take the claim ``name``, unless somebody alive holds it. A claim is not reentrant."""
        token = uuid.uuid4().hex
        mine = {**_this_process(), "token": token, "taken": self._now, "heartbeat": self._now}
        try:
            with self._engine.begin() as connection:
                connection.execute(_CLAIMS.insert().values(study=self._study, name=name, **mine))
        except IntegrityError:
            holder = self._row(name)
            if holder is None or self._is_alive(holder):
                return False
            at = self._at(name) & (_CLAIMS.c.token == holder.token)
            with self._engine.begin() as connection:
                if connection.execute(_CLAIMS.update().where(at).values(**mine)).rowcount != 1:
                    return False  # another took it first
        self._held[name] = token
        if self._beating is None or not self._beating.is_alive():
            self._beating = threading.Thread(target=self._beat, daemon=True)
            self._beating.start()
        return True

    def release(self, name: str) -> None:
        """Give the claim ``name`` back; nothing where it is not held any more."""
        token = self._held.pop(name, "")
        with self._engine.begin() as connection:
            connection.execute(_CLAIMS.delete().where(self._at(name) & (_CLAIMS.c.token == token)))

    def is_held(self, name: str) -> bool:
        """Whether somebody alive holds the claim ``name``."""
        return self.holder(name) is not None

    def is_lost(self, name: str) -> bool:
        """Whether the claim ``name``, taken here, was since given to another: while this machine
        slept, say.
        """
        row = self._row(name)
        return row is None or row.token != self._held.get(name)

    def is_own(self, name: str) -> bool:
        """Whether this process holds the claim ``name``, by these claims or by others of it."""
        row, mine = self._row(name), _this_process()
        return row is not None and all(
            abs(row.started - value) < 1 if key == "started" else row._mapping[key] == value
            for key, value in mine.items()
        )

    def holder(self, name: str) -> Any:
        """The row of whoever alive holds the claim ``name``, with ``host``, ``pid`` and ``taken``
        (seconds since 1970); None where nobody does.
        """
        row = self._row(name)
        return row if row is not None and self._is_alive(row) else None

    def _at(self, name: str) -> sql.ColumnElement[bool]:
        return (_CLAIMS.c.study == self._study) & (_CLAIMS.c.name == name)

    @property
    def _now(self) -> sql.ColumnElement[float]:
        """The database's clock where it has one of its own: those of machines differ."""
        if self._engine.dialect.name == "postgresql":
            clock = sql.extract("epoch", sql.func.clock_timestamp())
            return sql.cast(clock, sql.Double)
        return sql.literal(time.time(), sql.Double)

    def held_with(self, prefix: str) -> list[str]:
        """Names of the claims that begin with ``prefix`` and that somebody alive holds."""
        return [name for name in self.living() if name.startswith(prefix)]

    def living(self) -> set[str]:
        """Names of all claims that somebody alive holds."""
        return {row.name for row in self._rows() if self._is_alive(row)}

    def dead(self) -> set[str]:
        """Names of all claims whose holders are gone."""
        return {row.name for row in self._rows() if not self._is_alive(row)}

    def bury(self, name: str) -> None:
        """Remove the claim ``name``, unless somebody alive holds it."""
        row = self._row(name)
        if row is not None and not self._is_alive(row):
            at = self._at(name) & (_CLAIMS.c.token == row.token)
            with self._engine.begin() as connection:
                connection.execute(_CLAIMS.delete().where(at))

    def _rows(self) -> Any:
        own = _CLAIMS.c.study == self._study
        with self._engine.connect() as connection:
            return connection.execute(sql.select(_CLAIMS, self._now.label("now")).where(own)).all()

    def _row(self, name: str) -> Any:
        query = sql.select(_CLAIMS, self._now.label("now")).where(self._at(name))
        with self._engine.connect() as connection:
            return connection.execute(query).first()

    @staticmethod
    def is_here(row: Any) -> bool:
        """Whether the holder of a claim is a process of this machine, so that its number means that
        process here.
        """
        here = _this_process()
        return (row.host, row.processes) == (here["host"], here["processes"])

    @staticmethod
    def _is_alive(row: Any) -> bool:
        """Whether a claim's holder lives. Of one on another host only the heartbeat tells."""
        if not Claims.is_here(row):
            return bool(row.now - row.heartbeat < LEASE_SECONDS)
        try:
            return bool(abs(psutil.Process(row.pid).create_time() - row.started) < 1)
        except psutil.NoSuchProcess:
            return False

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            if not (tokens := list(self._held.values())):
                continue
            at = _CLAIMS.c.token.in_(tokens)
            # A busy database is tried again with the next beat.
            with suppress(SQLAlchemyError), self._engine.begin() as connection:
                connection.execute(_CLAIMS.update().where(at).values(heartbeat=self._now))


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "processes": process_space(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }
