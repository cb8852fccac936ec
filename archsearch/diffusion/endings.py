"""How a training can end before its budget: outcomes with names, not crashes."""

from archsearch.errors import ArchsearchError


class TrainingEndedError(ArchsearchError):
    """A training ended by itself before its budget. ``last_good`` says where its last good state lies, if there is one."""

    outcome = "failed"

    def __init__(self, message: str, last_good: str | None = None) -> None:
        kept = f"; its last good state is {last_good}" if last_good else ""
        super().__init__(message + kept)
        self.last_good = last_good


class DivergedError(TrainingEndedError):
    """The loss was not a finite number any more."""

    outcome = "diverged"


class TrainingMemoryError(TrainingEndedError):
    """Memory ran out."""

    outcome = "infeasible: memory"
