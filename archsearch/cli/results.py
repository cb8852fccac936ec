"""What looks at a run: ``archsearch status``, ``pareto``, ``plot``."""

from pathlib import Path
from typing import Annotated, Any

import optuna
import typer

from archsearch.cli.app import (
    CAPTION,
    JsonOption,
    app,
    console,
    marked,
    print_json,
    print_table,
    say,
)
from archsearch.errors import InputError
from archsearch.study import outputs, results
from archsearch.study import trials as storage
from archsearch.study.answer import sentence
from archsearch.study.apart import Noise, noise_of, not_told_from
from archsearch.study.remeasure import Remeasured
from archsearch.study.rundir import RunDir
from archsearch.study.setting import STEPS_PARAMETER, Setting
from archsearch.study.spec import is_marked

SAME = "same as"
"""Column of the members that one cannot be told from."""


def print_front(opened: RunDir, setting: Setting, study: optuna.Study) -> None:
    """Print the front, cheapest first, and beside each member those that it cannot be told from."""
    members = [results.candidate(opened, trial, setting.spec) for trial in results.front(study)]
    names = list(dict.fromkeys([*setting.spec.objectives, *setting.spec.report]))
    steps = [STEPS_PARAMETER] if setting.spec.sampling.searched else []
    noted = any(member.note for member in members)
    noise = noise_of(opened, study, setting.spec)
    same = not_told_from(members, noise)
    apart = [SAME] if noise and noise.seed_deviation is not None else []
    called = {member.number: member.name for member in members}
    rows: list[list[Any]] = []
    for member in members:
        known = member.scores | member.extra
        cells = [_cell(name, known.get(name, "–"), member.note) for name in names]
        others = ", ".join(called[number] for number in same[member.number] or [])
        rest = [*(others for _ in apart), member.digest, *([member.note] if noted else [])]
        rows.append([member.name, *(member.steps for _ in steps), *cells, *rest])
    columns = [
        "trial",
        *steps,
        *names,
        *apart,
        "architecture",
        *(["latency_note"] if noted else []),
    ]
    print_table("Pareto front, cheapest first", columns, rows)
    if noise:
        say(_explained(noise))
    if noted:
        console.print(CAPTION, highlight=False)


def _explained(noise: Noise) -> str:
    """What stands under the front about members that cannot be told apart."""
    if noise.seed_deviation is None:
        return (
            "Which members cannot be told apart is not known: no network was trained with a "
            "second seed, which would tell how much "
            f"{noise.score} scatters."
        )
    return (
        f"{SAME}: {noise.score} differs by {noise.least_difference:.2g} or less, as between two "
        "seeds of one network in 95 of 100 "
        f"cases (seed deviation {noise.seed_deviation:.2g}, from {noise.repetitions} trainings "
        f"of {noise.networks} "
        f"network{'' if noise.networks == 1 else 's'})."
    )


def _cell(name: str, value: Any, note: str) -> Any:
    """A number stays one, so that its column is set flush right."""
    text = marked(name, value, note)
    return text if text.startswith("≈") else value


def print_remeasured(found: Remeasured) -> None:
    """Print what was measured beside what was predicted."""
    rows = [
        (
            line.network,
            line.device,
            f"≈ {line.predicted:,.2f}" if line.note else line.predicted,
            line.measured,
            f"{100 * line.error:+.1f} %",
            f"{line.p10:,.2f} to {line.p90:,.2f}",
        )
        for line in found.lines
    ]
    if rows:
        columns = ["network", "table", "predicted", "measured", "error", "measured, p10 to p90"]
        print_table(
            "latency of one UNet pass, ms: predicted, and measured whole on this machine",
            columns,
            rows,
        )


def print_ending(opened: RunDir, found: list[dict[str, Any]]) -> None:
    """Print the answer, and what can be done next."""
    for item in found:
        console.print(sentence(item), markup=False, highlight=False)
    console.print(
        f"\nResults: {opened.path}/pareto.csv, {opened.path}/trials.csv, {opened.path}/plots/",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"Next: archsearch export {opened.path} --knee --format yaml --output chosen.yaml",
        highlight=False,
        soft_wrap=True,
    )


RunArgument = Annotated[Path, typer.Argument(help="Folder of a run.")]


@app.command()
def status(run_dir: RunArgument, as_json: JsonOption = False) -> None:
    """Show how far a run is: its trials by outcome, and every trial."""
    opened = RunDir(run_dir)
    setting = opened.setting()
    study = storage.load_study(opened, setting)
    table = outputs.trial_table(study)
    counts = (
        {str(name): int(count) for name, count in table["outcome"].value_counts().items()}
        if len(table)
        else {}
    )
    finished = sum(storage.is_finished(trial) for trial in study.get_trials(deepcopy=False))
    if as_json:
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        return print_json(
            {
                "study": setting.name,
                "finished": finished,
                "target": setting.spec.search.trials,
                "outcomes": counts,
                "trials": rows,
            }
        )
    words = ", ".join(f"{count} {name}" for name, count in counts.items())
    console.print(
        f"{setting.name}: {finished} of {setting.spec.search.trials} trials finished "
        f"({words or 'none yet'})",
        highlight=False,
    )
    steps = [f"point.{STEPS_PARAMETER}"] if setting.spec.sampling.searched else []
    noted = (
        ["latency_note"] if "latency_note" in table and table["latency_note"].notna().any() else []
    )
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
        cells = {
            name: record[name] if not is_marked(name, note) else marked(name, record[name], note)
            for name in columns
        }
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
