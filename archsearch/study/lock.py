"""One process at a time runs a folder: two would write its files at once, and each would take the
other's workers for its own. Machines that share a storage have a folder each.
"""

from datetime import datetime

from archsearch.errors import InputError
from archsearch.study.claims import LEASE_SECONDS, Claims
from archsearch.study.rundir import RunDir


class FolderLock:
    """A run's folder, held until ``release``; a holder that is dead holds nothing.

    Args:
        run: The folder.

    Raises:
        InputError: Another process runs it; the message says which, and since when.
    """

    def __init__(self, run: RunDir) -> None:
        known = run.environment()
        self._engine = run.storage.create_tables()
        self._claims = Claims(self._engine, known["study"])
        # A copy has the same id, the folder seen from another machine the same number.
        self.name = f"run {known['id']} {run.path.stat().st_ino}"
        """Of the claim."""
        if not self._claims.take(self.name):
            holder = self._claims.holder(self.name)
            who = ""
            if holder is not None:
                since = datetime.fromtimestamp(holder.taken).strftime("%Y-%m-%d %H:%M:%S")
                who = f" by process {holder.pid} on {holder.host}, since {since}"
            raise InputError(
                f"{run.path}: is being run{who}. Wait for it, or give another --output: with one "
                "--storage several folders share a study. A process of another machine that is "
                f"gone holds it for {LEASE_SECONDS:.0f} seconds."
            )

    def release(self) -> None:
        """Let others run the folder."""
        self._claims.release(self.name)
        self._engine.dispose()
