"""``archsearch latency``: measure, validate, show; bundles for phones."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from archsearch import catalog
from archsearch.cli.app import (
    JsonOption,
    check_file,
    complain,
    group,
    heed_termination,
    interruptible,
    print_json,
    print_table,
    progress_bar,
    quoted,
    say,
)
from archsearch.edit.recipe import apply_recipe, load_recipe
from archsearch.errors import InputError, check_known
from archsearch.latency.measure import Progress, WholeNetworks, measure_table
from archsearch.latency.parts import PARTS, get_part
from archsearch.latency.phone.bundle import RUNTIME_OF, Format, conditions_of, write_bundle
from archsearch.latency.phone.returned import NAMED, import_results
from archsearch.latency.predict import draw_distinct, load_table, needing, units_of
from archsearch.latency.process import Process
from archsearch.latency.stopwatch import MeasureSettings
from archsearch.latency.table import Clock, LatencyTable, PublishedTable, Whole, describe, keys_of
from archsearch.latency.validate import draw_networks, summarise, validate_table
from archsearch.latency.workload import Workload
from archsearch.search_space.space import load_space
from archsearch.unet.config import UNetConfig

latency = group("latency", "Build latency tables, prove them, and look at them.")

RuntimeOption = Annotated[
    str,
    typer.Option(help="What to measure with: torch, onnxruntime, onnxruntime-int8, openvino, …"),
]
PythonOption = Annotated[
    Path | None,
    typer.Option(
        help="Python of another environment that has the runtime; it measures in a process of "
        "its own."
    ),
]
DriftOption = Annotated[
    float,
    typer.Option(
        min=0.01,
        help="Spread of the reference block above which a measurement is repeated, then refused.",
    ),
]


@latency.command()
def measure(
    runtime: RuntimeOption,
    output: Annotated[Path, typer.Option(help="Table to write; what it holds already is kept.")],
    space: Annotated[
        str | None, typer.Option(help="Search space whose units are measured, by name or path.")
    ] = None,
    arch: Annotated[
        list[str] | None, typer.Option(help="An architecture whose units are measured (several).")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="A recipe: the units after each of its steps on every --arch."),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help=f"A part of the pipeline, measured whole: {', '.join(PARTS)}."),
    ] = None,
    runtime_python: PythonOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Samples of a unit.")] = 15,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before the first sample.")] = 3,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.0, help="Time for the samples of a unit; slow ones are sampled 5 times."
        ),
    ] = 0.5,
    threads: Annotated[int, typer.Option(min=1, help="Threads the runtime may use.")] = 1,
    whole: Annotated[
        int, typer.Option(min=0, help="Random networks to measure whole beside their prediction.")
    ] = 0,
    fit: Annotated[
        int,
        typer.Option(
            min=0, help="Further random networks, measured whole, to fit the correction on."
        ),
    ] = 0,
    arch_whole: Annotated[
        bool, typer.Option("--arch-whole", help="Measure each --arch whole as well.")
    ] = False,
    full: Annotated[
        int,
        typer.Option(min=0, help="Whole networks measured also with the graph optimised in full."),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the draw of whole networks.")] = 0,
    clock: Annotated[
        str,
        typer.Option(
            help="auto, wall or processor. The time of the processor does not change with the "
            "other work of a busy machine; auto takes it where one thread computes on a CPU."
        ),
    ] = "auto",
    max_drift: DriftOption = 0.25,
    device: Annotated[
        str | None, typer.Option(help="What the table calls this machine; by default cpu.")
    ] = None,
    cooling: Annotated[
        str, typer.Option(help="How the machine was kept cool, for the record.")
    ] = "not recorded",
    as_json: JsonOption = False,
) -> None:
    """Measure every unit of a space on this machine. Run again to go on after an interruption, or
    to add what is missing.
    """
    if (whole or fit) and not space:
        raise InputError("--whole, --fit: need --space, the space that networks are drawn from.")
    check_file("--output", output, ".json")
    check_known(clock, ("auto", *get_args(Clock)), f"--clock: '{clock}' is unknown")
    if clock == "auto" and output.is_file():  # what is added is measured as the rest was
        clock = LatencyTable.load(output).clock
    loaded = load_space(space) if space else None
    named = _architectures(arch or [], recipe)
    parts = [get_part(name) for name in part or []]
    settings = MeasureSettings(
        runs=runs,
        warmup=warmup,
        seconds=seconds,
        threads=threads,
        clock=clock,
        max_drift=max_drift,
        device=device,
        cooling=cooling,
    )
    with progress_bar() as report:
        report("units to measure", 0.0)
        units = keys_of(config for _, config in named) + (units_of(loaded) if loaded else [])
    drawn = draw_distinct(loaded, whole + fit, seed) if loaded else []
    networks = [(f"{'fit' if i < fit else 'check'}-{i}", each) for i, each in enumerate(drawn)]
    fit_on = [name for name, _ in networks[:fit]]
    networks += [pair for pair in named if pair[0] in (arch or [])] if arch_whole else []
    with measuring(output) as tell, Process(runtime, settings, runtime_python) as process:
        wanted = WholeNetworks(networks, fit_on, full=full)
        table, outcome = measure_table(units, process, output, wanted, parts, tell)
    failed = {describe(unit): reason for unit, reason in outcome.failed.items()}
    unpredicted = [name for name, each in named if outcome.failed.keys() & set(keys_of([each]))]
    needed: dict[str, Any] = {"named": unpredicted} if failed else {}
    if failed and loaded:
        points, total = needing(loaded, outcome.failed)
        needed |= {"space": loaded.name, "networks": len(points), "of": total, "points": points}
    if as_json:
        return print_json(
            {
                "table": str(output),
                "entries": len(table.entries),
                "failed": [{"unit": name, "reason": reason} for name, reason in failed.items()],
                "failed_whole": outcome.failed_whole,
                "needing_failed": needed,
            }
        )
    say(
        f"{output}: {len(table.entries)} entries, graph level {table.graph_level}, reference "
        f"{table.reference.p50:.2f} ms"
    )
    say(f"look at it: archsearch latency show {quoted(output)}")
    for name, reason in (failed | outcome.failed_whole).items():
        complain(f"failed: {name}: {reason}")
    if unpredicted:
        complain(f"without a prediction for it: {', '.join(unpredicted)}")
    if "points" in needed:
        complain(
            f"{needed['networks']} of {needed['of']} networks of {needed['space']} need what "
            "failed (--json lists all), among them:"
        )
        for point in needed["points"][:3]:
            complain(f"  {point}")


@contextmanager
def measuring(path: Path) -> Iterator[Progress]:
    """Shows how much is measured, and how long the rest will take; where it is interrupted, says
    that what was measured for the table ``path`` is kept.
    """
    heed_termination()
    kept = f"what was measured is kept beside {path}"
    with interruptible(kept=kept), progress_bar() as report:

        def tell(done: int, total: int, remaining_s: float) -> None:
            report(f"{done} of {total} measured, {remaining_s / 60:.0f} min left", done / total)

        yield tell


def _architectures(names: list[str], recipe: str | None) -> list[tuple[str, UNetConfig]]:
    # With a recipe also what each of its steps makes of them.
    found = [(name, catalog.load_architecture(name).config) for name in names]
    if recipe is None:
        return found
    if not found:
        raise InputError("--recipe: needs --arch, the architecture that it begins with.")
    path = catalog.find("recipe", recipe)
    steps = load_recipe(path)
    edited = [
        (f"{name}: {step.step}", step.config)
        for name, config in found
        for step in apply_recipe(config, steps, path)
    ]
    return found + edited


FORMATS: tuple[Format, ...] = get_args(Format)


@latency.command()
def bundle(
    format: Annotated[str, typer.Option(help=f"What the device runs: {', '.join(FORMATS)}.")],
    output: Annotated[
        Path, typer.Option(help="Folder to write; one that was cut off is gone on with.")
    ],
    space: Annotated[
        str | None, typer.Option(help="Search space whose units are bundled, by name or path.")
    ] = None,
    arch: Annotated[
        list[str] | None,
        typer.Option(help="A network, bundled whole and with its units (several)."),
    ] = None,
    whole: Annotated[
        int, typer.Option(min=0, help="Random networks of the space to bundle whole.")
    ] = 0,
    part: Annotated[
        list[str] | None,
        typer.Option(help=f"A part of the pipeline: {', '.join(PARTS)} (several)."),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of weights, inputs and the draw of networks.")
    ] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads that inference may use there.")] = 1,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before the first one that counts.")] = 3,
    runs: Annotated[int, typer.Option(min=1, help="Runs of a model that count.")] = 15,
    runtime_python: Annotated[
        Path | None,
        typer.Option(
            help="Python of another environment that has the format's library (ExecuTorch needs "
            "one)."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write models and scripts to carry to a device, to measure them there."""
    check_known(format, FORMATS, f"--format: '{format}' is unknown")
    chosen = cast(Format, format)
    with ExitStack() as stack:
        convert, found = None, None
        if runtime_python:
            settings = MeasureSettings(seed=seed)
            process = Process(RUNTIME_OF[chosen], settings, runtime_python, only_convert=True)
            stack.enter_context(process)
            convert, found = partial(process.convert, chosen), process.facts
        conditions = conditions_of(chosen, threads, warmup, runs, seed, found)
        report = stack.enter_context(progress_bar())
        report("units", 0.0)
        workloads = _workloads(space, arch or [], whole, part or [], seed)

        def tell(done: int, total: int) -> None:
            report(f"{done} of {total} models", done / total)

        manifest = write_bundle(workloads, conditions, output, tell, convert)
    failed = {item.key: item.failed for item in manifest.items if item.failed}
    if as_json:
        return print_json(
            {
                "bundle": manifest.bundle,
                "output": str(output),
                "models": len(manifest.items),
                "failed": failed,
            }
        )
    say(f"{output}: {len(manifest.items) - len(failed)} models, see README.md there.")
    for reason in list(failed.values())[:NAMED]:
        say(f"could not be converted: {reason}")
    if len(failed) > NAMED:
        say(f"and {len(failed) - NAMED} more; --json lists all")


def _workloads(
    space: str | None, arch: list[str], whole: int, part: list[str], seed: int
) -> list[tuple[str | None, Workload]]:
    if whole and not space:
        raise InputError("--whole: draws networks of a space; give --space too.")
    if not (space or arch or part):
        raise InputError("nothing to bundle: give --space, --arch or --part.")
    parts = [get_part(name) for name in part]
    networks = [(found.name, found.config) for found in map(catalog.load_architecture, arch)]
    units = []
    if space:
        loaded = load_space(space)
        units = units_of(loaded)
        rng = random.Random(seed)
        networks += [(f"check-{number}", loaded.draw_valid(rng)[1]) for number in range(whole)]
    units = list(dict.fromkeys([*units, *keys_of(config for _, config in networks)]))
    return [*((None, unit) for unit in units), *networks, *((each.name, each) for each in parts)]


@latency.command("import")
def import_(
    bundle: Annotated[Path, typer.Option(help="The bundle's folder.")],
    results: Annotated[
        Path,
        typer.Option(help="results.json, or the folder results, as the bundle's script left it."),
    ],
    device: Annotated[str, typer.Option(help="Name of the device, as tables are called: pixel-8.")],
    soc: Annotated[str, typer.Option(help="Its chip: Tensor G3.")],
    os: Annotated[str, typer.Option(help="Its system and version: Android 15.")],
    output: Annotated[Path, typer.Option(help="Table to write.")],
    runtime_version: Annotated[
        str | None, typer.Option(help="Version of the runtime there, where results do not tell.")
    ] = None,
    cooling: Annotated[
        str, typer.Option(help="Said in the table: fan, pauses, temperature.")
    ] = "not recorded",
    max_drift: Annotated[
        float,
        typer.Option(
            min=0.01, help="Spread of the reference beside a model above which all is refused."
        ),
    ] = 0.25,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the table.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a latency table of what was measured on a device."""
    check_file("--output", output, ".json")
    if output.exists() and not force:
        raise InputError(
            f"{output}: is there already; give another path, or --force to overwrite it."
        )
    imported = import_results(bundle, results, device, soc, os, runtime_version, cooling, max_drift)
    table = imported.table
    table.save(output)
    if as_json:
        return print_json(
            {
                "output": str(output),
                "entries": len(table.entries),
                "parts": len(table.parts),
                "whole": len(table.whole),
                "reference_ms": table.reference.p50,
                "missing": imported.missing,
                "failed": imported.failed,
                "unpredicted": imported.unpredicted,
            }
        )
    say(f"{output}: {len(table.entries)} entries, reference {table.reference.p50:.3f} ms")
    for what, names in (
        ("without a result", imported.missing),
        ("failed", [f"{name}: {reason}" for name, reason in imported.failed.items()]),
        ("networks left out, as units of theirs are missing", imported.unpredicted),
    ):
        if names:
            more = f"; and {len(names) - NAMED} more, see --json" if len(names) > NAMED else ""
            say(f"{len(names)} {what}: {'; '.join(names[:NAMED])}{more}")


@latency.command()
def show(
    table: Annotated[str, typer.Argument(help="A latency table, by name or path.")],
    entries: Annotated[bool, typer.Option("--entries", help="List every entry.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a table: where and how it was measured, what it holds, how well it predicts."""
    loaded = load_table(catalog.find("table", table))
    dumped = loaded.model_dump(mode="json", by_alias=True, exclude_none=True)
    header = [
        (name, str(value)) for name, value in dumped.items() if not isinstance(value, list | dict)
    ]
    parts = [(each.part, each.p50) for each in loaded.parts]
    if isinstance(loaded, PublishedTable):
        if as_json:
            return print_json(dumped)
        print_table(f"{loaded.name}: published estimate", ["", ""], header)
        networks = [(each.name, each.gmacs, each.measured) for each in loaded.whole]
        print_table("published, ms", ["network", "GMACs", "ms"], networks)
        return print_table("parts of the pipeline, ms", ["part", "ms"], parts)
    fitted = [each for each in loaded.whole if each.config in loaded.correction.fitted_on]
    unseen = [each for each in loaded.whole if each not in fitted]
    if as_json:
        validation = {"validation": asdict(summarise(unseen))} if unseen else {}
        shown = dumped if entries else dumped | {"entries": len(loaded.entries)}
        return print_json(shown | validation)
    reference, correction = loaded.reference, loaded.correction
    header += [
        ("reference", f"{reference.p50:.3f} ms, drift {reference.drift:.3f}"),
        ("correction", f"{correction.scale:.4f} × sum + {correction.offset:.3f} ms"),
    ]
    kinds: dict[str, list[float]] = {}
    for entry in loaded.entries:
        kinds.setdefault(entry.unit.kind, []).append(entry.p50)
    ranges = [(kind, len(times), min(times), max(times)) for kind, times in kinds.items()]
    listed = [(describe(each.unit), each.p10, each.p50, each.p90) for each in loaded.entries]
    failed = [(describe(each.unit), each.reason) for each in loaded.failed]
    tables: list[tuple[str | None, list[str], list[Any]]] = [
        (loaded.name, ["", ""], header),
        ("p50 in ms, measured", ["kind", "entries", "least", "most"], ranges),
        (None, ["unit", "p10", "p50", "p90"], listed if entries else []),
        ("failed", ["unit", "reason"], failed),
        ("parts of the pipeline, ms", ["part", "p50"], parts),
    ]
    for title, columns, rows in tables:
        if rows:
            print_table(title, columns, rows)
    _print_networks("networks the correction was fitted on, ms", fitted)
    _print_networks("unseen networks, ms", unseen)
    if unseen:
        summary = summarise(unseen)
        rank = "" if summary.spearman is None else f", Spearman {summary.spearman:.3f}"
        noise = summary.repeat_noise
        say(
            f"median error {summary.median_error:.1%}, {summary.within_10_percent:.0%} within ± "
            f"10 %{rank}"
            + ("" if noise is None else f"; measured twice they differ by {noise:.1%}")
        )


def _print_networks(title: str, networks: list[Whole]) -> None:
    if not networks:
        return
    full = any(each.full for each in networks)
    columns = ["network", "measured", "predicted", "error", *(["fully optimised"] if full else [])]
    rows = []
    for each in networks:
        error = f"{100 * (each.predicted / each.measured - 1):+.1f} %"
        row = [each.name or each.config, each.measured, each.predicted, error, each.full or ""]
        rows.append(row[: len(columns)])
    print_table(title, columns, rows)


@latency.command()
def validate(
    table: Annotated[
        str, typer.Option(help="The table, by name or path; the networks are added to it.")
    ],
    space: Annotated[
        str, typer.Option(help="Search space that networks are drawn from, by name or path.")
    ],
    networks: Annotated[
        int, typer.Option("--networks", "-n", min=1, help="Networks to draw.")
    ] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 1,
    again: Annotated[
        int,
        typer.Option(
            min=0, help="Networks measured a second time, which tells the noise of measuring."
        ),
    ] = 10,
    full: Annotated[
        int, typer.Option(min=0, help="Networks measured also with the graph optimised in full.")
    ] = 0,
    runtime: Annotated[
        str | None, typer.Option(help="What to measure with; by default as the table says.")
    ] = None,
    runtime_python: PythonOption = None,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="Time for the samples of a network; at least 5.")
    ] = 0.5,
    max_drift: DriftOption = 0.25,
    plot: Annotated[
        Path | None, typer.Option(help="Scatter plot; by default TABLE.validation.png.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure random networks whole, and say how far the table's predictions are off. Run again to
    go on.
    """
    check_file("--plot", plot, ".png")
    path = catalog.find("table", table)
    loaded = load_table(path)
    if isinstance(loaded, PublishedTable):
        raise InputError(
            f"{path}: a published table has no entries to validate: its device is not here."
        )
    if catalog.inside_wheel(path):
        raise InputError(
            f"--table: {path} belongs to the installed package: copy it first, e.g. with "
            "archsearch init."
        )
    drawn = draw_networks(load_space(space), loaded, networks, seed)
    settings = MeasureSettings(
        runs=loaded.runs,
        warmup=loaded.warmup,
        seconds=seconds,
        threads=loaded.threads,
        clock=loaded.clock,
        max_drift=max_drift,
        device=loaded.device,
    )
    library, wanted = loaded.runtime.split()[0], WholeNetworks(drawn, again=again, full=full)
    name = runtime or (f"{library}-{loaded.dtype}" if loaded.dtype == "int8" else library)
    with measuring(path) as tell, Process(name, settings, runtime_python) as process:
        loaded, judged, outcome = validate_table(path, wanted, process, tell)
    from archsearch.report.costs import draw_validation

    picture = plot or path.with_suffix(".validation.png")
    draw_validation(path.stem, judged, loaded.correction.fitted_on, picture)
    summary = asdict(summarise(judged))
    if as_json:
        return print_json(
            summary
            | {
                "failed": outcome.failed_whole,
                "table": str(path),
                "seed": seed,
                "plot": str(picture),
                "lines": [each.model_dump() for each in judged],
            }
        )
    for failed, reason in outcome.failed_whole.items():
        complain(f"failed: {failed}: {reason}")
    _print_networks("whole networks, ms", judged)
    rows = [(key, "" if value is None else value) for key, value in summary.items()]
    print_table(None, ["", ""], rows)
    say(f"→ {path}, {picture}")
