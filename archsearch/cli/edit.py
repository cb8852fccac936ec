"""``archsearch arch edit``: apply a recipe to an architecture, and to its weights."""

from pathlib import Path
from typing import Annotated, Any

import typer

from archsearch import resources
from archsearch.cli.arch import ArchArgument, arch
from archsearch.cli.console import JsonOption, print_json, print_table, progress_bar, say
from archsearch.cli.find import find_architecture
from archsearch.cli.look import Look, MissingOption, TableOption, figures_of, load_look
from archsearch.edit.apply import Edited, apply_recipe
from archsearch.edit.recipe import load_recipe
from archsearch.errors import InputError
from archsearch.export.files import export_config
from archsearch.export.target import check_target
from archsearch.unet.weights import load_weights, save_weights

SHOWN = ("params", "macs", "peak_activation_bytes", "latency_ms", "latency_note", "output_change", "output_change_in_all")


@arch.command()
def edit(
    architecture: ArchArgument,
    recipe: Annotated[str, typer.Option(help="Recipe, by name or path: steps, each a name and the paths it sets.")],
    output: Annotated[Path | None, typer.Option(help="Write the edited architecture here (.json or .yaml).")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights of ARCH (.safetensors, our names or diffusers'), to be edited with it.")
    ] = None,
    output_weights: Annotated[Path | None, typer.Option(help="Write the edited weights here (.safetensors).")] = None,
    probes: Annotated[int, typer.Option(min=1, max=64, help="Inputs on which the change of the output is taken.")] = 1,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the cost after each step into this PNG; with --table also the latency.")
    ] = None,
    table: TableOption = None,
    on_missing: MissingOption = "error",
    force: Annotated[bool, typer.Option(help="Overwrite the outputs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Apply a recipe step by step and show the cost after each; with weights, also how far each step moves the output."""
    if output_weights and not weights:
        raise InputError("--output-weights: needs --weights, the weights to begin with.")
    _check_outputs(output, output_weights, plot, force)
    found, look, path = find_architecture(architecture), load_look(table, on_missing), resources.find("recipe", recipe)
    steps = load_recipe(path)
    state = load_weights(found.config, weights) if weights else None
    rows: list[dict[str, Any]] = []
    last: Edited | None = None
    with progress_bar() as report:
        for last in apply_recipe(found.config, steps, path, state, probes):
            rows.append(_row(last.step if rows else found.name, last) | figures_of(last.config, look))
            report(f"step {len(rows)} of {len(steps.steps) + 1}", len(rows) / (len(steps.steps) + 1))
    assert last is not None
    if output:
        export_config(last.config, output, "json" if output.suffix == ".json" else "yaml", path.stem, force)
    if output_weights and last.state is not None:
        save_weights(last.state, output_weights)
    if plot:
        _draw(found.name, rows, look, plot)
    if as_json:
        return print_json(rows)
    names = [name for name in SHOWN if name in rows[-1]]
    print_table(None, ["step", *names], [[row["step"], *(row.get(name, "") for name in names)] for row in rows])
    for written in (output, output_weights, plot):
        if written:
            say(f"→ {written}")
    return None


def _draw(start: str, rows: list[dict[str, Any]], look: Look | None, path: Path) -> None:
    """A panel of parameters, of MACs and, with a table, of predicted latency."""
    from archsearch.report.waterfall import draw_waterfall

    panels = {
        "parameters (M), counted": [row["params"] / 1e6 for row in rows],
        "GMACs, counted": [row["macs"] / 1e9 for row in rows],
    }
    if look:
        notes = sorted({row["latency_note"] for row in rows if "latency_note" in row})
        label = f"ms, {notes[-1] if notes else 'predicted'}\n{look.table.name}"
        panels[label] = [row["latency_ms"] for row in rows]
    draw_waterfall(start, [row["step"] for row in rows[1:]], panels, path)


def _check_outputs(output: Path | None, weights: Path | None, plot: Path | None, force: bool) -> None:
    """Refuse before any work what could not be written, or read again, after it."""
    suffixes = {
        "--output": (output, (".json", ".yaml", ".yml")),
        "--output-weights": (weights, (".safetensors",)),
        "--plot": (plot, (".png",)),
    }
    for option, (path, allowed) in suffixes.items():
        if path and path.suffix not in allowed:
            raise InputError(f"{option}: must be called *{' or *'.join(allowed)}, but got {path}.")
        if path:
            check_target(path, force)


def _row(name: str, edited: Edited) -> dict[str, Any]:
    changes = {"output_change": edited.change, "output_change_in_all": edited.change_in_all}
    return {"step": name, "digest": edited.config.digest} | {key: value for key, value in changes.items() if value is not None}
