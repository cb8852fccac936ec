"""``archsearch run`` and what looks at a run: ``status``, ``pareto``, ``plot``."""

import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import optuna
import typer

from archsearch import resources
from archsearch.cli.app import app
from archsearch.cli.console import JsonOption, SetOption, console, errors, print_json, print_table, progress_bar
from archsearch.cli.live import LiveFront
from archsearch.data.prepare import prepare
from archsearch.diffusion.recipe import pick_device
from archsearch.errors import ArchsearchError, InputError
from archsearch.metrics.registry import build_metric
from archsearch.study import results, storage
from archsearch.study.answer import answers, sentence
from archsearch.study.dryrun import Feasibility, check_feasibility, estimate
from archsearch.study.engines.base import Engine
from archsearch.study.engines.local import LocalEngine, automatic_workers
from archsearch.study.rundir import RunDir, open_run
from archsearch.study.scores import SAMPLED
from archsearch.study.scoring import Scorer
from archsearch.study.setting import Setting, check_metric_files, load_setting

RunArgument = Annotated[Path, typer.Argument(help="Folder of a run.")]


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A study, by name or path.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the run [default: runs/NAME]. One that is there goes on.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Finished trials in total.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers [default: one a core, or one a GPU].")] = None,
    engine: Annotated[str | None, typer.Option(help="local or ray.")] = None,
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster [default: a local one].")] = None,
    settings: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and say what it would take; train nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search: train and score candidates, keep the Pareto front. The same command again goes on where it stopped."""
    overrides = list(settings or [])
    overrides += [f"search.trials={trials}"] if trials else []
    overrides += [f"engine.workers={workers}"] if workers else []
    overrides += [f"engine.kind={engine}"] if engine else []
    path = resources.find("study", study)
    setting = load_setting(path, overrides)
    check_metric_files(setting)
    folder = output or Path("runs") / path.stem
    count = setting.spec.engine.workers
    count = automatic_workers() if count == "auto" else count
    feasibility = check_feasibility(setting)
    if dry_run:
        with progress_bar() as report:
            report("timing a few candidates", 0.0)
            expected = estimate(setting, feasibility, folder, count)
        return _print_estimate(expected, feasibility, setting, folder, as_json)
    opened = open_run(folder, setting)
    setting = opened.setting()
    with progress_bar() as report:
        data = prepare(setting.spec.data, report)
        for name in {*setting.spec.objectives, *setting.spec.report} & set(SAMPLED):
            report(f"reference for {name}", 0.0)
            build_metric(name, data, setting.spec.metrics)
    study_ = storage.create_study(opened, setting)
    storage.requeue_dead(study_, opened)
    chosen: Engine = LocalEngine()
    if setting.spec.engine.kind == "ray":
        from archsearch.study.engines.ray import RayEngine

        chosen = RayEngine(address)
    elif address:
        raise InputError("--address belongs to --engine ray.")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with LiveFront(study_, setting) as live:
            chosen.run(opened, setting.spec.search.trials, count, live.update)
    except KeyboardInterrupt:
        storage.requeue_dead(study_, opened)
        write_outputs(opened, setting, study_, None)
        again = f"archsearch run {opened.study} --output {opened.path}"
        errors.print(
            f"Interrupted; running trials are queued again. To go on: {again}", markup=False, highlight=False, soft_wrap=True
        )
        raise typer.Exit(1) from None
    except ArchsearchError:
        with suppress(ArchsearchError):
            write_outputs(opened, setting, study_, None)
        raise
    found = answers(study_, Scorer(opened, setting, data, pick_device()))
    write_outputs(opened, setting, study_, found)
    if as_json:
        return print_json(results.pareto_json(opened, setting, study_, {"comparisons": found}))
    _print_front(opened, setting, study_)
    return _print_ending(opened, found)


def write_outputs(opened: RunDir, setting: Setting, study: optuna.Study, found: list[dict[str, Any]] | None) -> None:
    """Write the tables and draw the plots of a run."""
    from archsearch.report.figures import draw_all

    if not results.complete(study):
        return
    answer = None if found is None else {"comparisons": found, "sentences": [sentence(item) for item in found]}
    results.write_results(opened, setting, study, answer)
    draw_all(opened, setting, study)


def _print_estimate(expected: dict[str, Any], drawn: Feasibility, setting: Setting, folder: Path, as_json: bool) -> None:
    found: dict[str, Any] = {
        "drawn": drawn.drawn,
        "valid": drawn.valid,
        "within_limits": drawn.within_limits,
        "broken": drawn.broken,
    }
    if as_json:
        return print_json(found | expected)
    rows = [
        ("random points drawn", found["drawn"]),
        ("valid", found["valid"]),
        ("within the limits", found["within_limits"]),
        *((f"  broke {reason}", count) for reason, count in found["broken"].items()),
        ("missing latency entries", 0),  # had there been any, they would have been named and refused
        ("distinct architectures → proxies", f"{expected['of_candidates']} → {expected['distinct_proxies']}"),
        ("seconds of training a trial", round(expected["seconds_per_trial"], 1)),
        ("hours in all, search and further seeds", round(expected["hours"], 2)),
        ("memory a worker (GB)", round(expected["memory_bytes_per_worker"] / 1e9, 2)),
        ("memory available (GB)", round(expected["memory_available_bytes"] / 1e9, 2)),
        ("disk, at most (GB)", round(expected["disk_bytes"] / 1e9, 3)),
        ("disk free (GB)", round(expected["disk_free_bytes"] / 1e9, 1)),
    ]
    print_table(f"{setting.name} → {folder}, {setting.spec.search.trials} trials", ["", ""], rows)
    return console.print("Nothing was trained. Times are measured on a few random candidates, on this machine as it is now.")


def _print_front(opened: RunDir, setting: Setting, study: optuna.Study) -> None:
    members = [results.candidate(opened, trial) for trial in results.front(study)]
    names = list(dict.fromkeys([*setting.spec.objectives, *setting.spec.report]))
    rows = [[member.name, *((member.scores | member.extra).get(name, "–") for name in names), member.digest] for member in members]
    print_table("Pareto front, cheapest first", ["trial", *names, "architecture"], rows)


def _print_ending(opened: RunDir, found: list[dict[str, Any]]) -> None:
    for item in found:
        console.print(sentence(item), highlight=False)
    console.print(
        f"\nResults: {opened.path}/pareto.csv, {opened.path}/trials.csv, {opened.path}/plots/", highlight=False, soft_wrap=True
    )
    console.print(
        f"Next: archsearch export {opened.path} --knee --format yaml --output chosen.yaml", highlight=False, soft_wrap=True
    )


@app.command()
def status(run_dir: RunArgument, as_json: JsonOption = False) -> None:
    """Show how far a run is: its trials by outcome, and every trial."""
    opened = RunDir(run_dir)
    setting = opened.setting()
    study = storage.load_study(opened, setting)
    table = results.trial_table(study)
    counts = {str(name): int(count) for name, count in table["outcome"].value_counts().items()} if len(table) else {}
    finished = sum(storage.is_finished(trial) for trial in study.get_trials(deepcopy=False))
    if as_json:
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        return print_json(
            {"study": setting.name, "finished": finished, "target": setting.spec.search.trials, "outcomes": counts, "trials": rows}
        )
    words = ", ".join(f"{count} {name}" for name, count in counts.items())
    console.print(
        f"{setting.name}: {finished} of {setting.spec.search.trials} trials finished ({words or 'none yet'})", highlight=False
    )
    shown = ("trial", "outcome", "preset", *setting.spec.objectives, "train_seconds", "capped", "from_store", "reason")
    columns = [name for name in shown if name in table]
    return print_table(
        None, columns, [["–" if v is None or v != v else v for v in row] for row in table[columns].itertuples(index=False)]
    )


@app.command()
def pareto(run_dir: RunArgument, as_json: JsonOption = False) -> None:
    """Show the Pareto front of a run."""
    opened = RunDir(run_dir)
    setting = opened.setting()
    study = storage.load_study(opened, setting)
    if not results.complete(study):
        raise InputError(f"{run_dir}: has no finished trial yet.")
    if as_json:
        return print_json(results.pareto_json(opened, setting, study, None))
    return _print_front(opened, setting, study)


@app.command()
def plot(run_dir: RunArgument) -> None:
    """Draw the plots of a run again, from what it has found so far."""
    opened = RunDir(run_dir)
    setting = opened.setting()
    study = storage.load_study(opened, setting)
    if not results.complete(study):
        raise InputError(f"{run_dir}: has no finished trial yet.")
    from archsearch.report.figures import draw_all

    for path in draw_all(opened, setting, study):
        console.print(str(path), highlight=False)
