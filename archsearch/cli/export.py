"""``archsearch export`` and ``archsearch init``: take files away."""

from pathlib import Path
from typing import Annotated

import typer

from archsearch import catalog
from archsearch.catalog import Architecture, config_file
from archsearch.cli.app import app, console, say
from archsearch.cli.arch import find_architecture
from archsearch.errors import InputError
from archsearch.export.formats import EXPORTERS
from archsearch.export.formats import export as write
from archsearch.study import results
from archsearch.study import trials as storage
from archsearch.study.rundir import RunDir

DIFFUSERS_TOKENS = 77
"""Length of the text context that is read for a diffusers config."""


@app.command()
def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A run's folder, or an architecture (preset, file, diffusers' folder, "
            "RUN_DIR#TRIAL)."
        ),
    ],
    format: Annotated[str, typer.Option("--format", help=", ".join(EXPORTERS))],
    output: Annotated[
        Path, typer.Option(help="File to write (diffusers: folder); with --front a folder of them.")
    ],
    trial: Annotated[int | None, typer.Option(help="A trial by number.")] = None,
    knee: Annotated[bool, typer.Option("--knee", help="The front's knee.")] = False,
    min_latency: Annotated[
        bool, typer.Option("--min-latency", help="The front's cheapest.")
    ] = False,
    best_quality: Annotated[bool, typer.Option("--best-quality", help="The front's best.")] = False,
    front: Annotated[bool, typer.Option("--front", help="Every member of the front.")] = False,
    proxy: Annotated[
        bool, typer.Option("--proxy", help="The trained proxy instead of the deployed network.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights of an architecture: safetensors, our names or diffusers'."),
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite.")] = False,
) -> None:
    """Write an architecture in another format, at deployment scale; weights that a format needs are
    random unless given.

    With --proxy the small network that was trained is written, with its trained weights where the
    format holds weights.
    """
    chosen = [
        name
        for name, on in (
            ("knee", knee),
            ("min-latency", min_latency),
            ("best-quality", best_quality),
        )
        if on
    ]
    if len(chosen) + (trial is not None) + front > 1:
        raise InputError(
            "--trial, --knee, --min-latency, --best-quality and --front exclude each other, "
            "give one."
        )
    path = Path(source)
    if RunDir(path).study.is_file() and weights is not None:
        raise InputError(
            f"{weights}: --weights goes with an architecture; those of a run's members are "
            "written with --proxy."
        )
    if not path.is_dir() or (config_file(path) and not RunDir(path).study.is_file()):
        if chosen or front or trial is not None or proxy:
            raise InputError(f"{source}: is not a run's folder, so nothing can be chosen from it.")
        found = find_architecture(source)
        write(found.config, format, output, weights=weights, force=force, name=found.name)
        if format == "diffusers" and found.config.context_tokens != DIFFUSERS_TOKENS:
            console.print(
                "note: diffusers' config does not hold the length of the text context, "
                f"{found.config.context_tokens} tokens"
            )
        return say(f"{found.name} → {output}")
    if not (chosen or front or trial is not None):
        raise InputError(
            f"{source}: say which member: --knee, --min-latency, --best-quality, --front or "
            "--trial N."
        )
    run = RunDir(path)
    numbers = _numbers(run, trial, chosen[0] if chosen else None)
    suffix = EXPORTERS[format].suffix if format in EXPORTERS else ""
    for number in numbers:
        target = output / f"trial-{number}{suffix}" if front else output
        found, trained = _of_trial(run, number, proxy)
        holds = format in EXPORTERS and EXPORTERS[format].has_weights
        write(
            found.config,
            format,
            target,
            weights=trained if holds else None,
            force=force,
            name=found.name,
        )
        say(f"{found.name} → {target}")
    return None


def _numbers(run: RunDir, trial: int | None, how: str | None) -> list[int]:
    if trial is not None:
        return [trial]
    setting = run.setting()
    study = storage.load_study(run, setting)
    if how is not None:
        return [results.pick(run, study, setting.spec, how).number]
    members = [member.number for member in results.front(study)]
    if not members:
        raise InputError(f"{run.path}: has no finished trial yet.")
    return members


def _of_trial(run: RunDir, number: int, proxy: bool) -> tuple[Architecture, Path | None]:
    config, name = results.trial_config(run, number), f"{run.path.name}#{number}"
    if not proxy:
        return Architecture(name, config), None
    setting = run.setting()
    study = storage.load_study(run, setting)
    key = next(
        (t.user_attrs.get("key") for t in results.complete(study) if t.number == number), None
    )
    weights = run.weights / f"{key}.safetensors"
    if not weights.is_file():
        raise InputError(
            f"{run.path}: trial {number} has no weights; they are kept for the front and the "
            "presets only."
        )
    return Architecture(f"{name} (proxy)", setting.proxy(config)), weights


@app.command()
def init(
    folder: Annotated[
        Path, typer.Argument(help="Folder to fill; files that are there already stay as they are.")
    ],
) -> None:
    """Copy the shipped search spaces, latency tables and studies into a folder, to change and run
    there.
    """
    written = catalog.initialise(folder)
    for path in written:
        console.print(str(path), highlight=False)
    say(f"{len(written)} files. Next: archsearch run {folder / 'studies' / 'quickstart.yaml'}")
