"""What looks at a run: ``archsearch status``, ``pareto``, ``plot``; and how its figures show."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from archsearch.api import Study
from archsearch.cli.app import JsonOption, app, number, print_json, print_table, quoted, say
from archsearch.errors import InputError
from archsearch.study.importances import WORDS
from archsearch.study.notes import notes_of
from archsearch.study.remeasure import Remeasured
from archsearch.study.results import Noise, Results, ScoredTrial, not_told_from, sentence
from archsearch.study.search import Further
from archsearch.study.setting import STEPS
from archsearch.study.spec import is_marked

RunArgument = Annotated[Path, typer.Argument(help="Folder of a run.")]

CAPTION = "≈: rests on estimated units or published figures, see latency_note"
BELIEVED, CHANCE = "believed (95 %)", "on front"
LISTED = 20
"""Trials that ``status`` lists: a screen full, the last ones."""
SAME = "same as"
"""Column of the members that one cannot be told from."""


def marked(name: str, value: Any, provenance: Mapping[str, str]) -> Any:
    """The value of a score: with a sign before it where it rests on more than measured units; else
    as it is, so that a column of numbers stays one.
    """
    if value is not None and is_marked(name, provenance):
        return f"≈ {number(value)}"
    return value


@app.command()
def status(
    run_dir: RunArgument,
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
    study = Study.open(run_dir)
    found, table = study.progress(), study.trials()
    shares = study.importances() if importances else None
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    if as_json:
        told = {} if shares is None else {"importances": _shares(shares)}
        return print_json({**found, **told, "trials": rows})
    for line in _summary(found):
        say(line)
    _print_trials(study, table, rows if every else rows[-LISTED:])
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
            f"Front: {_several(found['front'], 'network')}; hypervolume {volume['value']:.4f} of "
            f"the box up to the reference point {corner}"
        )
    yield (
        f"Training: {found['train_seconds']:,.0f} s behind the trials; in the store "
        f"{_several(store['records'], 'record')} with {store['train_seconds']:,.0f} s of training "
        f"and {store['scoring_seconds']:,.0f} s of scoring"
    )
    if seeds["trainings"]:
        yield (
            f"Further seeds: {_several(seeds['trainings'], 'training')} of "
            f"{_several(seeds['networks'], 'network')}"
        )


def _print_trials(study: Study, table: pd.DataFrame, rows: Sequence[dict[Any, Any]]) -> None:
    spec = study.spec
    columns = [
        name
        for name in (
            "trial",
            "outcome",
            "preset",
            *([f"point.{STEPS}"] if spec.sampling.searched else []),
            *spec.objectives,
            *(["budget"] if spec.search.rungs.count > 1 else []),
            *(["latency_note"] if len(table) and table["latency_note"].notna().any() else []),
            "train_seconds",
            "capped",
            "from_store",
            "reason",
        )
        if name in table
    ]
    provenance = {t.number: notes_of(t).get("provenance", {}) for t in study.results.trials.all()}
    lines = [
        [
            "–" if row[name] is None else marked(name, row[name], provenance[row["trial"]])
            for name in columns
        ]
        for row in rows
    ]
    print_table(None, columns, lines)


def _shares(table: pd.DataFrame) -> dict[str, Any]:
    """Importances as plain data."""
    plain = table.astype(object).where(table.notna(), None)
    return {"shares": plain.to_dict("index"), "left_out": table.attrs["left_out"]}


def _print_importances(table: pd.DataFrame) -> None:
    rows = [
        [knob, *("–" if value != value else round(value, 3) for value in shares)]
        for knob, *shares in table.itertuples()
    ]
    print_table("Share of each objective's variance, by knob", ["knob", *table.columns], rows)
    say(WORDS)
    for knob, why in table.attrs["left_out"].items():
        say(f"Left out: {knob} ({why}).")


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counted.items())


def _opened(run_dir: Path) -> Study:
    study = Study.open(run_dir)
    if not study.results.trials.complete():
        raise InputError(f"{run_dir}: has no finished trial yet.")
    return study


@app.command()
def pareto(run_dir: RunArgument, as_json: JsonOption = False) -> None:
    """Show the Pareto front of a run."""
    study = _opened(run_dir)
    if as_json:
        return print_json(study.results.pareto())
    return print_front(study.results)


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


def print_front(results: Results) -> None:
    """Print the front, cheapest first, and beside each member those that it cannot be told from."""
    spec, members, noise = results.setting.spec, results.front(), results.noise()
    names = list(dict.fromkeys([*spec.objectives, *spec.report]))
    same = not_told_from(members, noise)
    called = {member.number: member.name for member in members}
    columns: dict[str, list[Any]] = {
        "trial": [member.name for member in members],
        STEPS: [member.steps for member in members],
        **{
            name: [marked(name, m.known.get(name, "–"), m.provenance) for m in members]
            for name in names
        },
        SAME: [", ".join(called[n] for n in same[member.number] or []) for member in members],
        BELIEVED: [_interval(member, results.quality) for member in members],
        CHANCE: ["–" if m.chance is None else f"{m.chance:.2f}" for m in members],
        "architecture": [member.digest for member in members],
        "latency_note": [member.note for member in members],
    }
    if not spec.sampling.searched:
        del columns[STEPS]
    if noise is None or noise.seed_deviation is None:
        del columns[SAME]
    if not results.quality:
        del columns[BELIEVED], columns[CHANCE]
    if not any(columns["latency_note"]):
        del columns["latency_note"]
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    print_table("Pareto front, cheapest first", list(columns), rows)
    if results.quality:
        raw = [trial.name for trial in results.raw_front()]
        say(
            f"{BELIEVED}: what a model of all trainings believes of {results.quality}, which "
            f"decides; {CHANCE}: the probability of being on the front. The front of the scores as "
            f"measured, lucky seeds included: {', '.join(raw)}."
        )
    if noise:
        say(_explained(noise))
    if "latency_note" in columns:
        say(CAPTION)


def _interval(member: ScoredTrial, quality: str | None) -> str:
    if quality not in member.believed:
        return "–"
    mean, low, high = (number(value) for value in member.believed[quality])
    return f"{mean} ({low} to {high})"


def _explained(noise: Noise) -> str:
    """What stands under the front about members that cannot be told apart."""
    if noise.seed_deviation is None:
        return (
            "Which members cannot be told apart is not known: no network was trained with a "
            f"second seed, which would tell how much {noise.score} scatters."
        )
    networks = _several(noise.networks, "network")
    return (
        f"{SAME}: {noise.score} differs by {noise.least_difference:.2g} or less, as between two "
        f"seeds of one network in 95 of 100 cases (seed deviation {noise.seed_deviation:.2g}, "
        f"from {noise.repetitions} trainings of {networks})."
    )


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
        title = "latency of one UNet pass, ms: predicted, and measured whole on this machine"
        print_table(title, columns, rows)


def print_ending(study: Study, answers: Sequence[dict[str, Any]]) -> None:
    """Print the answers, and what can be done next."""
    for answer in answers:
        say(sentence(answer))
    if study.left_undone:
        say(f"Not done any more, for want of time: {', '.join(study.left_undone)}.")
    folder = study.folder
    say(f"\nResults: {folder}/pareto.csv, {folder}/trials.csv, {folder}/plots/")
    say(f"Next: archsearch export {quoted(folder)} --knee --format yaml --output chosen.yaml")
