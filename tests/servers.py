"""A real PostgreSQL for tests: the machine's own where it has one, else that of a wheel."""

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "open%sesame"
"""With a sign that an address has to quote."""
USER = "archsearch"
INITDB = ("--auth=scram-sha-256", "--encoding=utf8", "--locale=C", "--no-sync")


@dataclass(frozen=True)
class Server:
    """A server on this machine."""

    port: int

    def address(self, database: str, password: str = PASSWORD) -> str:
        """As a user writes it."""
        quoted = password.replace("%", "%25")
        return f"postgresql://{USER}:{quoted}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The address of a new, empty database."""
        name = f"test_{uuid.uuid4().hex[:8]}"
        self.execute(f"CREATE DATABASE {name}")
        return self.address(name)

    def execute(self, statement: str) -> None:
        """Let the server's owner do something."""
        import psycopg

        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(statement)


def _programs(root: Path) -> Path:
    """The folder of ``initdb`` and ``pg_ctl``, for whatever user to run."""
    if found := shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    spec = find_spec("pgserver")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("neither PostgreSQL nor the wheel pgserver is installed")
    package = Path(spec.submodule_search_locations[0])
    # Copied: perhaps root alone may look where they lie, and root may not run them.
    shutil.copytree(package / "pginstall", root / "pgserver" / "pginstall")
    shutil.copytree(package.parent / "pgserver.libs", root / "pgserver.libs")
    return root / "pgserver" / "pginstall" / "bin"


@contextmanager
def postgres_server() -> Iterator[Server]:
    """Run a server on a free port; it wants a password."""
    pytest.importorskip("psycopg")
    root = Path(tempfile.mkdtemp(prefix="archsearch-pg-"))
    options: dict[str, Any] = {"cwd": root, "check": True, "stdout": subprocess.DEVNULL}
    programs = _programs(root)
    if os.getuid() == 0:  # PostgreSQL refuses to be run by root
        import pwd

        names = {entry.pw_name for entry in pwd.getpwall()}
        who = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        options |= {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
        os.chown(root, who.pw_uid, who.pw_gid)
    data, secret = root / "data", root / "password"
    secret.write_text(PASSWORD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = Server(free.getsockname()[1])
    settings = f"-c listen_addresses=127.0.0.1 -c port={server.port} -c fsync=off -k {root}"
    try:
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", USER, f"--pwfile={secret}", *INITDB],
            **options,
        )
        subprocess.run(
            [programs / "pg_ctl", "-D", data, "-w", "-l", root / "log", "-o", settings, "start"],
            **options,
        )
        try:
            yield server
        finally:
            subprocess.run(
                [programs / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"], **options
            )
    finally:
        shutil.rmtree(root, ignore_errors=True)
