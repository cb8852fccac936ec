"""``archsearch export`` and ``archsearch init``: take files away."""

from pathlib import Path
from typing import Annotated

import typer

from archsearch import catalog
from archsearch.api import Study
from archsearch.cli.app import app, complain, quoted, say
from archsearch.errors import InputError
from archsearch.export.formats import EXPORTERS
from archsearch.export.formats import export as write
from archsearch.study.rundir import RunDir

DIFFUSERS_TOKENS = 77  # length of the text context that is read for a diffusers config


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
        Path,
        typer.Option(help="File to write (diffusers: folder); with --front a folder of them."),
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
    hows = {"knee": knee, "min-latency": min_latency, "best-quality": best_quality}
    chosen = [name for name, on in hows.items() if on]
    given = len(chosen) + (trial is not None) + front
    if given > 1:
        raise InputError(
            "--trial, --knee, --min-latency, --best-quality and --front exclude each other, "
            "give one."
        )
    path = Path(source)
    is_run = RunDir(path).study.is_file()
    if is_run and weights is not None and (given or proxy):
        raise InputError(
            f"{weights}: --weights goes with an architecture; those of a run's members are "
            "written with --proxy."
        )
    if given and not path.is_dir():
        raise InputError(f"{source}: is not a run's folder, so nothing can be chosen from it.")
    if not given and not (path.is_dir() and catalog.config_file(path) is None):
        if proxy:
            raise InputError(f"{source}: is not a run's folder, so nothing can be chosen from it.")
        found = catalog.load_architecture(source)
        write(found.config, format, output, weights=weights, force=force, name=found.name)
        _say_if_random(format, weights)
        if format == "diffusers" and found.config.context_tokens != DIFFUSERS_TOKENS:
            say(
                "note: diffusers' config does not hold the length of the text context, "
                f"{found.config.context_tokens} tokens"
            )
        return say(f"{found.name} → {output}")
    if not given:
        raise InputError(
            f"{source}: say which member: --knee, --min-latency, --best-quality, --front or "
            "--trial N."
        )
    study = Study.open(path)
    if trial is not None:
        numbers = [trial]
    elif chosen:
        numbers = [study.results.pick(chosen[0]).number]
    else:
        numbers = [member.number for member in study.results.front()]
        if not numbers:
            raise InputError(f"{path}: has no finished trial yet.")
    exporter, trained = EXPORTERS.get(format), None
    for number in numbers:
        target = (
            output / f"trial-{number}{exporter.suffix if exporter else ''}" if front else output
        )
        found = catalog.Architecture(f"{path.name}#{number}", study.network(number))
        if proxy:
            trained = study.results.weights(number)
            found = catalog.Architecture(f"{found.name} (proxy)", study.setting.proxy(found.config))
        held = trained if exporter and exporter.has_weights else None
        write(found.config, format, target, weights=held, force=force, name=found.name)
        say(f"{found.name} → {target}")
    _say_if_random(format, trained)


def _say_if_random(format: str, weights: Path | None) -> None:
    if EXPORTERS[format].has_weights and weights is None:
        complain(
            "note: its weights are random numbers: good for measuring speed, not for pictures. "
            "Trained ones go in with --weights FILE, or with --proxy the small network that a "
            "run has trained."
        )


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
        say(str(path))
    say(f"{len(written)} files. Next: archsearch run {quoted(folder / 'studies/quickstart.yaml')}")
