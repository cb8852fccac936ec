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

from archsearch.errors import ArchsearchError, InputError

HEARTBEAT_SECONDS = 10.0
LEASE_SECONDS = 60.0
"""A claim from another machine whose heartbeat is older than this is nobody's any more."""
CONNECT_ARGUMENTS = {"timeout": 60}
"""How long SQLite waits for others that write."""

TABLES = sql.MetaData()
"""Every table of ours beside Optuna's."""
_CLAIMS = sql.Table(
    "archsearch_claims",
    TABLES,
    sql.Column("name", sql.String(255), primary_key=True),
    sql.Column("token", sql.String(32), nullable=False),
    sql.Column("host", sql.String(255), nullable=False),
    sql.Column("pid", sql.BigInteger, nullable=False),
    sql.Column("started", sql.Float, nullable=False),
    sql.Column("heartbeat", sql.Float, nullable=False),
)


@contextmanager
def told_of(database: Path) -> Iterator[None]:
    """Say in a sentence why a database cannot be opened.

    Raises:
        InputError: The file is not a database, or damaged.
        ArchsearchError: The disk is full or the file cannot be written.
    """
    try:
        yield
    except ArchsearchError:
        raise
    except Exception as error:  # SQLAlchemy's and sqlite3's classes, alembic's for other versions
        message = str(getattr(error, "orig", None) or error).splitlines()[0]
        if any(word in message for word in ("disk", "readonly", "unable to open", "locked")):
            raise ArchsearchError(f"{database}: cannot be written: {message}.") from error
        raise InputError(f"{database}: cannot be read as a study: {message}.") from error


class Claims:
    """Who is at work on what: rows that are taken in one statement, so that machines can share."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine
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
        token, now = uuid.uuid4().hex, time.time()
        mine = {"token": token, "host": socket.gethostname(), "pid": os.getpid(), "heartbeat": now}
        mine["started"] = psutil.Process().create_time()
        try:
            with self._engine.begin() as connection:
                connection.execute(_CLAIMS.insert().values(name=name, **mine))
        except IntegrityError:
            holder = self._row(name)
            if holder is None or self._is_alive(holder):
                return False
            at = (_CLAIMS.c.name == name) & (_CLAIMS.c.token == holder.token)
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
        at = (_CLAIMS.c.name == name) & (_CLAIMS.c.token == token)
        with self._engine.begin() as connection:
            connection.execute(_CLAIMS.delete().where(at))

    def is_held(self, name: str) -> bool:
        """Whether somebody alive holds the claim ``name``."""
        row = self._row(name)
        return row is not None and self._is_alive(row)

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
            at = (_CLAIMS.c.name == name) & (_CLAIMS.c.token == row.token)
            with self._engine.begin() as connection:
                connection.execute(_CLAIMS.delete().where(at))

    def _rows(self) -> Any:
        with self._engine.connect() as connection:
            return connection.execute(_CLAIMS.select()).fetchall()

    def _row(self, name: str) -> Any:
        with self._engine.connect() as connection:
            return connection.execute(_CLAIMS.select().where(_CLAIMS.c.name == name)).first()

    @staticmethod
    def _is_alive(row: Any) -> bool:
        """Whether a claim's holder lives. Of one on another host only the heartbeat tells."""
        if row.host != socket.gethostname():
            return bool(time.time() - row.heartbeat < LEASE_SECONDS)
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
                connection.execute(_CLAIMS.update().where(at).values(heartbeat=time.time()))
