"""The front while a study runs: a live table on a terminal, a line a trial elsewhere."""

import time
from types import TracebackType
from typing import Self

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.live import Live
from rich.table import Table
from rich.text import Text

from archsearch.cli.console import errors
from archsearch.cli.marks import CAPTION, marked
from archsearch.study import results, storage
from archsearch.study.setting import STEPS_PARAMETER, Setting

REFRESH_SECONDS = 2.0


class LiveFront:
    """Shows progress and front; call ``update`` often, it looks every two seconds."""

    def __init__(self, study: optuna.Study, setting: Setting) -> None:
        self.study = study
        self.setting = setting
        self.live = Live(console=errors, auto_refresh=False) if errors.is_terminal else None
        self.told = {t.number for t in study.get_trials(deepcopy=False) if t.state.is_finished()}
        self.started = time.monotonic()
        self.looked = 0.0

    def __enter__(self) -> Self:
        if self.live:
            self.live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.looked = 0.0
        self.update()
        if self.live:
            self.live.__exit__(kind, value, trace)

    def update(self) -> None:
        """Show what has changed."""
        if time.monotonic() - self.looked < REFRESH_SECONDS:
            return
        self.looked = time.monotonic()
        trials = self.study.get_trials(deepcopy=False)
        if self.live:
            self.live.update(self._table(trials), refresh=True)
            return
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self.told:
                self.told.add(trial.number)
                errors.print(self._line(trial), markup=False, highlight=False, soft_wrap=True)

    def _head(self, trials: list[FrozenTrial]) -> str:
        finished = sum(storage.is_finished(trial) for trial in trials)
        elapsed = time.monotonic() - self.started
        text = f"{self.setting.name}: {finished} of {self.setting.spec.search.trials} trials, {elapsed / 60:.1f} min"
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        budget = self.setting.spec.proxy.samples
        shares = ", ".join(f"#{t.number} {100 * t.user_attrs.get('samples_seen', 0) / budget:.0f} %" for t in running)
        if finished >= self.setting.spec.search.trials and not running:
            return f"{text}; further seeds and pictures for the comparison"
        return f"{text}; running {shares}" if shares else text

    def _table(self, trials: list[FrozenTrial]) -> Table:
        names = list(self.setting.spec.objectives)
        members = results.front(self.study)
        noted = any(trial.user_attrs.get("latency_note") for trial in members)
        caption = "Pareto front so far" + (f"; {CAPTION}" if noted else "")
        table = Table(title=self._head(trials), title_justify="left", caption=caption, caption_justify="left")
        steps = [STEPS_PARAMETER] if self.setting.spec.sampling.searched else []
        for name in ("trial", *steps, *names):
            table.add_column(Text(name), justify="right")  # Text: brackets are no markup
        for trial in members:
            name = trial.user_attrs.get("preset") or f"#{trial.number}"
            table.add_row(name, *(str(results.steps_of(trial)) for _ in steps), *self._values(trial))
        return table

    def _values(self, trial: FrozenTrial) -> list[str]:
        note = trial.user_attrs.get("latency_note")
        return [marked(name, value, note) for name, value in zip(self.setting.spec.objectives, trial.values, strict=True)]

    def _line(self, trial: FrozenTrial) -> str:
        ended = storage.outcome(trial)
        head = f"trial {trial.number} {trial.user_attrs.get('preset', '')}".rstrip()
        if trial.state != TrialState.COMPLETE:
            return f"{head}: {ended} ({trial.user_attrs.get('reason', '')})"
        values = "  ".join(f"{n} {v}" for n, v in zip(self.setting.spec.objectives, self._values(trial), strict=True))
        steps = results.steps_of(trial)
        head += "" if steps is None or "preset" in trial.user_attrs else f" ({steps} steps)"
        return f"{head}: {values}  [{self._head(self.study.get_trials(deepcopy=False))}]"
