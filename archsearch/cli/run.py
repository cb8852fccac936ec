"""``archsearch run``."""

import itertools
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from archsearch.api import Study
from archsearch.cli.app import (
    JsonOption,
    SetOption,
    app,
    complain,
    heed_termination,
    interruptible,
    print_json,
    print_table,
    progress_bar,
    quoted,
    say,
)
from archsearch.cli.front import print_front
from archsearch.cli.live import LiveView
from archsearch.cli.report import write_if_installed
from archsearch.cli.results import print_ending, print_remeasured
from archsearch.errors import InputError
from archsearch.study.check import foreign_processors


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A study, by name or path.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the run (by default runs/NAME). One that is there goes on."),
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Finished trials in total.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers (by default one a core, or one a GPU).")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="local or ray.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster (by default a local one).")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Database that machines share, e.g. postgresql://USER@HOST/DATABASE (by default "
            "study.db in the folder).",
        ),
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Folder, or address such as s3://BUCKET/PATH, of weights and checkpoints that "
            "machines share (by default the folder of the run).",
        ),
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
    fork: Annotated[
        bool,
        typer.Option(
            "--fork",
            help="Begin a run of a changed study beside the one in the folder, with its front.",
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
    for key, place in (("storage", storage), ("artifacts", artifacts)):
        overrides += [f"{key}={json.dumps(place)}"] if place else []
    search = Study(study, output, overrides)
    if fork:
        search = _forked(study, search.folder, overrides)
    for notice in foreign_processors(search.setting):
        complain(notice)
    if dry_run:
        with progress_bar() as report:
            expected = search.estimate(report=report)
        return print_json(expected) if as_json else _print_estimate(search, expected)
    if remeasure_front and not search.setting.devices:
        raise InputError(
            f"{study}: --remeasure-front: deployment.tables is empty, so there is no latency to "
            "measure."
        )
    search.check_engine(search.spec.engine.kind, address)
    folder = search.folder
    again = f"archsearch run {quoted(folder / 'study.yaml')} --output {quoted(folder)}"
    again += " --remeasure-front" if remeasure_front else ""
    with interruptible(), progress_bar() as report:
        search.prepare_run(report)
        if minutes := search.spec.search.minutes:
            fitting = search.estimate(report=report)["trials_that_fit"]
            left = search.store.clock.left() / 60
            complain(
                f"{search.name}: {max(0.0, left):.1f} of {minutes:g} minutes are left; in "
                f"{minutes:g} minutes about {fitting} trials fit on this machine."
            )
    heed_termination()
    kept = "running trials are queued again"
    with interruptible(again, kept), LiveView(search) as live:
        search.run(address=address, tick=live, tell=complain)
    measured = None
    if remeasure_front:
        with interruptible(again, "what was measured is kept"), progress_bar() as report:
            measured = search.remeasure(report)
        for device, reason in measured.skipped.items():
            complain(f"{device}: skipped, {reason}")
        for failure in measured.failed:
            complain(f"not measured: {failure}")
    page = write_if_installed(search)
    if as_json:
        return print_json(search.results.pareto(search.answers))
    print_front(search.results, search.answers)
    if measured:
        print_remeasured(measured)
    print_ending(search)
    return None if page is None else say(f"Report: {page}")


def _forked(study: str, parent: Path, overrides: list[str]) -> Study:
    """The study in the first free folder beside ``parent``, which begins with that one's front."""
    if not (parent / "pareto.json").is_file():
        raise InputError(f"--fork: {parent}: there is no run with a front to begin from.")
    folders = (parent.with_name(f"{parent.name}-{number}") for number in itertools.count(2))
    folder = next(each for each in folders if not each.exists())
    complain(f"{folder}: begins with the front of {parent}.")
    earlier = f"search.warm_start={json.dumps(str(parent.resolve()))}"
    return Study(study, folder, [*overrides, earlier])


def _print_estimate(study: Study, found: dict[str, Any]) -> None:
    guesses = found["estimated_units"]
    pictures = found["pictures"]
    rows = [
        ("pictures to train on", pictures["train"]),
        ("pictures held out", pictures["held_out"]),
        *((f"  left out: {reason}", count) for reason, count in pictures["left_out"].items()),
        ("random points drawn", found["drawn"]),
        ("valid", found["valid"]),
        ("within the limits", found["within_limits"]),
        *((f"  broke {reason}", count) for reason, count in found["broken"].items()),
        # Had there been any, and none to be estimated, they would have been named and refused.
        *([] if guesses else [("missing latency entries", 0)]),
        *(
            (f"units of the space that {name} estimates", f"{of['estimated']} of {of['of']}")
            for name, of in guesses.items()
        ),
        *(
            ("numbers of steps searched", ", ".join(map(str, steps)))
            for steps in [found["sampling_steps"]]
            if steps
        ),
        (
            "distinct architectures → proxies",
            f"{found['of_candidates']} → {found['distinct_proxies']}",
        ),
        ("seconds of training a trial", round(found["seconds_per_trial"], 1)),
        ("seconds of sampling a trial", round(found["sampling_seconds_per_trial"], 1)),
        ("hours in all, search and further seeds", round(found["hours"], 2)),
        *(
            (f"trials that fit into {study.spec.search.minutes:g} minutes", fitting)
            for fitting in [found["trials_that_fit"]]
            if fitting
        ),
        ("memory a worker (GB)", round(found["memory_bytes_per_worker"] / 1e9, 2)),
        ("memory available (GB)", round(found["memory_available_bytes"] / 1e9, 2)),
        ("disk, at most (GB)", round(found["disk_bytes"] / 1e9, 3)),
        ("disk free (GB)", round(found["disk_free_bytes"] / 1e9, 1)),
    ]
    print_table(f"{study.name} → {study.folder}, {study.spec.search.trials} trials", ["", ""], rows)
    say(
        "Nothing was trained. Times are measured on a few random candidates, on this machine as "
        "it is now."
    )
