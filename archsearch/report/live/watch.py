"""What a live page shows of a run: its figures, its trainings with their curves, its report.

Two threads look at the run, each through a study of its own: one takes the figures every two
seconds while somebody watches, the other writes the report when something has come in. Requests are
answered from what these two have last found, so that a report under way holds up no figures.
"""

import csv
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archsearch.errors import ArchsearchError
from archsearch.report.page import render
from archsearch.study.lock import Runner, runner_of

if TYPE_CHECKING:
    from archsearch.api import Study

LOOK_SECONDS = 2.0
"""Between two looks at the run."""
WATCHED_SECONDS = 60.0
"""So long after the last request somebody still counts as watching."""
REPORT_SECONDS = 4.0
"""Between two reports at least; and these take a third of the time at most."""
CURVE_POINTS = 120
"""Of a curve, at most."""

Point = tuple[int, float]
"""Pictures seen, and the loss there."""


class OpenedStudy:
    """The study in a run's folder, opened again whenever its file has changed: a run that is
    extended writes it anew.

    Args:
        folder: Of the run.
        open_study: Opens what lies in it.
    """

    def __init__(self, folder: Path, open_study: "Callable[[], Study]") -> None:
        self._path, self._open = folder / "study.yaml", open_study
        self._known: tuple[int, Study] | None = None

    def __call__(self) -> "Study":
        """The study as it is now.

        Raises:
            InputError: The folder is not a run, or damaged.
        """
        written = self._path.stat().st_mtime_ns if self._path.is_file() else 0
        if self._known is None or self._known[0] != written:
            self._known = (written, self._open())
        return self._known[1]


class Watch:
    """Looks at a run while somebody watches.

    Args:
        folder: Of the run.
        open_study: Opens the study in it.
    """

    def __init__(self, folder: Path, open_study: "Callable[[], Study]") -> None:
        self.folder = folder
        self._open_study = open_study
        self._asked = 0.0
        self._changed = threading.Condition()
        self._figures: dict[str, Any] | None = None
        self._state: Any = None
        self._written: Any = None  # the state that the last report shows
        self._page: tuple[int, bytes] = (0, b"")
        self._writing, self._failure = False, ""

    def start(self) -> None:
        """Begin to look, in threads that end with the process."""
        for work in (self._look, self._report):
            threading.Thread(target=work, daemon=True).start()

    def now(self) -> dict[str, Any]:
        """What is known of the run now, as plain data; waits for the first look only.

        ``progress`` is :meth:`Study.progress`, None where the run cannot be read, and ``error``
        then says why; ``runner`` says who runs it; ``trainings`` are those under way, each with its
        ``curve``; ``report`` is the number of the report that lies ready, whether one is being
        written, and why it could not be.
        """
        with self._changed:
            self._asked = time.monotonic()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._figures is not None)
            assert self._figures is not None
            figures = dict(self._figures)
            report = {
                "version": self._page[0],
                "writing": self._writing,
                "error": self._failure,
            }
        progress = figures["progress"]
        trainings = [] if progress is None else self._trainings(progress, figures["budget"])
        return {**figures, "trainings": trainings, "report": report}

    def report(self) -> bytes:
        """The report that was last written, as HTML; empty before the first."""
        return self._page[1]

    # Trainings

    def _trainings(self, progress: dict[str, Any], budget: int) -> list[dict[str, Any]]:
        """Trainings under way: of trials for the first time, for longer, or with another seed."""
        first = ({**each, "budget": budget, "seed": 0} for each in progress["running"])
        return [self._training(each) for each in (*first, *progress["further"])]

    def _training(self, known: dict[str, Any]) -> dict[str, Any]:
        name, budget = known["training"], known["budget"]
        rows = read_log(self.folder / "training" / name / "log.csv") if name else []
        seen, loss, seconds = rows[-1] if rows else (0, None, 0.0)
        return {
            "name": name or f"trial {known['trial']}",
            "trial": known["trial"],
            "preset": known.get("preset"),
            "budget": budget,
            "seed": known["seed"],
            "samples": max(seen, round(known.get("share", 0.0) * budget)),
            "loss": loss,
            "seconds_left": round(seconds * (budget / seen - 1), 1) if seen else None,
            "curve": _thinned([(samples, loss) for samples, loss, _ in rows]),
        }

    # Looking

    def _look(self) -> None:
        study = OpenedStudy(self.folder, self._open_study)
        while True:
            with self._changed:
                self._changed.wait_for(self._is_watched)
            figures, state = self._seen(study)
            with self._changed:
                self._figures = figures
                self._state = self._state if state is None else state
                self._changed.notify_all()
            time.sleep(LOOK_SECONDS)

    def _is_watched(self) -> bool:
        return time.monotonic() - self._asked < WATCHED_SECONDS

    @staticmethod
    def _seen(opened: OpenedStudy) -> tuple[dict[str, Any], Any]:
        """The figures, and what the report depends on; None where the run cannot be read."""
        figures: dict[str, Any] = {"progress": None, "runner": None, "budget": None, "error": ""}
        try:
            study = opened()
            claims = study.results.store.claims  # by results: one that is not begun has no database
            runner = runner_of(study.run_dir, claims)
            figures |= {"runner": _described(runner), "budget": study.spec.budgets[0]}
            progress = study.progress()
        except (ArchsearchError, OSError) as error:
            return figures | {"error": str(error)}, None
        except Exception as error:  # of a database that is just being written, or is gone
            return figures | {"error": f"{type(error).__name__}: {error}"}, None
        ended = {k: n for k, n in progress["outcomes"].items() if k not in ("running", "waiting")}
        state = (study.store.state(), ended, progress["showings"], runner is None)
        return figures | {"progress": progress}, state

    # The report

    def _is_behind(self) -> bool:
        return self._is_watched() and self._state not in (None, self._written)

    def _report(self) -> None:
        opened = OpenedStudy(self.folder, self._open_study)
        while True:
            with self._changed:
                self._changed.wait_for(self._is_behind)
                state, self._writing = self._state, True
            began = time.monotonic()
            try:
                study = opened()
                study.results.trials.collect()
                page, failure = render(study).encode(), ""
            except (ArchsearchError, OSError) as error:
                page, failure = b"", str(error)
            except Exception as error:  # told on the page: the figures go on
                page, failure = b"", f"{type(error).__name__}: {error}"
            took = time.monotonic() - began
            with self._changed:
                self._writing, self._failure, self._written = False, failure, state
                if page:
                    self._page = (self._page[0] + 1, page)
            time.sleep(max(REPORT_SECONDS, 2 * took))


def read_log(path: Path) -> list[tuple[int, float, float]]:
    """Rows of a training's log: pictures seen, loss, seconds of training. A row that is just being
    written is left out; a log that is not there, or on another machine, has none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    whole = text[: text.rfind("\n") + 1]
    rows = []
    for row in csv.DictReader(whole.splitlines()):
        with suppress(KeyError, TypeError, ValueError):  # a row that was cut off by a crash
            rows.append((int(row["samples"]), float(row["loss"]), float(row["seconds"])))
    return rows


def _thinned(curve: list[Point]) -> list[Point]:
    """At most ``CURVE_POINTS`` of a curve, evenly, the last among them."""
    stride = -(-len(curve) // CURVE_POINTS)
    return curve if stride <= 1 else curve[(len(curve) - 1) % stride :: stride]


def _described(runner: Runner | None) -> dict[str, Any] | None:
    if runner is None:
        return None
    return {
        "host": runner.host,
        "pid": runner.pid,
        "since": runner.since.isoformat(timespec="seconds"),
        "is_here": runner.is_here,
    }
