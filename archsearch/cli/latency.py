"""``archsearch latency measure``: build a table."""

import random
from pathlib import Path
from typing import Annotated

import typer

from archsearch import resources
from archsearch.cli.app import group
from archsearch.cli.console import JsonOption, console, errors, print_json, progress_bar
from archsearch.cli.find import find_architecture
from archsearch.edit.apply import apply_recipe
from archsearch.edit.recipe import load_recipe
from archsearch.errors import InputError
from archsearch.latency.coverage import needing, units_of
from archsearch.latency.entry import describe
from archsearch.latency.keys import keys_of
from archsearch.latency.measure import WholeNetworks, build_table
from archsearch.latency.paired import MeasureSettings
from archsearch.latency.parts import PARTS, get_part
from archsearch.latency.remote import RemoteBench
from archsearch.latency.session import Measurer, Outcome
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


def make_bench(runtime: str, python: Path | None, settings: MeasureSettings) -> Measurer:
    """What measures: a process of its own, so that a crash of the runtime on one unit does not end the measuring."""
    return RemoteBench(runtime, settings, python)


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
    full: Annotated[bool, typer.Option("--full", help="Measure whole networks also with the graph optimised in full.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the draw of whole networks.")] = 0,
    max_drift: DriftOption = 0.25,
    device: Annotated[str | None, typer.Option(help="What the table calls this machine; by default cpu.")] = None,
    cooling: Annotated[str, typer.Option(help="How the machine was kept cool, for the record.")] = "not recorded",
    as_json: JsonOption = False,
) -> None:
    """Measure every unit of a space on this machine. Run again to go on after an interruption, or to add what is missing."""
    if (whole or fit) and not space:
        raise InputError("--whole, --fit: need --space, the space that networks are drawn from.")
    loaded = load_space(space) if space else None
    named = _architectures(arch or [], recipe)
    parts = [get_part(name) for name in part or []]
    settings = MeasureSettings(
        runs=runs, warmup=warmup, seconds=seconds, threads=threads, max_drift=max_drift, device=device, cooling=cooling
    )
    with progress_bar() as report:
        report("units to measure", 0.0)
        units = keys_of(config for _, config in named) + (units_of(loaded) if loaded else [])
    rng = random.Random(seed)
    drawn = [loaded.sample_valid(rng)[1] for _ in range(whole + fit)] if loaded else []
    networks = [(f"{'fit' if i < fit else 'check'}-{i}", network) for i, network in enumerate(drawn)]
    fit_on = [name for name, _ in networks[:fit]]
    networks += [pair for pair in named if pair[0] in (arch or [])] if arch_whole else []
    bench = make_bench(runtime, runtime_python, settings)
    with progress_bar() as report:

        def tell(done: int, total: int, remaining_s: float) -> None:
            report(f"{done} of {total} measured", done / total)

        table, outcome = build_table(
            units, bench, output, WholeNetworks(networks, fit_on, full=len(networks) if full else 0), parts, tell
        )
    if as_json:
        failed = [{"unit": describe(unit), "reason": reason} for unit, reason in outcome.failed.items()]
        return print_json({"table": str(output), "entries": len(table.entries), "failed": failed})
    console.print(
        f"{output}: {len(table.entries)} entries, graph level {table.graph_level}, reference {table.reference.p50:.2f} ms",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"look at it: archsearch latency show {output}", highlight=False, soft_wrap=True)
    return _print_failures(outcome, loaded)


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


def _print_failures(outcome: Outcome, space: Space | None) -> None:
    """What the runtime failed on, and which networks of the space that leaves without a prediction."""
    for name, reason in [*((describe(unit), reason) for unit, reason in outcome.failed.items()), *outcome.failed_whole.items()]:
        errors.print(f"failed: {name}: {reason}", highlight=False, soft_wrap=True, markup=False)
    if outcome.failed and space:
        count, total, points = needing(space, outcome.failed)
        errors.print(f"{count} of {total} networks of {space.name} need what failed, among them:", highlight=False, soft_wrap=True)
        for point in points[:NEEDING_SHOWN]:
            errors.print(f"  {point}", highlight=False, soft_wrap=True, markup=False)
