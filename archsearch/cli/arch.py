"""``archsearch arch``: list, show, compare and edit architectures."""

from pathlib import Path
from typing import Annotated, Any

import typer

from archsearch import resources
from archsearch.architectures import Architecture
from archsearch.cli.app import group
from archsearch.cli.console import JsonOption, console, print_json, print_table
from archsearch.cli.find import find_architecture
from archsearch.cost.breakdown import describe_side, stage_costs
from archsearch.cost.price import price
from archsearch.edit.recipe import apply_step, load_recipe
from archsearch.errors import InputError, nearest
from archsearch.export.files import export_config
from archsearch.latency.predict import predict
from archsearch.latency.table import LatencyTable
from archsearch.unet.config import ResidualBlock, UNetConfig
from archsearch.unet.presets import PRESETS

arch = group("arch", "List, show, compare and edit architectures.")

ArchArgument = Annotated[str, typer.Argument(help="A preset's name, a UNetConfig file (.json, .yaml), or RUN_DIR#TRIAL.")]
TableOption = Annotated[str | None, typer.Option("--table", help="Latency table, by name or path.")]


def _load_table(name: str | None) -> LatencyTable | None:
    return None if name is None else LatencyTable.load(resources.find("table", name))


def _figures(config: UNetConfig, table: LatencyTable | None) -> dict[str, Any]:
    figures = price(config).to_dict()
    if table:
        figures |= {"latency_ms": predict(config, table).latency_ms, "latency_table": table.name}
    return figures


@arch.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the presets with their cost."""
    rows = [(name, make(), (make.__doc__ or "").strip().splitlines()[0].replace("``", "")) for name, make in PRESETS.items()]
    if as_json:
        return print_json([{"name": name, "about": about} | price(config).to_dict() for name, config, about in rows])
    costs = [price(config) for _, config, _ in rows]
    return print_table(
        None,
        ["preset", "params (M)", "GMACs, conv + linear", "with attention", "peak activations (MB)", "about"],
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
    counter: Annotated[str | None, typer.Option(help="Also count the built network with fvcore, thop or torch.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Draw the network into this file.")] = None,
) -> None:
    """Show an architecture: its cost, stage by stage; counted at deployment scale, batch 1."""
    found = find_architecture(architecture)
    loaded = _load_table(table)
    figures = {"name": found.name, "digest": found.config.digest} | _figures(found.config, loaded)
    stages = stage_costs(found.config, loaded.by_unit if loaded else None)
    if counter:
        figures["counter"] = {"name": counter} | _count(found.config, counter)
    if svg:
        from archsearch.report.drawing import draw_architecture

        draw_architecture(found, svg)
    if as_json:
        return print_json(figures | {"stages": stages, "config": found.config.to_dict()})
    return _print_figures(found, figures, stages)


def _count(config: UNetConfig, counter: str) -> dict[str, int]:
    from archsearch.cost.counters import COUNTERS

    if counter not in COUNTERS:
        raise InputError(f"--counter {counter}: allowed are {', '.join(COUNTERS)}.{nearest(counter, COUNTERS)}")
    return COUNTERS[counter](config)


def _print_figures(found: Architecture, figures: dict[str, Any], stages: list[dict[str, Any]]) -> None:
    config, kinds = found.config, figures["macs_by_kind"]
    console.print(f"[bold]{found.name}[/bold]  {config.digest}", highlight=False)
    sample = f"{config.in_channels}×{config.sample_size}×{config.sample_size}"
    rows: list[tuple[str, Any, str]] = [
        ("parameters", figures["params"], "counted"),
        ("MACs", figures["macs"], "counted"),
        ("  conv + linear", kinds["conv"] + kinds["linear"], "counted"),
        ("  attention", kinds["attention"], "counted"),
        ("peak activation bytes", figures["peak_activation_bytes"], "counted"),
    ]
    if "latency_ms" in figures:
        rows.append(("latency (ms)", figures["latency_ms"], f"predicted from units measured on {figures['latency_table']}"))
    counter = figures.get("counter", {})
    rows += [(f"{counter['name']}: {name}", value, "counter") for name, value in counter.items() if name != "name"]
    print_table(f"sample {sample}, context {config.context_tokens}×{config.context_dim}", ["", "", "by"], rows)
    columns = ["stage", "channels", "size", "down", "up", "conv", "params", "macs", *(["ms"] if "ms" in stages[0] else [])]
    print_table("by stage", columns, [[stage.get(column, "") for column in columns] for stage in stages])


@arch.command()
def diff(left: ArchArgument, right: ArchArgument, table: TableOption = None, as_json: JsonOption = False) -> None:
    """Show what differs between two architectures, and what that buys."""
    a, b = find_architecture(left), find_architecture(right)
    loaded = _load_table(table)
    keys = _flatten(a.config.to_dict()), _flatten(b.config.to_dict())
    changes = {
        key: [keys[0].get(key), keys[1].get(key)]
        for key in sorted(keys[0].keys() | keys[1].keys())
        if keys[0].get(key) != keys[1].get(key)
    }
    costs = [_figures(item.config, loaded) for item in (a, b)]
    names = [name for name in ("params", "macs", "peak_activation_bytes", "latency_ms") if name in costs[0]]
    if as_json:
        return print_json({"left": a.name, "right": b.name, "config": changes, "cost": {n: [c[n] for c in costs] for n in names}})
    print_table(None, ["key", a.name, b.name], [(key, _plain(v[0]), _plain(v[1])) for key, v in changes.items()])
    rows = [(name, costs[0][name], costs[1][name], f"{100 * (costs[1][name] / costs[0][name] - 1):+.1f} %") for name in names]
    return print_table(None, ["cost", a.name, b.name, "change"], rows)


def _plain(value: Any) -> str:
    return "–" if value is None else str(value)


def _flatten(value: Any, key: str = "") -> dict[str, Any]:
    if key.rpartition(".")[2] in ("down", "up", "middle"):
        return {key: describe_side(tuple(ResidualBlock.model_validate(block) for block in value))}
    if isinstance(value, dict) and value:
        return {k: v for name, item in value.items() for k, v in _flatten(item, f"{key}.{name}" if key else name).items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {k: v for index, item in enumerate(value) for k, v in _flatten(item, f"{key}[{index}]").items()}
    return {key: value}


@arch.command()
def edit(
    architecture: ArchArgument,
    recipe: Annotated[Path, typer.Option(help="Recipe file: steps, each a name and the paths it sets.")],
    output: Annotated[Path | None, typer.Option(help="Write the edited architecture here (.json or .yaml).")] = None,
    table: TableOption = None,
    force: Annotated[bool, typer.Option(help="Overwrite the output.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Apply a recipe step by step and show the cost after each."""
    found, loaded = find_architecture(architecture), _load_table(table)
    steps = [{"step": found.name} | _figures(found.config, loaded)]
    config = found.config
    for step in load_recipe(recipe).steps:
        config = apply_step(config, step, recipe)
        steps.append({"step": step.name} | _figures(config, loaded))
    if output:
        export_config(config, output, "json" if output.suffix == ".json" else "yaml", recipe.stem, force)
    if as_json:
        return print_json(steps)
    names = [name for name in ("params", "macs", "peak_activation_bytes", "latency_ms") if name in steps[0]]
    return print_table(None, ["step", *names], [[step["step"], *(step[name] for name in names)] for step in steps])
