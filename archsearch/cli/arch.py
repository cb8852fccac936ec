"""``archsearch arch``: look at architectures, compare and edit them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from archsearch import catalog
from archsearch.cli.app import (
    JsonOption,
    check_file,
    group,
    print_json,
    print_table,
    progress_bar,
    say,
)
from archsearch.cost.price import price, stage_costs, unit_costs
from archsearch.errors import InputError, check_known, nearest
from archsearch.files import write_text
from archsearch.latency.predict import (
    ON_MISSING,
    AnyTable,
    OnMissing,
    Predictor,
    figures_of,
    load_table,
    predict,
    unit_times,
)
from archsearch.report.diagram import diff_diagram, stage_diagram
from archsearch.search_space.paths import DEFAULTS, differences
from archsearch.unet.config import UNetConfig
from archsearch.unet.presets import PRESETS
from archsearch.unet.units import Unit

TableOption = Annotated[str | None, typer.Option("--table", help="Latency table, by name or path.")]
MissingOption = Annotated[
    str,
    typer.Option(
        "--on-missing",
        help="Units the table lacks: error, or predict (estimated from others, and marked).",
    ),
]


def _load_prices(name: str | None, on_missing: str) -> tuple[AnyTable | None, OnMissing]:
    # Load what ``--table`` names, if it was given, and check ``--on-missing``.
    if on_missing not in ON_MISSING:
        raise InputError(
            f"--on-missing {on_missing}: allowed are "
            f"{', '.join(ON_MISSING)}.{nearest(on_missing, ON_MISSING)}"
        )
    return None if name is None else load_table(catalog.find("table", name)), on_missing


arch = group("arch", "List, show, compare and edit architectures.")

ArchArgument = Annotated[
    str,
    typer.Argument(
        help="A preset's name, a UNetConfig file (.json, .yaml), a diffusers config.json, or "
        "RUN_DIR#TRIAL (or #knee, #min-latency, #best-quality)."
    ),
]


@arch.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the presets with their cost."""
    abouts = {name: (make.__doc__ or "").partition("\n\n")[0] for name, make in PRESETS.items()}
    rows = [
        (name, make(), " ".join(abouts[name].replace("``", "").split()))
        for name, make in PRESETS.items()
    ]
    if as_json:
        return print_json(
            [
                {"name": name, "about": about} | price(config).to_dict()
                for name, config, about in rows
            ]
        )
    costs = [price(config) for _, config, _ in rows]
    return print_table(
        None,
        [
            "preset",
            "params (M)",
            "GMACs, conv + linear",
            "with attention",
            "peak activations (MB)",
            "about",
        ],
        [
            (
                name,
                cost.params / 1e6,
                (cost.macs - cost.macs_by_kind.attention) / 1e9,
                cost.macs / 1e9,
                cost.peak_activation_bytes / 1e6,
                about,
            )
            for (name, _, about), cost in zip(rows, costs, strict=True)
        ],
    )


@arch.command()
def show(
    architecture: ArchArgument,
    as_json: JsonOption = False,
    table: TableOption = None,
    on_missing: MissingOption = "error",
    counter: Annotated[
        str | None, typer.Option(help="Also count the built network with fvcore, thop or torch.")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="List every layer with its place, shapes and cost.")
    ] = False,
    svg: Annotated[
        Path | None,
        typer.Option(
            help="Draw the stages into this SVG file; with --table also how the latency is shared."
        ),
    ] = None,
) -> None:
    """Show an architecture: its cost, stage by stage; counted at deployment scale, batch 1."""
    check_file("--svg", svg, ".svg")
    found = catalog.load_architecture(architecture)
    prices = _load_prices(table, on_missing)
    times = unit_times(*prices)
    figures = {"name": found.name, "digest": found.config.digest} | figures_of(
        found.config, *prices
    )
    stages = stage_costs(found.config, times)
    if counter:
        figures["counter"] = {"name": counter} | _count(found.config, counter)
    if svg:
        latency, source = _latency_of([found], *prices)
        write_text(svg, stage_diagram(found.config, found.name, latency, source=source))
    rows = unit_costs(found.config, times) if layers else []
    if as_json:
        listed = {"layers": rows} if layers else {}
        return print_json(
            figures | {"stages": stages} | listed | {"config": found.config.to_dict()}
        )
    _print_figures(found, figures, stages)
    return _print_layers(rows) if layers else None


def _latency_of(
    networks: Sequence[catalog.Architecture], table: AnyTable | None, on_missing: OnMissing
) -> tuple[dict[Unit, float], str]:
    # The latency of all units, and in words where it is from, as a diagram wants it.
    if table is None:
        return {}, ""
    times: dict[Unit, float] = {}
    for network in networks:
        times |= Predictor(table).by_unit(network.config, on_missing)
    marks = [predict(network.config, table, on_missing).mark for network in networks]
    said = [
        f"{network.name}: {mark}" for network, mark in zip(networks, marks, strict=True) if mark
    ]
    return times, "; ".join([table.name, *said])


def _count(config: UNetConfig, counter: str) -> dict[str, int]:
    from archsearch.cost.counters import COUNTERS

    check_known(counter, COUNTERS, f"--counter: '{counter}' is unknown")
    return COUNTERS[counter](config)


def _print_figures(
    found: catalog.Architecture, figures: dict[str, Any], stages: list[dict[str, Any]]
) -> None:
    config, kinds = found.config, figures["macs_by_kind"]
    say(f"{found.name}  {config.digest}")
    sample = f"{config.in_channels}×{config.sample_size}×{config.sample_size}"
    rows: list[tuple[str, Any, str]] = [
        ("parameters", figures["params"], "counted"),
        ("MACs", figures["macs"], "counted"),
        ("  conv + linear", kinds["conv"] + kinds["linear"], "counted"),
        ("  attention", kinds["attention"], "counted"),
        ("peak activation bytes", figures["peak_activation_bytes"], "counted"),
        *(
            (f"weight bytes, {dtype}", size, "counted")
            for dtype, size in figures["weight_bytes"].items()
        ),
    ]
    if "latency_ms" in figures:
        by = figures.get("latency_note", "predicted from measured units")
        rows.append(("latency (ms)", figures["latency_ms"], f"{by}, {figures['latency_table']}"))
    counter = figures.get("counter", {})
    rows += [
        (f"{counter['name']}: {name}", value, "counter")
        for name, value in counter.items()
        if name != "name"
    ]
    print_table(
        f"sample {sample}, context {config.context_tokens}×{config.context_dim}",
        ["", "", "by"],
        rows,
    )
    columns = [
        "stage",
        "channels",
        "size",
        "down",
        "up",
        "conv",
        "params",
        "macs",
        *(["ms"] if "ms" in stages[0] else []),
    ]
    print_table(
        "by stage", columns, [[stage.get(column, "") for column in columns] for stage in stages]
    )


COSTS = ("params", "macs", "ms")


def _print_layers(rows: list[dict[str, Any]]) -> None:
    # What decides its cost in words, so that kinds with other fields share a table.
    costs = [name for name in COSTS if name in rows[0]]
    table = []
    for row in rows:
        fields = {
            name: value for name, value in row.items() if name not in ("place", "kind", *costs)
        }
        options = ", ".join(f"{name} {value}" for name, value in fields.items())
        table.append((row["place"], options, *(row[name] for name in costs)))
    print_table("by layer", ["layer", "shapes and options", *costs], table)


COMPARED = (
    "params",
    "macs",
    "macs_conv",
    "macs_linear",
    "macs_attention",
    "peak_activation_bytes",
    "latency_ms",
)


@arch.command()
def diff(
    left: ArchArgument,
    right: ArchArgument,
    table: TableOption = None,
    on_missing: MissingOption = "error",
    svg: Annotated[
        Path | None,
        typer.Option(help="Draw both under each other into this SVG file, what differs marked."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what differs between two architectures, and what that buys."""
    check_file("--svg", svg, ".svg")
    a, b = catalog.load_architecture(left), catalog.load_architecture(right)
    prices = _load_prices(table, on_missing)
    changes = differences(a.config, b.config)
    costs = [figures_of(item.config, *prices) for item in (a, b)]
    if svg:
        latency, source = _latency_of([a, b], *prices)
        write_text(svg, diff_diagram(a, b, latency, source=source))
    for figures in costs:
        figures |= {f"macs_{kind}": macs for kind, macs in figures["macs_by_kind"].items()}
    pairs = {name: [cost[name] for cost in costs] for name in COMPARED if name in costs[0]}
    notes = [cost.get("latency_note", "") for cost in costs]
    if as_json:
        compared = {"left": a.name, "right": b.name, "config": changes, "cost": pairs}
        return print_json(compared | ({"latency_note": notes} if any(notes) else {}))
    rows: list[tuple[Any, ...]] = []
    for key, values in changes.items():
        shown = [DEFAULTS.get(key) if value is None else value for value in values]
        rows.append((key, *("–" if value in (None, "") else str(value) for value in shown)))
    print_table(None, ["key", a.name, b.name], rows)
    rows = [
        (name, old, new, f"{100 * (new / old - 1):+.1f} %" if old else "–")
        for name, (old, new) in pairs.items()
    ]
    rows += [("latency is", *notes, "")] if any(notes) else []
    return print_table(None, ["cost", a.name, b.name, "change"], rows)


SHOWN = (
    "params",
    "macs",
    "peak_activation_bytes",
    "latency_ms",
    "latency_note",
    "output_change",
    "output_change_in_all",
)


@arch.command()
def edit(
    architecture: ArchArgument,
    recipe: Annotated[
        str, typer.Option(help="Recipe, by name or path: steps, each a name and the paths it sets.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Write the edited architecture here (.json or .yaml).")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Weights of ARCH (.safetensors, our names or diffusers'), to be edited with it."
        ),
    ] = None,
    output_weights: Annotated[
        Path | None, typer.Option(help="Write the edited weights here (.safetensors).")
    ] = None,
    probes: Annotated[
        int, typer.Option(min=1, max=64, help="Inputs on which the change of the output is taken.")
    ] = 1,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw the cost after each step (.png, .svg, .pdf); with --table also the latency."
        ),
    ] = None,
    table: TableOption = None,
    on_missing: MissingOption = "error",
    force: Annotated[bool, typer.Option(help="Overwrite the outputs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Apply a recipe step by step and show the cost after each; with weights, also how far each
    step moves the output.
    """
    # What needs torch is loaded here, so that the other commands start at once.
    from archsearch.edit.recipe import apply_recipe, load_recipe
    from archsearch.export.formats import export_config
    from archsearch.unet.weights import load_weights, save_weights

    if output_weights and not weights:
        raise InputError("--output-weights: needs --weights, the weights to begin with.")
    _check_outputs(output, output_weights, plot, force)
    found, path = catalog.load_architecture(architecture), catalog.find("recipe", recipe)
    prices = _load_prices(table, on_missing)
    steps = load_recipe(path)
    state = load_weights(found.config, weights) if weights else None
    rows: list[dict[str, Any]] = []
    total = len(steps.steps) + 1
    with progress_bar() as report:
        for last in apply_recipe(found.config, steps, path, state, probes):
            row: dict[str, Any] = {
                "step": last.step if rows else found.name,
                "digest": last.config.digest,
            }
            changes = {"output_change": last.change, "output_change_in_all": last.change_in_all}
            row |= {name: change for name, change in changes.items() if change is not None}
            rows.append(row | figures_of(last.config, *prices))
            report(f"step {len(rows)} of {total}", len(rows) / total)
    if output:
        export_config(
            last.config, output, "json" if output.suffix == ".json" else "yaml", path.stem, force
        )
    if output_weights and last.state is not None:
        save_weights(last.state, output_weights)
    if plot:
        _draw(found.name, rows, plot)
    if as_json:
        return print_json(rows)
    names = [name for name in SHOWN if name in rows[-1]]
    print_table(
        None,
        ["step", *names],
        [[row["step"], *(row.get(name, "") for name in names)] for row in rows],
    )
    for written in (output, output_weights, plot):
        if written:
            say(f"→ {written}")


def _draw(start: str, rows: list[dict[str, Any]], path: Path) -> None:
    from archsearch.report.costs import draw_waterfall

    panels = {
        "parameters (M), counted": [row["params"] / 1e6 for row in rows],
        "GMACs, counted": [row["macs"] / 1e9 for row in rows],
    }
    if "latency_ms" in rows[0]:
        notes = sorted({row["latency_note"] for row in rows if "latency_note" in row})
        label = f"ms, {notes[-1] if notes else 'predicted'}\n{rows[0]['latency_table']}"
        panels[label] = [row["latency_ms"] for row in rows]
    draw_waterfall(start, [row["step"] for row in rows[1:]], panels, path)


def _check_outputs(
    output: Path | None, weights: Path | None, plot: Path | None, force: bool
) -> None:
    # Before any work, what could not be written, or read again, after it.
    from archsearch.export.writing import check_target

    suffixes = {
        "--output": (output, (".json", ".yaml", ".yml")),
        "--output-weights": (weights, (".safetensors",)),
        "--plot": (plot, (".png", ".svg", ".pdf")),
    }
    for option, (path, allowed) in suffixes.items():
        check_file(option, path, *allowed)
        if path:
            check_target(path, force)
