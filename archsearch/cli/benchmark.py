"""``archsearch benchmark``: networks with recorded scores, and how they are recorded."""

import math
from pathlib import Path
from typing import Annotated

import typer

from archsearch.api import Study
from archsearch.benchmark import record as recording
from archsearch.benchmark.record import join as join_shards
from archsearch.benchmark.record import shipped_tables, write
from archsearch.benchmark.replay import Replay, summarise
from archsearch.benchmark.table import BUDGETS, FILE, FOLDS, LOSSES, METRICS, STUDY, load
from archsearch.cli.app import (
    JsonOption,
    group,
    heed_termination,
    interruptible,
    print_json,
    print_table,
    progress_bar,
    say,
)

benchmark = group("benchmark", "Networks with recorded scores: look at them, record more.")


@benchmark.command()
def record(
    shards: Annotated[Path, typer.Argument(help="Folder of the shards and their design.")],
    network: Annotated[
        list[int] | None,
        typer.Option(help="Number of a network; can be given more than once (by default all)."),
    ] = None,
    again: Annotated[
        bool, typer.Option(help="Record what is there already once more, and compare.")
    ] = False,
    output: Annotated[
        Path, typer.Option(help="Folder of the trainings. One that is there goes on.")
    ] = Path("runs/benchmark"),
) -> None:
    """Record what is missing of MobileDiffusion-Bench, a shard a training. Several processes can do
    so together.
    """
    study = Study(STUDY, output)
    heed_termination()
    with interruptible(kept="what was recorded is kept"):
        with progress_bar() as report:
            store = study.prepare(METRICS, report)
        done = recording.record(store, shards, network, again, tell=say)
    say(f"{done} trainings recorded in {shards}")


@benchmark.command()
def join(
    shards: Annotated[Path, typer.Argument(help="Folder of the shards and their design.")],
    output: Annotated[Path, typer.Option(help="The table, a CSV file.")] = FILE,
) -> None:
    """Join shards into the table: knobs, costs, latency on every shipped table, and scores."""
    setting = Study(STUDY).setting
    rows = join_shards(shards, setting, shipped_tables())
    write(rows, output)
    trained = rows.drop_duplicates(["network", "seed"])
    say(f"{output}: {rows['network'].nunique()} networks, {len(trained)} trainings")


@benchmark.command()
def show(
    table: Annotated[Path, typer.Option(help="The table, a CSV file.")] = FILE,
    as_json: JsonOption = False,
) -> None:
    """Show what is recorded, how much seeds scatter, and how far estimates are off."""
    loaded = load(table)
    scores = ("val_loss", "kid_effnet", "alignment", "val_loss_int8")
    left_out = {name: loaded.left_out(name) for name in scores if len(loaded.mean(name)) >= FOLDS}
    found = {
        "space": loaded.space_name,
        "networks": len(loaded.networks),
        "trainings": len(loaded.rows.drop_duplicates(["network", "seed"])),
        "budgets": loaded.budgets,
        "machines": sorted(map(str, loaded.rows["machine"].unique())),
        "core_hours": round(float(loaded.hours), 2),
        "estimates": left_out,
    }
    if as_json:
        return print_json(found)
    plain = {name: value for name, value in found.items() if name != "estimates"}
    listed = [(k, ", ".join(map(str, v)) if isinstance(v, list) else v) for k, v in plain.items()]
    print_table(f"{loaded.path.name}", ["", ""], listed)
    shown = ("networks", "rmse", "noise", "tau", "within")  # no noise without a second seed
    rows = [
        (name, *(of[column] if math.isfinite(of[column]) else "–" for column in shown))
        for name, of in left_out.items()
    ]
    columns = ["score", "networks", "error of estimates", "seeds' deviation", "τ", "in 95 %"]
    return print_table("estimates of networks that the model has not seen", columns, rows)


@benchmark.command()
def replay(
    samplers: Annotated[
        str, typer.Option(help="Samplers, divided by commas.")
    ] = "surrogate,random,nsga2,tpe",
    trainings: Annotated[int, typer.Option(min=1, help="Trainings of each search.")] = 40,
    seeds: Annotated[int, typer.Option(min=1, help="Searches of each sampler.")] = 8,
    budget: Annotated[
        int, typer.Option(help="Pictures seen by the trainings that a search is told of.")
    ] = BUDGETS[1],
    score: Annotated[
        str,
        typer.Option(
            help="Loss that a search is told: val_loss, or its third of least, middle or most "
            "noise: val_loss_fine, val_loss_middle, val_loss_coarse."
        ),
    ] = LOSSES[0],
    latency: Annotated[
        str, typer.Option(help="Latency table that is the second objective.")
    ] = "cpu-onnxruntime-fp32",
    table: Annotated[Path, typer.Option(help="The table, a CSV file.")] = FILE,
    as_json: JsonOption = False,
) -> None:
    """Repeat searches on recorded scores: how many trainings would each have needed?"""
    replayed = Replay(load(table), latency, budget, score)
    names = [name for name in samplers.split(",") if name]
    found = []
    with interruptible(kept="nothing is kept"), progress_bar() as report:
        for number, (name, seed) in enumerate((n, s) for s in range(seeds) for n in names):
            report(f"{name}, seed {seed}", number / (len(names) * seeds))
            found.append(replayed.run(name, trainings, seed))
    summary = summarise(found)
    if as_json:
        return print_json(summary)
    marks = sorted({10, 20, min(trainings, len(replayed.networks))})
    marks = [mark for mark in marks if mark <= min(trainings, len(replayed.networks))]
    rows = [
        (
            name,
            *(of["believed"]["share"][mark - 1] for mark in marks),
            of["believed"]["trainings_to_target"],
            of["raw"]["trainings_to_target"],
            of["core_minutes"][1],
        )
        for name, of in summary.items()
    ]
    afters = (f"after {mark}" for mark in marks)
    columns = ["sampler", *afters, "to 95 %", "to 95 %, raw scores", "core-minutes to 99 %"]
    title = (
        f"share of the best hypervolume, median of {seeds} searches among "
        f"{len(replayed.networks)} recorded networks"
    )
    return print_table(title, columns, rows)
