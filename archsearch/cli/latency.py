"""``archsearch latency measure``: build a table."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from archsearch import resources
from archsearch.cli.app import group
from archsearch.cli.console import JsonOption, complain, print_json, progress_bar, say
from archsearch.cli.find import find_architecture
from archsearch.cli.interrupts import heed_termination, told
from archsearch.edit.apply import apply_recipe
from archsearch.edit.recipe import load_recipe
from archsearch.errors import InputError
from archsearch.latency.coverage import draw_distinct, needing, units_of
from archsearch.latency.entry import describe
from archsearch.latency.keys import keys_of
from archsearch.latency.measure import build_table
from archsearch.latency.paired import MeasureSettings
from archsearch.latency.parts import PARTS, get_part
from archsearch.latency.remote import RemoteBench
from archsearch.latency.session import Outcome, Progress
from archsearch.latency.whole import WholeNetworks
from archsearch.space.space import Space, load_space
from archsearch.unet.config import UNetConfig

latency = group("latency", "Build latency tables, prove them, and look at them.")

RuntimeOption = Annotated[str, typer.Option(help="What to measure with: torch, onnxruntime, onnxruntime-int8, openvino, …")]
PythonOption = Annotated[
    Path | None, typer.Option(help="Python of another environment that has the runtime; it measures in a process of its own.")
]
DriftOption = Annotated[
    float, typer.Option(min=0.01, help="Spread of the reference block above which a measurement is repeated, then refused.")
]
NEEDING_SHOWN = 3


@latency.command()
def measure(
    runtime: RuntimeOption,
    output: Annotated[Path, typer.Option(help="Table to write; what it holds already is kept.")],
    space: Annotated[str | None, typer.Option(help="Search space whose units are measured, by name or path.")] = None,
    arch: Annotated[list[str] | None, typer.Option(help="An architecture whose units are measured (several).")] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe: the units after each of its steps on every --arch.")] = None,
    part: Annotated[list[str] | None, typer.Option(help=f"A part of the pipeline, measured whole: {', '.join(PARTS)}.")] = None,
    runtime_python: PythonOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Samples of a unit.")] = 15,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before the first sample.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.0, help="Time for the samples of a unit; slow ones are sampled 5 times.")] = 0.5,
    threads: Annotated[int, typer.Option(min=1, help="Threads the runtime may use.")] = 1,
    whole: Annotated[int, typer.Option(min=0, help="Random networks to measure whole beside their prediction.")] = 0,
    fit: Annotated[int, typer.Option(min=0, help="Further random networks, measured whole, to fit the correction on.")] = 0,
    arch_whole: Annotated[bool, typer.Option("--arch-whole", help="Measure each --arch whole as well.")] = False,
    full: Annotated[int, typer.Option(min=0, help="Whole networks measured also with the graph optimised in full.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the draw of whole networks.")] = 0,
    max_drift: DriftOption = 0.25,
    device: Annotated[str | None, typer.Option(help="What the table calls this machine; by default cpu.")] = None,
    cooling: Annotated[str, typer.Option(help="How the machine was kept cool, for the record.")] = "not recorded",
    as_json: JsonOption = False,
) -> None:
    """Measure every unit of a space on this machine. Run again to go on after an interruption, or to add what is missing."""
    if (whole or fit) and not space:
        raise InputError("--whole, --fit: need --space, the space that networks are drawn from.")
    if output.suffix != ".json":
        raise InputError(f"--output: must be called *.json, but got {output}.")
    loaded = load_space(space) if space else None
    named = _architectures(arch or [], recipe)
    parts = [get_part(name) for name in part or []]
    settings = MeasureSettings(
        runs=runs, warmup=warmup, seconds=seconds, threads=threads, max_drift=max_drift, device=device, cooling=cooling
    )
    with progress_bar() as report:
        report("units to measure", 0.0)
        units = keys_of(config for _, config in named) + (units_of(loaded) if loaded else [])
    drawn = draw_distinct(loaded, whole + fit, seed) if loaded else []
    networks = [(f"{'fit' if i < fit else 'check'}-{i}", network) for i, network in enumerate(drawn)]
    fit_on = [name for name, _ in networks[:fit]]
    networks += [pair for pair in named if pair[0] in (arch or [])] if arch_whole else []
    heed_termination()
    with told(f"Interrupted; what was measured is kept beside {output}. Run the same command to go on."), measuring() as tell:
        bench = RemoteBench(runtime, settings, runtime_python)
        table, outcome = build_table(units, bench, output, WholeNetworks(networks, fit_on, full=full), parts, tell)
    needed = _needing(outcome, loaded, named)
    if as_json:
        failed = [{"unit": describe(unit), "reason": reason} for unit, reason in outcome.failed.items()]
        found = {"table": str(output), "entries": len(table.entries), "failed": failed, "failed_whole": outcome.failed_whole}
        return print_json(found | {"needing_failed": needed})
    say(f"{output}: {len(table.entries)} entries, graph level {table.graph_level}, reference {table.reference.p50:.2f} ms")
    say(f"look at it: archsearch latency show {shlex.quote(str(output))}")
    return _print_failures(outcome, needed)


@contextmanager
def measuring() -> Iterator[Progress]:
    """Shows how much is measured, and how long the rest will take."""
    with progress_bar() as report:

        def tell(done: int, total: int, remaining_s: float) -> None:
            report(f"{done} of {total} measured, {remaining_s / 60:.0f} min left", done / total)

        yield tell


def _architectures(names: list[str], recipe: str | None) -> list[tuple[str, UNetConfig]]:
    """The named architectures, with a recipe also what each of its steps makes of them."""
    found = [(name, find_architecture(name).config) for name in names]
    if recipe is None:
        return found
    if not found:
        raise InputError("--recipe: needs --arch, the architecture that it begins with.")
    path = resources.find("recipe", recipe)
    steps = load_recipe(path)
    edited = [(f"{name}: {step.step}", step.config) for name, config in found for step in apply_recipe(config, steps, path)]
    return found + edited


def _needing(outcome: Outcome, space: Space | None, named: list[tuple[str, UNetConfig]]) -> dict[str, Any]:
    """What is left without a prediction by units that failed: how many networks of the space, which, and which others."""
    if not outcome.failed:
        return {}
    found: dict[str, Any] = {"named": [name for name, config in named if outcome.failed.keys() & set(keys_of([config]))]}
    if space:
        count, total, points = needing(space, outcome.failed)
        found |= {"space": space.name, "networks": count, "of": total, "points": points}
    return found


def _print_failures(outcome: Outcome, needed: dict[str, Any]) -> None:
    for name, reason in [*((describe(unit), reason) for unit, reason in outcome.failed.items()), *outcome.failed_whole.items()]:
        complain(f"failed: {name}: {reason}")
    if needed.get("named"):
        complain(f"without a prediction for it: {', '.join(needed['named'])}")
    if "points" in needed:
        complain(
            f"{needed['networks']} of {needed['of']} networks of {needed['space']} need what failed (--json lists all), among them:"
        )
        for point in needed["points"][:NEEDING_SHOWN]:
            complain(f"  {point}")
