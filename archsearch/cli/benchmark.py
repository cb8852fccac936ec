"""``archsearch benchmark``: networks with recorded scores, and how they are recorded."""

from pathlib import Path
from typing import Annotated

import typer

from archsearch.api import Study
from archsearch.benchmark import record as recording
from archsearch.cli.app import group, heed_termination, interruptible, progress_bar, say

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
    study = Study(recording.STUDY, output)
    heed_termination()
    with interruptible(kept="what was recorded is kept"):
        with progress_bar() as report:
            store = study.prepare(recording.METRICS, report)
        done = recording.record(store, shards, network, again, tell=say)
    say(f"{done} trainings recorded in {shards}")
