"""``archsearch proxy``: what the scores of a study's proxy can be trusted with."""

from pathlib import Path
from typing import Annotated, Any

import typer

from archsearch.api import Study
from archsearch.cli.app import (
    JsonOption,
    SetOption,
    group,
    heed_termination,
    interruptible,
    print_json,
    print_table,
    progress_bar,
    say,
)
from archsearch.errors import InputError, check_known
from archsearch.study.spec import MEASURED
from archsearch.study.validation import effect_cell

proxy = group("proxy", "Find out what the scores of a study's proxy can be trusted with.")
StudyArgument = Annotated[str, typer.Argument(help="A study, by name or path.")]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the trainings (by default runs/NAME, as of a run, whose trainings count "
        "too). One that is there goes on."
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Workers (by default one a core, or one a GPU).")
]
KEPT = "what was trained is kept"


@proxy.command()
def validate(
    study: StudyArgument = "quickstart",
    networks: Annotated[
        int, typer.Option("--networks", "-n", min=3, help="Random networks of the space.")
    ] = 24,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each at the first budget.")] = 3,
    budgets: Annotated[
        str, typer.Option(help="Budgets, as multiples of the study's own, rising.")
    ] = "1,2,4,8",
    deep: Annotated[
        int | None,
        typer.Option(min=0, help="Networks trained beyond the first budget (by default all)."),
    ] = None,
    deep_seeds: Annotated[int, typer.Option(min=1, help="Seeds of those.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the draw of networks.")] = 0,
    output: OutputOption = None,
    workers: WorkersOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train random networks at rising budgets and seeds; say whether a short training ranks them as
    a long one does.
    """
    multiples = _budgets(budgets)
    search = Study(study, output, settings or [])
    heed_termination()
    with interruptible(kept=KEPT), progress_bar() as report:
        found = search.validate(networks, seeds, multiples, deep, deep_seeds, seed, workers, report)
    if as_json:
        return print_json(found)
    for score, of in found["scores"].items():
        _print_score(score, of)
    folder = search.folder
    return say(
        f"Every figure: {folder / 'validation.json'}; the picture: {folder / 'validation.png'}"
    )


@proxy.command()
def ablate(
    study: StudyArgument = "quickstart",
    networks: Annotated[
        int,
        typer.Option(
            "--networks", "-n", min=4, help="Networks; a fourth is trained with a second seed too."
        ),
    ] = 24,
    budget: Annotated[
        int, typer.Option(min=1, help="Budget, as a multiple of the study's own.")
    ] = 1,
    metrics: Annotated[
        str, typer.Option(help="Scores of sampled pictures, divided by commas; empty for none.")
    ] = "",
    output: OutputOption = None,
    workers: WorkersOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train networks that vary all knobs of the space evenly; say what every choice of every knob
    does to each score, and which the proxy can see at all.
    """
    names = [name for name in metrics.split(",") if name]
    for name in names:
        check_known(name, MEASURED, f"--metrics: '{name}' is not known")
    search = Study(study, output, settings or [])
    heed_termination()
    with interruptible(kept=KEPT), progress_bar() as report:
        found = search.ablate(networks, budget, names, workers, report)
    if as_json:
        return print_json(found)
    scores = list(found["noise"])
    rows = [
        (
            row["knob"],
            f"{row['choice']} (for {row['reference']})",
            *(effect_cell(row, score).strip("*") for score in scores),
        )
        for row in found["effects"]
    ]
    title = (
        f"effects from {found['trainings']} trainings of {found['networks']} networks, "
        f"{found['samples']:,} pictures each; ± 95 %"
    )
    print_table(title, ["knob", "choice", *scores], rows)
    folder = search.folder
    return say(f"Every figure: {folder / 'ablation.json'}; as a table: {folder / 'ablation.md'}")


def _budgets(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            "--budgets: must be whole numbers divided by commas, such as 1,2,4,8, but got "
            f"'{text}'."
        ) from None
    if found != sorted(set(found)) or found[0] < 1:
        raise InputError(f"--budgets: must rise from 1 or more, but got '{text}'.")
    return found


def _print_score(score: str, of: dict[str, Any]) -> None:
    rows = [
        (
            row["rankings"],
            row["networks"],
            row.get("tau"),
            f"{row['low']:.2f} to {row['high']:.2f}" if "low" in row else "",
            row.get("spearman"),
            row["tau_within_macs_thirds"],
        )
        for row in of["agreement"]
    ]
    columns = ["rankings", "networks", "Kendall τ", "95 %", "Spearman", "τ within thirds of MACs"]
    print_table(score, columns, rows)
    for budget, spread in of["spread"].items():
        between, within = spread["between"] ** 0.5, spread["within"] ** 0.5
        say(
            f"{score} at {budget} ×: standard deviation between networks {between:.4f}, between "
            f"seeds {within:.4f}; variance ratio {spread['ratio']:.1f}"
        )
