"""Stopping a run and going on with it, as the command line does: Ctrl-C, and ``archsearch run`` on
the run's own study.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archsearch.errors import ArchsearchError, InputError
from archsearch.study.lock import runner_of

if TYPE_CHECKING:
    from archsearch.api import Study

LOG = "run.log"
"""Below ``RUN_DIR/logs``: what runs that were started from a live page have printed."""


class Helm:
    """Stops the run of a folder, and goes on with it.

    Args:
        folder: Of the run.
        open_study: Opens the study in it.
    """

    def __init__(self, folder: Path, open_study: "Callable[[], Study]") -> None:
        self.folder = folder
        self._open_study = open_study
        self._alone = threading.Lock()  # two clicks are two requests
        self._process: subprocess.Popen[bytes] | None = None

    def stop(self) -> str:
        """Interrupt whoever runs the folder: running trials are queued again, results written.

        Returns:
            What was done, in a sentence.

        Raises:
            InputError: Nobody runs it, or another machine does.
            ArchsearchError: The process belongs to another user.
        """
        study = self._open_study()
        runner = runner_of(study.run_dir, study.results.store.claims)
        if runner is None:
            raise InputError(f"{self.folder}: nobody runs it, so there is nothing to stop.")
        if not runner.is_here:
            raise InputError(f"{self.folder}: is run by {runner}. Stop it there, with Ctrl-C.")
        try:
            os.kill(runner.pid, signal.SIGTERM if _ignores_ctrl_c(runner.pid) else signal.SIGINT)
        except ProcessLookupError:
            return "The run has just ended."
        except PermissionError as error:
            raise ArchsearchError(f"{self.folder}: {runner} belongs to another user.") from error
        return (
            f"Process {runner.pid} was asked to stop. Running trials are queued again; their "
            "trainings go on from their checkpoints."
        )

    def extend(self, trials: int | None = None, minutes: float | None = None) -> str:
        """Go on with a run that nobody runs, up to so many finished trials or minutes in all, in a
        process that outlives this one. What it prints goes to ``RUN_DIR/logs/run.log``.

        Returns:
            What was done, in a sentence.

        Raises:
            InputError: It is being run, or these numbers leave nothing to do.
        """
        with self._alone:
            study = self._open_study()
            if runner := runner_of(study.run_dir, study.results.store.claims):
                raise InputError(f"{self.folder}: is being run by {runner}. Stop it first.")
            if self._process is not None and self._process.poll() is None:
                raise InputError(f"{self.folder}: was started already, and is making ready.")
            self._check_further(study, trials, minutes)
            arguments = ["run", str(self.folder / "study.yaml"), "--output", str(self.folder)]
            arguments += [] if trials is None else ["--trials", str(trials)]
            arguments += [] if minutes is None else ["--set", f"search.minutes={minutes}"]
            self._process = self._started(arguments)
        return "The run was started, and goes on as soon as its data are ready."

    def _check_further(self, study: "Study", trials: int | None, minutes: float | None) -> None:
        """Refuse numbers that leave nothing to do."""
        if trials is None and minutes is None:
            raise InputError("Say up to how many trials or minutes the run is to go on.")
        finished, limit = study.results.trials.finished(), study.spec.search.minutes
        taken = study.store.clock.seconds() / 60
        if trials is not None and trials <= finished:
            raise InputError(
                f"trials: {trials:,} in all is not more than the {finished:,} that are finished."
            )
        if minutes is not None and limit is None:
            raise InputError("minutes: this study has no limit on its time. Give trials alone.")
        if minutes is not None and minutes <= taken:
            raise InputError(
                f"minutes: {minutes:g} in all is not more than the {taken:.1f} that were taken."
            )
        if limit is not None and minutes is None and taken >= limit:
            raise InputError(
                f"minutes: the {limit:g} of this study are used up; give a larger number too."
            )

    def _started(self, arguments: list[str]) -> "subprocess.Popen[bytes]":
        log = self.folder / "logs" / LOG
        try:
            log.parent.mkdir(exist_ok=True)
            with log.open("ab") as file:
                began = datetime.now().isoformat(sep=" ", timespec="seconds")
                file.write(f"{began}: archsearch {' '.join(arguments)}\n".encode())
                file.flush()
                return subprocess.Popen(
                    [sys.executable, "-m", "archsearch", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,  # Ctrl-C on the dashboard is not for the run
                )
        except OSError as error:
            raise ArchsearchError(f"{log}: cannot be written: {error.strerror}.") from error

    def told(self) -> dict[str, Any] | None:
        """Of the run that was last started here: its exit code, None while it lives, and the last
        line that it printed; None where none was started.
        """
        if self._process is None:
            return None
        return {"code": self._process.poll(), "words": _last_line(self.folder / "logs" / LOG)}


def _ignores_ctrl_c(pid: int) -> bool:
    """Whether a process ignores SIGINT, as what a script has started in the background does;
    ``archsearch run`` then heeds SIGTERM in the same way.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:  # no Linux
        return False
    ignored = next((line.split()[1] for line in status.splitlines() if "SigIgn" in line), "0")
    return bool(int(ignored, 16) >> (signal.SIGINT - 1) & 1)


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
