"""What an engine is: runs workers on a run until their work is done."""

from collections.abc import Callable
from typing import Protocol

from archsearch.study.rundir import RunDir


class Engine(Protocol):
    """Runs ``workers`` workers on ``run`` until ``target`` trials are finished and the finishing
    jobs are done.
    """

    def run(self, run: RunDir, target: int, workers: int, tick: Callable[[], None]) -> None:
        """Block until the work is done; call ``tick`` about once a second.

        Raises:
            ArchsearchError: The workers failed; the message has the last words of one.
            KeyboardInterrupt: The user stopped it; running trials were given back.
        """
        ...
