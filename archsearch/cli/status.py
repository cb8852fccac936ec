"""What looks at a run: ``archsearch status``, ``pareto``, ``plot``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from archsearch.cli.app import app
from archsearch.cli.console import JsonOption, console, print_json, print_table
from archsearch.cli.front import print_front
from archsearch.cli.marks import marked
from archsearch.errors import InputError
from archsearch.study import outputs, results, storage
from archsearch.study.rundir import RunDir
from archsearch.study.scores import is_marked
from archsearch.study.setting import STEPS_PARAMETER

RunArgument = Annotated[Path, typer.Argument(help="Folder of a run.")]


@app.command()
def status(run_dir: RunArgument, as_json: JsonOption = False) -> None:
    """Show how far a run is: its trials by outcome, and every trial."""
    opened = RunDir(run_dir)
    setting = opened.setting()
    study = storage.load_study(opened, setting)
    table = outputs.trial_table(study)
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
    steps = [f"point.{STEPS_PARAMETER}"] if setting.spec.sampling.searched else []
    noted = ["latency_note"] if "latency_note" in table and table["latency_note"].notna().any() else []
    shown = (
        "trial",
        "outcome",
        "preset",
        *steps,
        *setting.spec.objectives,
        *noted,
        "train_seconds",
        "capped",
        "from_store",
        "reason",
    )
    columns = [name for name in shown if name in table]
    lines: list[list[Any]] = []
    for record in table.astype(object).where(table.notna(), None).to_dict("records"):
        note = record.get("latency_note")
        cells = {name: record[name] if not is_marked(name, note) else marked(name, record[name], note) for name in columns}
        lines.append(["–" if cells[name] is None else cells[name] for name in columns])
    return print_table(None, columns, lines)


@app.command()
def pareto(run_dir: RunArgument, as_json: JsonOption = False) -> None:
    """Show the Pareto front of a run."""
    opened = RunDir(run_dir)
    setting = opened.setting()
    study = storage.load_study(opened, setting)
    if not results.complete(study):
        raise InputError(f"{run_dir}: has no finished trial yet.")
    if as_json:
        return print_json(outputs.pareto_json(opened, setting, study, None))
    return print_front(opened, setting, study)


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
