"""``archsearch run``."""

import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import optuna
import typer
from optuna.trial import FrozenTrial, TrialState
from rich.live import Live
from rich.table import Table
from rich.text import Text

from archsearch import catalog
from archsearch.cli.app import (
    CAPTION,
    JsonOption,
    SetOption,
    app,
    console,
    errors,
    heed_termination,
    marked,
    print_json,
    print_table,
    progress_bar,
    told,
)
from archsearch.cli.results import print_ending, print_front, print_remeasured
from archsearch.data.prepare import prepare
from archsearch.diffusion.recipe import pick_device
from archsearch.errors import ArchsearchError, InputError
from archsearch.study import outputs, results
from archsearch.study import trials as storage
from archsearch.study.answer import answers, sentence
from archsearch.study.check import Feasibility, check_feasibility, estimate, estimated_units
from archsearch.study.engines.base import Engine
from archsearch.study.engines.local import LocalEngine, automatic_workers
from archsearch.study.remeasure import Remeasured, remeasure
from archsearch.study.rundir import RunDir, open_run
from archsearch.study.scoring import Scorer, check_sampled
from archsearch.study.setting import STEPS_PARAMETER, Setting, check_metric_files, load_setting

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        text = (
            f"{self.setting.name}: {finished} of {self.setting.spec.search.trials} trials, "
            f"{elapsed / 60:.1f} min"
        )
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        budget = self.setting.spec.proxy.samples
        shares = ", ".join(
            f"#{t.number} {100 * t.user_attrs.get('samples_seen', 0) / budget:.0f} %"
            for t in running
        )
        if finished >= self.setting.spec.search.trials and not running:
            return f"{text}; further seeds and pictures for the comparison"
        return f"{text}; running {shares}" if shares else text

    def _table(self, trials: list[FrozenTrial]) -> Table:
        names = list(self.setting.spec.objectives)
        members = results.front(self.study)
        noted = any(trial.user_attrs.get("latency_note") for trial in members)
        caption = "Pareto front so far" + (f"; {CAPTION}" if noted else "")
        table = Table(
            title=self._head(trials), title_justify="left", caption=caption, caption_justify="left"
        )
        steps = [STEPS_PARAMETER] if self.setting.spec.sampling.searched else []
        for name in ("trial", *steps, *names):
            table.add_column(Text(name), justify="right")  # Text: brackets are no markup
        for trial in members:
            name = trial.user_attrs.get("preset") or f"#{trial.number}"
            table.add_row(
                name, *(str(results.steps_of(trial)) for _ in steps), *self._values(trial)
            )
        return table

    def _values(self, trial: FrozenTrial) -> list[str]:
        note = trial.user_attrs.get("latency_note")
        return [
            marked(name, value, note)
            for name, value in zip(self.setting.spec.objectives, trial.values, strict=True)
        ]

    def _line(self, trial: FrozenTrial) -> str:
        ended = storage.outcome(trial)
        head = f"trial {trial.number} {trial.user_attrs.get('preset', '')}".rstrip()
        if trial.state != TrialState.COMPLETE:
            return f"{head}: {ended} ({trial.user_attrs.get('reason', '')})"
        values = "  ".join(
            f"{n} {v}"
            for n, v in zip(self.setting.spec.objectives, self._values(trial), strict=True)
        )
        steps = results.steps_of(trial)
        head += "" if steps is None or "preset" in trial.user_attrs else f" ({steps} steps)"
        return f"{head}: {values}  [{self._head(self.study.get_trials(deepcopy=False))}]"


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A study, by name or path.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the run [default: runs/NAME]. One that is there goes on."),
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Finished trials in total.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers [default: one a core, or one a GPU].")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="local or ray.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster [default: a local one].")
    ] = None,
    settings: SetOption = None,
    remeasure_front: Annotated[
        bool,
        typer.Option(
            "--remeasure-front",
            help="At the end measure the front and the presets whole, on this machine.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check everything and say what it would take; train nothing."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Search: train and score candidates, keep the Pareto front. The same command again goes on
    where it stopped.
    """
    overrides = list(settings or [])
    overrides += [f"search.trials={trials}"] if trials else []
    overrides += [f"engine.workers={workers}"] if workers else []
    overrides += [f"engine.kind={engine}"] if engine else []
    path = catalog.find("study", study)
    setting = load_setting(path, overrides)
    check_metric_files(setting)
    folder = output or Path("runs") / path.stem
    count = setting.spec.engine.workers
    count = automatic_workers() if count == "auto" else count
    if remeasure_front and not setting.devices:
        raise InputError(
            f"{path}: --remeasure-front: deployment.tables is empty, so there is no latency to "
            "measure."
        )
    feasibility = check_feasibility(setting)
    if dry_run:
        with progress_bar() as report:
            report("units of the space", 0.0)
            guesses = estimated_units(setting)
            report("timing a few candidates", 0.5)
            expected = estimate(setting, feasibility, folder, count)
        return _print_estimate(expected, feasibility, guesses, setting, folder, as_json)
    opened = open_run(folder, setting)
    setting = opened.setting()
    with progress_bar() as report:
        data = prepare(setting.spec.data, setting.spec.proxy.latent, report)
        opened.keep_data(data.fingerprint)
        report("reference of the sampled scores", 0.0)
        check_sampled((*setting.spec.objectives, *setting.spec.report), data, setting.spec)
    study_ = storage.create_study(opened, setting)
    storage.requeue_dead(study_, opened)
    chosen: Engine = LocalEngine()
    if setting.spec.engine.kind == "ray":
        from archsearch.study.engines.ray import RayEngine

        chosen = RayEngine(address)
    elif address:
        raise InputError("--address belongs to --engine ray.")
    heed_termination()
    again = (
        f"archsearch run {opened.study} --output "
        f"{opened.path}{' --remeasure-front' if remeasure_front else ''}"
    )
    try:
        with told(f"Interrupted; running trials are queued again. To go on: {again}"):
            try:
                with LiveFront(study_, setting) as live:
                    chosen.run(opened, setting.spec.search.trials, count, live.update)
            except KeyboardInterrupt:
                storage.requeue_dead(study_, opened)
                write_outputs(opened, setting, study_, None)
                raise
    except ArchsearchError:
        with suppress(ArchsearchError):
            write_outputs(opened, setting, study_, None)
        raise
    found = answers(study_, Scorer(opened, setting, data, pick_device()))
    write_outputs(opened, setting, study_, found)
    remeasured = None
    if remeasure_front:
        with told(f"Interrupted; what was measured is kept. To go on: {again}"):
            remeasured = _remeasure(opened, setting, study_)
        write_outputs(opened, setting, study_, found)
    if as_json:
        return print_json(outputs.pareto_json(opened, setting, study_, {"comparisons": found}))
    print_front(opened, setting, study_)
    if remeasured:
        print_remeasured(remeasured)
    return print_ending(opened, found)


def _remeasure(opened: RunDir, setting: Setting, study: optuna.Study) -> Remeasured:
    """Measure the front; what cannot be is said at once."""
    with progress_bar() as report:
        found = remeasure(
            opened,
            setting,
            study,
            lambda done, total, _: report(f"{done} of {total} networks measured", done / total),
        )
    for device, reason in found.skipped.items():
        errors.print(f"{device}: skipped, {reason}", markup=False, highlight=False, soft_wrap=True)
    for failure in found.failed:
        errors.print(f"not measured: {failure}", markup=False, highlight=False, soft_wrap=True)
    return found


def write_outputs(
    opened: RunDir, setting: Setting, study: optuna.Study, found: list[dict[str, Any]] | None
) -> None:
    """Write the tables and draw the plots of a run."""
    from archsearch.report.figures import draw_all

    if not results.complete(study):
        return
    answer = (
        None
        if found is None
        else {"comparisons": found, "sentences": [sentence(item) for item in found]}
    )
    outputs.write_results(opened, setting, study, answer)
    draw_all(opened, setting, study)


def _print_estimate(
    expected: dict[str, Any],
    drawn: Feasibility,
    guesses: dict[str, tuple[int, int]],
    setting: Setting,
    folder: Path,
    as_json: bool,
) -> None:
    found: dict[str, Any] = {
        "drawn": drawn.drawn,
        "valid": drawn.valid,
        "within_limits": drawn.within_limits,
        "broken": drawn.broken,
        "estimated_units": {
            name: {"estimated": lacking, "of": units} for name, (lacking, units) in guesses.items()
        },
        "sampling_steps": list(setting.spec.sampling.searched),
    }
    if as_json:
        return print_json(found | expected)
    rows = [
        ("random points drawn", found["drawn"]),
        ("valid", found["valid"]),
        ("within the limits", found["within_limits"]),
        *((f"  broke {reason}", count) for reason, count in found["broken"].items()),
        *(
            [] if guesses else [("missing latency entries", 0)]
        ),  # had there been any, they would have been named and refused
        *(
            (f"units of the space that {name} estimates", f"{lacking} of {units}")
            for name, (lacking, units) in guesses.items()
        ),
        *(
            (("numbers of steps searched", ", ".join(map(str, searched))),)
            if (searched := setting.spec.sampling.searched)
            else ()
        ),
        (
            "distinct architectures → proxies",
            f"{expected['of_candidates']} → {expected['distinct_proxies']}",
        ),
        ("seconds of training a trial", round(expected["seconds_per_trial"], 1)),
        ("seconds of sampling a trial", round(expected["sampling_seconds_per_trial"], 1)),
        ("hours in all, search and further seeds", round(expected["hours"], 2)),
        ("memory a worker (GB)", round(expected["memory_bytes_per_worker"] / 1e9, 2)),
        ("memory available (GB)", round(expected["memory_available_bytes"] / 1e9, 2)),
        ("disk, at most (GB)", round(expected["disk_bytes"] / 1e9, 3)),
        ("disk free (GB)", round(expected["disk_free_bytes"] / 1e9, 1)),
    ]
    print_table(f"{setting.name} → {folder}, {setting.spec.search.trials} trials", ["", ""], rows)
    return console.print(
        "Nothing was trained. Times are measured on a few random candidates, on this machine as "
        "it is now."
    )
