"""The database of a run: SQLite in its folder, or one that several machines share."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from filelock import FileLock
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from archsearch.errors import ArchsearchError, InputError, require_extra, words_of
from archsearch.files import expanded

CONNECT_SECONDS = 5
"""How long one address of a server may take to answer."""
WAIT_SECONDS = 60
"""How long SQLite waits for others that write."""
HIDDEN = "***"
"""What stands for a password wherever an address is shown."""
FORMS = "postgresql://USER@HOST/DATABASE or sqlite:///FILE"

TABLES = sql.MetaData()
"""Every table of ours beside Optuna's. Several studies can share a database: each table has a
column ``study``, and no study sees another's rows."""

_PSYCOPG = "postgresql+psycopg"
_DRIVERS = dict.fromkeys(("postgres", "postgresql"), _PSYCOPG)
_CREATING = 0x61726368  # our number among PostgreSQL's advisory locks: "arch"


def key_of(conditions: Any) -> str:
    """JSON values in 16 hex digits, which name what was done under them."""
    text = json.dumps(conditions, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def masked(address: str) -> str:
    """An address without its secrets, to be shown: ``postgresql://me:***@host/database``."""
    address = re.sub(r"(://[^/@:]*):[^/]*@", rf"\1:{HIDDEN}@", address)
    return re.sub(r"(?i)([?&][^=&]*(?:password|secret|token|key)=)[^&]*", rf"\1{HIDDEN}", address)


@dataclass(frozen=True)
class Database:
    """A database by its address. As text it is the file, or the address without its password."""

    url: sql.URL

    @classmethod
    def at(cls, address: str) -> "Database":
        """The database at an address as users write it.

        Raises:
            InputError: It is not an address, or names a kind of database that is not known.
        """
        try:
            url = sql.make_url(address)
            url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
            url.get_dialect()
        except (ArgumentError, NoSuchModuleError) as error:
            raise InputError(
                f"'{masked(address)}' is not the address of a database; allowed are those of "
                f"SQLAlchemy, such as {FORMS}."
            ) from error
        except ImportError:
            pass  # of a driver: told by ``engine``, when the database is opened
        if url.get_backend_name() == "sqlite":
            if url.database in (None, "", ":memory:"):
                raise InputError(f"'{address}' is a database in memory; give sqlite:///FILE.")
            url = url.set(database=str(expanded(url.database).resolve()))
        return cls(url)

    @classmethod
    def of_file(cls, path: Path) -> "Database":
        """SQLite's database in a file, whatever that is called: a path may hold a ``?``."""
        return cls(sql.URL.create("sqlite", database=str(path.resolve())))

    @property
    def path(self) -> Path | None:
        """Its file; None where a server has it."""
        sqlite = self.url.get_backend_name() == "sqlite"
        return Path(str(self.url.database)) if sqlite else None

    def __str__(self) -> str:
        return str(self.path or masked(self.address))

    @property
    def address(self) -> str:
        """The whole address, with the password: not to be shown."""
        return self.url.render_as_string(hide_password=self.url.password == HIDDEN)

    @property
    def engine_arguments(self) -> dict[str, Any]:
        """What SQLAlchemy is to be told beside the address."""
        if self.path is not None:
            return {"connect_args": {"timeout": WAIT_SECONDS}}
        arguments: dict[str, Any] = {"pool_pre_ping": True}  # a server may have been started anew
        if self.url.drivername == _PSYCOPG and "connect_timeout" not in self.url.query:
            arguments["connect_args"] = {"connect_timeout": CONNECT_SECONDS}
        return arguments

    def engine(self) -> sql.Engine:
        """Ready to connect.

        Raises:
            InputError: Its driver is not installed.
        """
        pool = {"poolclass": sql.NullPool} if self.path is not None else {}
        try:
            return sql.create_engine(self.url, **self.engine_arguments, **pool)
        except ImportError as error:
            if self.url.get_backend_name() == "postgresql":
                raise require_extra("psycopg", "postgres") from None
            raise InputError(f"storage: {self}: its driver is not installed: {error}.") from error

    def create_tables(self) -> sql.Engine:
        """Make our tables where they are not there yet. What an earlier version has written and may
        only be read stays as it is: who looks at it finds the tables that it lacks empty.

        Raises:
            InputError: The database cannot be reached, or is none.
            ArchsearchError: It cannot be written.
        """
        engine = self.engine()
        with self.told():
            lacking = TABLES.tables.keys() - set(sql.inspect(engine).get_table_names())
        if lacking:
            try:
                with self.told(), self.alone(), engine.begin() as connection:
                    TABLES.create_all(connection)
            except ArchsearchError:
                if lacking == TABLES.tables.keys():
                    raise
        return engine

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let one process at a time make tables: two that find none would both make them, and one
        of them fail.
        """
        if self.path is not None:
            lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=WAIT_SECONDS)
            with suppress(OSError):  # a folder that may only be read: whoever writes says so
                lock.acquire()
            try:
                yield
            finally:
                lock.release()
        elif self.url.get_backend_name() == "postgresql":
            engine = self.engine()
            try:  # the lock is the connection's: whatever ends it gives the lock back
                with engine.connect() as connection:
                    connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_CREATING)))
                    yield
            finally:
                engine.dispose()
        else:
            yield

    @contextmanager
    def told(self) -> Iterator[None]:
        """Say in a sentence why a database cannot be opened.

        Raises:
            InputError: It cannot be reached, or is none, or damaged.
            ArchsearchError: The disk is full or the file cannot be written.
        """
        try:
            yield
        except ArchsearchError:
            raise
        except Exception as error:  # SQLAlchemy's and drivers' classes, alembic's for versions
            message = words_of(error)
            if self.url.password:
                message = message.replace(str(self.url.password), HIDDEN)
            if self.path is None:
                raise InputError(f"storage: {self}: cannot be used: {message}.") from error
            if any(word in message for word in ("disk", "readonly", "unable to open", "locked")):
                raise ArchsearchError(f"{self}: cannot be written: {message}.") from error
            raise InputError(f"{self}: cannot be read as a study: {message}.") from error
