"""What ``archsearch run`` shows while a study runs."""

import time
from types import TracebackType
from typing import Self

from optuna.trial import FrozenTrial, TrialState
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.live import Live
from rich.table import Table

from archsearch.api import Study
from archsearch.cli.app import complain, duration, errors, number
from archsearch.cli.results import CAPTION, marked
from archsearch.study.notes import notes_of, outcome, steps_of
from archsearch.study.outlook import Phase, UnderWay, phase, under_way
from archsearch.study.search import Further
from archsearch.study.setting import STEPS

REFRESH_SECONDS = 2.0
SILENCE_SECONDS = 30.0
"""Without a terminal something is said at least so often."""
LAST_PHASE = "scores and pictures"
UNITS = {"search": "trials", "further seeds": "trainings", LAST_PHASE: "jobs"}
"""What the parts of a run are counted in."""


class LiveView:
    """Shows how far a study is while it runs: on a terminal a live view of what is trained now and
    of the front; elsewhere a line a trial, and a line when nothing ended for half a minute. Call it
    often, it looks every two seconds.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.spec = study, study.spec
        self.live = Live(console=errors, auto_refresh=False) if errors.is_terminal else None
        self.told = {t.number for t in study.results.trials.all() if t.state.is_finished()}
        self.further: set[Further] = set()
        self.phase = ""
        self.looked = self.spoken = 0.0

    def __enter__(self) -> Self:
        if self.live:
            self.live.__enter__()
        self(self.study)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.looked = 0.0
        self(self.study)
        if self.live:
            self.live.__exit__(kind, value, trace)

    def __call__(self, study: Study) -> None:
        """Show what has changed."""
        if time.monotonic() - self.looked < REFRESH_SECONDS:
            return
        self.looked = time.monotonic()
        results = study.results
        now, trainings = phase(results), under_way(results)
        if self.live:
            head = self._head(now, trainings)
            self.live.update(Group(head, *self._now(trainings), *self._front()), refresh=True)
            return
        for trial in results.trials.all():
            if trial.state.is_finished() and trial.number not in self.told:
                self.told.add(trial.number)
                self._say(f"{self._ended(trial)}  [{self._head(now, trainings)}]")
        for further in results.trials.further_under_way():
            if further not in self.further:
                self.further.add(further)
                self._say(f"trial {further.number}: trained further, {further.aim}")
        if now.name != self.phase or time.monotonic() - self.spoken > SILENCE_SECONDS:
            self.phase = now.name
            running = ", ".join(map(_told, trainings))
            running = f"; running {running}" if running else ""
            self._say(self._head(now, trainings) + running)

    def _say(self, text: str) -> None:
        complain(text)
        self.spoken = time.monotonic()

    def _head(self, now: Phase, trainings: list[UnderWay]) -> str:
        """The phase, how far it is, and what is left."""
        text = f"{self.study.name}: {now.name}, {now.done} of {now.total} {UNITS[now.name]}"
        if minutes := self.spec.search.minutes:
            taken = self.study.store.clock.seconds() / 60
            text += f", {min(taken, minutes):.1f} of {minutes:g} min"
            if now.name == "search" and taken >= minutes:
                return f"{text}; time is up: what has begun is ended"
        if now.name == "search" and not now.done and not trainings:
            text += "; workers are starting"
        if now.name == LAST_PHASE and now.done == now.total:
            return f"{text}; tables and plots are written"
        if now.seconds_left is None:
            return f"{text}; how long it takes is told when the first training is under way"
        return f"{text}; about {duration(now.seconds_left)} left"

    def _now(self, trainings: list[UnderWay]) -> list[Table]:
        """What is trained now."""
        if not trainings:
            return []
        table = Table(box=SIMPLE_HEAD, header_style="bold")
        table.add_column("training now")
        for name in ("pictures seen", "loss", "left"):
            table.add_column(name, justify="right")
        for each in trainings:
            loss = "" if each.loss is None else f"{each.loss:.4f}"
            left = "" if each.seconds_left is None else duration(each.seconds_left)
            table.add_row(each.what, f"{each.share:.0%}", loss, left)
        return [table]

    def _front(self) -> list[Table]:
        """The front so far."""
        members = self.study.results.front()
        if not members:
            return []
        noted = any(member.note for member in members)
        table = Table(
            box=SIMPLE_HEAD,
            header_style="bold",
            title="Pareto front so far",
            title_justify="left",
            caption=CAPTION if noted else None,
            caption_justify="left",
        )
        steps = [STEPS] if self.spec.sampling.searched else []
        for name in ("network", *steps, *self.spec.objectives):
            table.add_column(name, justify="right")
        for member in members:
            values = [
                number(marked(name, member.known[name], member.provenance))
                for name in self.spec.objectives
            ]
            cells = [member.name, *(str(member.steps) for _ in steps), *values]
            table.add_row(*cells)
        return [table]

    def _ended(self, trial: FrozenTrial) -> str:
        """A trial that has ended, in a line."""
        attrs = notes_of(trial)
        head = f"trial {trial.number} {attrs.get('preset', '')}".rstrip()
        if trial.state != TrialState.COMPLETE:
            return f"{head}: {outcome(trial)} ({attrs.get('reason', '')})"
        values = "  ".join(
            f"{name} {number(marked(name, value, attrs.get('provenance', {})))}"
            for name, value in zip(self.spec.objectives, trial.values, strict=True)
        )
        steps = steps_of(trial)
        head += "" if steps is None or "preset" in attrs else f" ({steps} steps)"
        return f"{head}: {values}"


def _told(training: UnderWay) -> str:
    text = f"{training.what} {training.share:.0%}"
    return text if training.loss is None else f"{text} (loss {training.loss:.4f})"
