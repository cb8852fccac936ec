"""What a run is doing now, what of it is left, and about how long that takes: for whoever watches
it. Needs the run's data, as the process that runs it has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from archsearch.study.finish import (
    REPETITION,
    repetitions,
    repetitions_under_way,
    showings,
    showings_under_way,
)
from archsearch.study.notes import is_finished, notes_of
from archsearch.study.results import Results

TAIL_BYTES = 400
"""Of a training's log: its last rows."""


@dataclass(frozen=True)
class Phase:
    """A part of a run.

    Attributes:
        name: ``search``, ``further seeds`` or ``scores and pictures``.
        done: How many of its trials, trainings or jobs are done.
        total: Of how many.
        seconds_left: About how long it and all that follows will take; None before there is
            anything to judge by.
    """

    name: str
    done: int
    total: int
    seconds_left: float | None


@dataclass(frozen=True)
class UnderWay:
    """A training that somebody is at."""

    what: str
    share: float
    """Of its pictures that it has seen."""
    loss: float | None
    """Of the last steps; None before the first, and where another machine trains."""
    seconds_left: float | None


def phase(results: Results) -> Phase:
    """What the run is at, and how far it is."""
    trials, spec = results.trials, results.setting.spec
    every = trials.all()
    finished = sum(map(is_finished, every))
    running = [trial for trial in every if trial.state == TrialState.RUNNING]
    target, time_left = spec.search.trials, results.store.clock.left()
    at_the_end = repetitions_under_way(results) or showings_under_way(results)
    searching = running or trials.further_under_way() or (finished < target and time_left > 0)
    if searching and not at_the_end:
        left = _search_seconds(results, every, finished)
        if left is not None:
            shown = len({*results.beliefs().front, *results.beliefs().presets})
            left += trials.pace.ending_seconds(trials.complete(), shown)
        if time_left < float("inf"):
            left = max(0.0, time_left if left is None else min(left, time_left))
        return Phase("search", finished, target, left)
    seeds, shows = repetitions(results), showings(results)
    todo = [job for job in (*seeds, *shows) if not job.is_done()]
    left = min(time_left, sum(job.seconds for job in todo) / trials.pace.workers)
    undone = [job for job in seeds if job in todo]
    fitting = time_left > 0 and not showings_under_way(results)
    if results.store.claims.held_with(REPETITION) or (undone and fitting):
        return Phase("further seeds", len(seeds) - len(undone), len(seeds), max(0.0, left))
    done = sum(job not in todo for job in shows)
    return Phase("scores and pictures", done, len(shows), max(0.0, left))


def _search_seconds(results: Results, every: Sequence[FrozenTrial], finished: int) -> float | None:
    """What the trials that are left take, at the pace so far; what runs counts by its share."""
    budget = results.setting.spec.budgets[0]
    begun: float = sum(
        min(1.0, notes_of(trial).get("samples_seen", 0) / max(1, budget))
        for trial in every
        if trial.state == TrialState.RUNNING
    )
    done = finished + begun
    if done <= 0:
        return None
    left = max(0.0, results.setting.spec.search.trials - done)
    return results.store.clock.seconds() * left / done


def under_way(results: Results) -> list[UnderWay]:
    """The trainings under way, those of trials first."""
    trials, spec = results.trials, results.setting.spec
    every = trials.all()
    found = []
    for trial in every:
        if trial.state == TrialState.RUNNING:
            noted = notes_of(trial)
            what = noted.get("preset") or f"#{trial.number}"
            seen = noted.get("samples_seen", 0)
            found.append(_training(results, trial, str(what), spec.budgets[0], 0, seen))
    for each in (*trials.further_under_way(), *repetitions_under_way(results)):
        trial = every[each.number]
        what = f"{notes_of(trial).get('preset') or f'#{each.number}'} {each.aim}"
        found.append(_training(results, trial, what, each.budget, each.seed, 0))
    return found


def _training(
    results: Results, trial: FrozenTrial, what: str, budget: int, seed: int, seen: int
) -> UnderWay:
    loss, noted = None, notes_of(trial)
    if "digest" in noted and results.store.is_ready:
        network = results.trials.network(trial.number)
        key = results.store.key(results.setting.proxy(network), seed)
        logged, loss = _last_logged(results.run.training(f"{key}-{budget}") / "log.csv")
        seen = max(seen, logged)
    share = min(1.0, seen / max(1, budget))
    left = None
    if "macs" in noted:
        left = results.trials.pace.training_seconds(max(0, budget - seen), noted["macs"])
    if left is None and seed == 0 and share > 0 and (began := trial.datetime_start):
        left = (datetime.now() - began).total_seconds() * (1 - share) / share
    return UnderWay(what, share, loss, left)


def _last_logged(path: Path) -> tuple[int, float | None]:
    """Pictures seen and loss in the last whole row of a training's log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            rows = file.read().decode(errors="replace").split("\n")[:-1]
        samples, loss, *_ = rows[-1].split(",")
        return int(samples), float(loss)
    except (OSError, ValueError, IndexError):
        return 0, None
