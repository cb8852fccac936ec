"""``archsearch latency validate``: whole networks beside what a table says of them."""

from pathlib import Path
from typing import Annotated

import typer

from archsearch import resources
from archsearch.cli.console import JsonOption, complain, print_json, print_table, say
from archsearch.cli.interrupts import heed_termination, told
from archsearch.cli.latency import DriftOption, PythonOption, latency, measuring
from archsearch.cli.latency_show import print_lines
from archsearch.errors import InputError
from archsearch.latency.load import load_table
from archsearch.latency.paired import MeasureSettings
from archsearch.latency.published import PublishedTable
from archsearch.latency.remote import RemoteBench
from archsearch.latency.table import LatencyTable
from archsearch.latency.validate import draw_networks, summarise, validate_table
from archsearch.space.space import load_space


@latency.command()
def validate(
    table: Annotated[str, typer.Option(help="The table, by name or path; the networks are added to it.")],
    space: Annotated[str, typer.Option(help="Search space that networks are drawn from, by name or path.")],
    networks: Annotated[int, typer.Option("--networks", "-n", min=1, help="Networks to draw.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 1,
    again: Annotated[int, typer.Option(min=0, help="Networks measured a second time, which tells the noise of measuring.")] = 10,
    full: Annotated[int, typer.Option(min=0, help="Networks measured also with the graph optimised in full.")] = 0,
    runtime: Annotated[str | None, typer.Option(help="What to measure with; by default as the table says.")] = None,
    runtime_python: PythonOption = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Time for the samples of a network; at least 5.")] = 0.5,
    max_drift: DriftOption = 0.25,
    plot: Annotated[Path | None, typer.Option(help="Scatter plot; by default TABLE.validation.png.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure random networks whole, and say how far the table's predictions are off. Run again to go on."""
    path = resources.find("table", table)
    loaded = _measured(path)
    if resources.inside_wheel(path):
        raise InputError(f"--table: {path} belongs to the installed package: copy it first, e.g. with archsearch init.")
    drawn = draw_networks(load_space(space), loaded, networks, seed)
    settings = MeasureSettings(
        runs=loaded.runs, warmup=loaded.warmup, seconds=seconds, threads=loaded.threads, max_drift=max_drift, device=loaded.device
    )
    heed_termination()
    with told(f"Interrupted; what was measured is kept beside {path}. Run the same command to go on."), measuring() as tell:
        bench = RemoteBench(runtime or _runtime_of(loaded), settings, runtime_python)
        loaded, lines, outcome = validate_table(path, drawn, bench, again, full, tell)
    from archsearch.report.validation import draw_validation

    picture = plot or path.with_suffix(".validation.png")
    draw_validation(loaded.name, lines, loaded.correction.fitted_on, picture)
    summary = summarise(lines).to_dict()
    if as_json:
        return print_json(
            summary
            | {
                "failed": outcome.failed_whole,
                "table": str(path),
                "seed": seed,
                "plot": str(picture),
                "lines": [x.model_dump() for x in lines],
            }
        )
    for name, reason in outcome.failed_whole.items():
        complain(f"failed: {name}: {reason}")
    print_lines("whole networks, ms", lines)
    print_table(None, ["", ""], [(name, "" if value is None else value) for name, value in summary.items()])
    say(f"→ {path}, {picture}")
    return None


def _measured(path: Path) -> LatencyTable:
    loaded = load_table(path)
    if isinstance(loaded, PublishedTable):
        raise InputError(f"{path}: a published table has no entries to validate: its device is not here.")
    return loaded


def _runtime_of(table: LatencyTable) -> str:
    name = table.runtime.split()[0]
    return f"{name}-{table.dtype}" if table.dtype == "int8" else name
