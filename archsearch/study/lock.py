"""One process at a time runs a folder: two would write its files at once, and each would take the
other's workers for its own. Machines that share a storage have a folder each.
"""

from dataclasses import dataclass
from datetime import datetime

from archsearch.errors import InputError
from archsearch.study.claims import LEASE_SECONDS, Claims
from archsearch.study.rundir import RunDir


@dataclass(frozen=True)
class Runner:
    """The process that runs a folder."""

    host: str
    pid: int
    since: datetime
    is_here: bool
    """Whether it is a process of this machine."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since:%Y-%m-%d %H:%M:%S}"


def runner_of(run: RunDir, claims: Claims) -> Runner | None:
    """Who runs a folder; None where nobody does.

    Args:
        run: The folder.
        claims: Of its study.
    """
    holder = claims.holder(_claim(run))
    if holder is None:
        return None
    since = datetime.fromtimestamp(holder.taken)
    return Runner(holder.host, holder.pid, since, claims.is_here(holder))


class FolderLock:
    """A run's folder, held until ``release``; a holder that is dead holds nothing.

    Args:
        run: The folder.

    Raises:
        InputError: Another process runs it; the message says which, and since when.
    """

    def __init__(self, run: RunDir) -> None:
        study = run.environment()["study"]
        self.name = _claim(run)
        """Of the claim."""
        self._engine = run.storage.create_tables()
        self._claims = Claims(self._engine, study)
        if not self._claims.take(self.name):
            runner = runner_of(run, self._claims)
            who = f" by {runner}" if runner else ""
            raise InputError(
                f"{run.path}: is being run{who}. Wait for it, or give another --output: with one "
                "--storage several folders share a study. A process of another machine that is "
                f"gone holds it for {LEASE_SECONDS:.0f} seconds."
            )

    def release(self) -> None:
        """Let others run the folder."""
        self._claims.release(self.name)
        self._engine.dispose()


def _claim(run: RunDir) -> str:
    # A copy has the same id, the folder seen from another machine the same number.
    return f"run {run.environment()['id']} {run.path.stat().st_ino}"
