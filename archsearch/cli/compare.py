"""``archsearch compare``: the fronts of several runs beside each other."""

from pathlib import Path
from typing import Annotated, Any

import typer

from archsearch import api
from archsearch.cli.app import JsonOption, app, number, print_json, print_table, say
from archsearch.study.compare import Comparison


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_A RUN_B …", help="Folders of runs.")],
    costs: Annotated[
        bool,
        typer.Option("--costs", help="Compare the costs alone, where qualities do not compare."),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the fronts into this file (.png, .svg, .pdf)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the fronts of two or more runs: hypervolumes with one reference point, how much of
    one front another covers, the best quality at equal cost, and what differs between the studies.

    The runs must have the same objectives. Qualities compare only where data, proxy and training
    are the same.
    """
    found = api.compare(*runs, costs_only=costs, plot=plot)
    if as_json:
        return print_json(found.to_dict())
    names = [run.folder for run in found.runs]
    corner = ", ".join(f"{name} {number(value)}" for name, value in found.box.reference.items())
    print_table(
        None,
        ["run", "study", "trials", "seconds of training", "front", "hypervolume"],
        [
            (
                run.folder,
                run.study,
                f"{run.finished} of {run.target}",
                round(run.train_seconds),
                run.front,
                f"{run.hypervolume:.4f}",
            )
            for run in found.runs
        ],
    )
    say(
        f"Hypervolume: the share of the box up to the reference point ({corner}) that the front "
        "dominates; costs by their logarithm. The point is the worst value of all trials of these "
        "runs plus a tenth of the range."
    )
    print_table(
        "Coverage: the share of the column's front that the row's front equals or dominates",
        ["", *names],
        [
            (name, *(f"{share:.0%}" for share in row))
            for name, row in zip(names, found.coverage, strict=True)
        ],
    )
    if found.at_cost:
        print_table(
            f"Best {found.quality} at equal or lower {found.cost}",
            ["up to", str(found.cost), *names],
            [(line.at, line.cost, *_qualities(line.best)) for line in found.at_cost],
        )
        say(_spread(found))
    for run in found.runs:
        if run.cost_notes:
            say(f"≈ latencies of {run.folder} rest on: {' / '.join(run.cost_notes)}")
    for each in found.differences:
        say(f"differs: {each.key}: {' | '.join(map(str, each.values))}")
    if not found.differences:
        say("The studies do not differ.")
    return say(str(plot)) if plot else None


def _qualities(best: tuple[float | None, ...]) -> list[Any]:
    return ["–" if value is None else value for value in best]


def _spread(found: Comparison) -> str:
    """How far two qualities must lie apart."""
    known = [run.least_difference for run in found.runs if run.least_difference is not None]
    if not known:
        return (
            f"How much {found.quality} scatters between seeds is not known: no network was "
            "trained with a second seed."
        )
    return (
        f"Two seeds of one network differ in {found.quality} by {max(known):.2g} or less in 95 of "
        "100 cases: a smaller difference says nothing."
    )
