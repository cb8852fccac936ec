"""What looks at a run: ``archsearch status`` and ``plot``; and how its figures show."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from archsearch import catalog
from archsearch.api import Study
from archsearch.cli.app import (
    JsonOption,
    app,
    number,
    paragraph,
    print_json,
    print_table,
    quoted,
    say,
)
from archsearch.errors import InputError
from archsearch.study.importances import WORDS
from archsearch.study.notes import notes_of
from archsearch.study.search import Further
from archsearch.study.setting import STEPS
from archsearch.study.spec import is_marked

if TYPE_CHECKING:
    import pandas as pd

    from archsearch.study.remeasure import Remeasured

RunArgument = Annotated[Path, typer.Argument(help="Folder of a run.")]

CAPTION = "≈: rests on estimated units or published figures, see latency_note"
LISTED = 20
"""Trials that ``status`` lists: a screen full, the last ones."""


def marked(name: str, value: Any, provenance: Mapping[str, str]) -> Any:
    """The value of a score: with a sign before it where it rests on more than measured units; else
    as it is, so that a column of numbers stays one.
    """
    if value is not None and is_marked(name, provenance):
        return f"≈ {number(value)}"
    return value


@app.command()
def status(
    run_dir: Annotated[
        str, typer.Argument(help="Folder of a run; RUN_DIR#TRIAL tells all of one trial.")
    ],
    every: Annotated[
        bool, typer.Option("--all", help=f"List every trial, not the last {LISTED} only.")
    ] = False,
    importances: Annotated[
        bool,
        typer.Option(
            "--importances", help="Show which knobs each objective hung on (takes some seconds)."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how far a run is: its trials by outcome, what runs now, how far the front has come, and
    the last trials.
    """
    folder, separator, _ = run_dir.rpartition("#")
    if separator and not Path(run_dir).exists():
        wanted = catalog.trial_number(run_dir)
        return _print_trial(Study.open(folder), wanted, as_json)
    study = Study.open(run_dir)
    found, rows = study.progress(), study.results.trial_rows()
    shares = study.importances() if importances else None
    if as_json:
        told = {} if shares is None else {"importances": _shares(shares)}
        return print_json({**found, **told, "trials": rows})
    for line in _summary(found):
        paragraph(line)
    _print_trials(study, rows if every else rows[-LISTED:])
    if not every and len(rows) > LISTED:
        say(f"The last {LISTED} of {len(rows)} trials; --all lists every one.")
    return None if shares is None else _print_importances(shares)


def _summary(found: dict[str, Any]) -> Iterator[str]:
    """The lines above the table of trials."""
    outcomes, store, seeds = found["outcomes"], found["store"], found["further_seeds"]
    words = _counts(outcomes) or "none yet"
    yield f"{found['study']}: {found['finished']} of {found['target']} trials finished ({words})"
    if found["redrawn"]:
        yield f"Proposals that became no trial: {_counts(found['redrawn'])}"
    if found["running"]:
        shares = (
            f"{each['preset'] or '#{trial}'.format(**each)} {100 * each['share']:.0f} % "
            f"({each['seconds']:,.0f} s)"
            for each in found["running"]
        )
        yield f"Running, by the share of pictures seen: {', '.join(shares)}"
    if found["further"]:
        further = [Further(e["trial"], e["budget"], e["seed"]) for e in found["further"]]
        yield f"Trained further: {', '.join(f'#{each.number}, {each.aim}' for each in further)}"
    if found["showings"]:
        yield f"For the end: {', '.join(found['showings'])}"
    if len(reached := found["rungs"]["reached"]) > 1:
        rungs = ", ".join(
            f"{count} of {int(budget):,} pictures" for budget, count in reached.items()
        )
        saved = found["rungs"]["saved"]
        yield f"Rungs: {rungs} or more; stopping the others saved {saved:.0%} of the training"
    if found["minutes"]["of"]:
        yield f"Time: {found['minutes']['taken']:.1f} of {found['minutes']['of']:g} minutes"
    if volume := found["hypervolume"]:
        corner = ", ".join(f"{name} {number(v)}" for name, v in volume["reference"].items())
        yield (
            f"Front: {several(found['front'], 'network')}; hypervolume {volume['value']:.4f} of "
            f"the box up to the reference point {corner}"
        )
    yield (
        f"Training: {found['train_seconds']:,.0f} s behind the trials; in the store "
        f"{several(store['records'], 'record')} with {store['train_seconds']:,.0f} s of training "
        f"and {store['scoring_seconds']:,.0f} s of scoring"
    )
    if seeds["trainings"]:
        yield (
            f"Further seeds: {several(seeds['trainings'], 'training')} of "
            f"{several(seeds['networks'], 'network')}"
        )


def _print_trials(study: Study, rows: Sequence[dict[str, Any]]) -> None:
    spec, remarks = study.spec, study.results.remarks()
    columns = [
        name
        for name in (
            "trial",
            *([f"point.{STEPS}"] if spec.sampling.searched else []),
            *spec.objectives,
            *(["budget"] if spec.search.rungs.count > 1 else []),
            "train_seconds",
        )
        if any(name in row for row in rows)
    ]
    provenance = {t.number: notes_of(t).get("provenance", {}) for t in study.results.trials.all()}

    def cell(row: dict[Any, Any], name: str) -> Any:
        if row[name] is None:
            return "–"
        if name == "train_seconds":
            return round(row[name])
        return marked(name, row[name], provenance[row["trial"]])

    def remark(row: dict[Any, Any]) -> str:
        ended = "" if row["outcome"] == "complete" else row["outcome"]
        return "; ".join(filter(None, [ended, remarks.get(row["trial"])]))

    lines = [[*(cell(row, name) for name in columns), remark(row)] for row in rows]
    heads = {"budget": "pictures", "train_seconds": "seconds"}
    print_table(None, [*(heads.get(name, name) for name in columns), "remarks"], lines)
    if any(row["latency_note"] for row in rows):
        say(CAPTION)


def _print_trial(study: Study, number: int, as_json: bool) -> None:
    """Print all that is known of one trial."""
    results, rows = study.results, study.results.trial_rows()
    row = next((row for row in rows if row["trial"] == number), None)
    if row is None:
        there = f"its trials are 0 to {len(rows) - 1}" if rows else "it has none yet"
        raise InputError(f"{study.folder}: there is no trial {number}; {there}.")
    row |= {"remarks": results.remarks().get(number)}
    if as_json:
        return print_json(row)
    known = [(name, value) for name, value in row.items() if value not in (None, "", False)]
    print_table(f"{study.folder}#{number}", ["", ""], known)
    if (results.run.trial(number) / catalog.CONFIG).is_file():
        say(f"Its network: archsearch arch show {shlex.quote(f'{study.folder}#{number}')}")
    return None


def _shares(table: "pd.DataFrame") -> dict[str, Any]:
    """Importances as plain data."""
    plain = table.astype(object).where(table.notna(), None)
    return {"shares": plain.to_dict("index"), "left_out": table.attrs["left_out"]}


def _print_importances(table: "pd.DataFrame") -> None:
    rows = [
        [knob, *("–" if value != value else round(value, 3) for value in shares)]
        for knob, *shares in table.itertuples()
    ]
    print_table("Share of each objective's variance, by knob", ["knob", *table.columns], rows)
    say(WORDS)
    for knob, why in table.attrs["left_out"].items():
        say(f"Left out: {knob} ({why}).")


def several(count: int, what: str) -> str:
    """``1 network``, ``2 networks``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counted.items())


def opened(run_dir: Path) -> Study:
    """The study of a run that has scores.

    Raises:
        InputError: It has none yet, or the folder is not a run.
    """
    study = Study.open(run_dir)
    if not study.results.trials.complete():
        raise InputError(f"{run_dir}: has no finished trial yet.")
    return study


@app.command()
def plot(
    run_dir: RunArgument,
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="front, effects, hypervolume, importances, breakdown, table or samples; by "
            "default all that the run allows.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw this kind into FILE (.png, .svg, .pdf); by default into RUN_DIR/plots.",
        ),
    ] = None,
    cost: Annotated[
        str | None, typer.Option(help="Of front and effects: a cost, such as macs or latency_ms.")
    ] = None,
    quality: Annotated[
        str | None, typer.Option(help="Of front and effects: a quality, such as val_loss.")
    ] = None,
    trial: Annotated[
        list[int] | None,
        typer.Option(help="Of breakdown: a trial beside the presets; may be repeated."),
    ] = None,
) -> None:
    """Draw pictures of a run, for a paper too."""
    plots = Study.open(run_dir).plot(kind, output, cost, quality, trial or ())
    for path in plots.written:
        say(str(path))
    for name, why in plots.left_out.items():
        say(f"Left out: {name}. {why}")


def print_remeasured(found: "Remeasured") -> None:
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
        title = "latency of one UNet pass, ms: predicted, and measured whole on this machine"
        print_table(title, columns, rows)


def print_ending(study: Study) -> None:
    """Print what was left undone, and what can be done next."""
    if study.left_undone:
        say(f"Not done any more, for want of time: {', '.join(study.left_undone)}.")
    folder = study.folder
    say(f"\nResults: {folder}/pareto.csv, {folder}/trials.csv, {folder}/plots/")
    say(f"Next: archsearch export {quoted(folder)} --knee --format yaml --output chosen.yaml")
