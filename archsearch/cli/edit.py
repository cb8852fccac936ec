"""``archsearch arch edit``: apply a recipe to an architecture, and to its weights."""

from pathlib import Path
from typing import Annotated, Any

import typer

from archsearch import resources
from archsearch.cli.arch import ArchArgument, TableOption, arch, figures_of, load_table
from archsearch.cli.console import JsonOption, console, print_json, print_table, progress_bar
from archsearch.cli.find import find_architecture
from archsearch.edit.apply import Edited, apply_recipe
from archsearch.edit.recipe import load_recipe
from archsearch.errors import InputError
from archsearch.export.files import export_config
from archsearch.export.target import check_target
from archsearch.unet.weights import load_weights, save_weights

SHOWN = ("params", "macs", "peak_activation_bytes", "latency_ms", "output_change", "output_change_in_all")


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
    plot: Annotated[Path | None, typer.Option(help="Draw parameters and MACs after each step into this PNG.")] = None,
    table: TableOption = None,
    force: Annotated[bool, typer.Option(help="Overwrite the outputs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Apply a recipe step by step and show the cost after each; with weights, also how far each step moves the output."""
    if output_weights and not weights:
        raise InputError("--output-weights: needs --weights, the weights to begin with.")
    _check_outputs(output, output_weights, plot, force)
    found, loaded, path = find_architecture(architecture), load_table(table), resources.find("recipe", recipe)
    steps = load_recipe(path)
    state = load_weights(found.config, weights) if weights else None
    rows: list[dict[str, Any]] = []
    last: Edited | None = None
    with progress_bar() as report:
        for last in apply_recipe(found.config, steps, path, state, probes):
            rows.append(_row(last.step if rows else found.name, last) | figures_of(last.config, loaded))
            report(f"step {len(rows)} of {len(steps.steps) + 1}", len(rows) / (len(steps.steps) + 1))
    assert last is not None
    if output:
        export_config(last.config, output, "json" if output.suffix == ".json" else "yaml", path.stem, force)
    if output_weights and last.state is not None:
        save_weights(last.state, output_weights)
    if plot:
        from archsearch.report.waterfall import draw_waterfall

        draw_waterfall(found.name, [(row["step"], row["params"], row["macs"]) for row in rows], plot)
    if as_json:
        return print_json(rows)
    names = [name for name in SHOWN if name in rows[-1]]
    print_table(None, ["step", *names], [[row["step"], *(row.get(name, "") for name in names)] for row in rows])
    for written in (output, output_weights, plot):
        if written:
            console.print(f"→ {written}", highlight=False, soft_wrap=True)
    return None


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
