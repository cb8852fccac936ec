"""``archsearch export`` and ``archsearch init``: take files away."""

from pathlib import Path
from typing import Annotated

import typer

from archsearch import catalog
from archsearch.api import Study
from archsearch.cli.app import app, complain, interruptible, progress_bar, quoted, say
from archsearch.cli.data import prepare_study
from archsearch.data.prepare import prepare
from archsearch.diffusion.trained import DESCRIPTION, WEIGHTS, Conditions, read_conditions
from archsearch.errors import InputError, check_known
from archsearch.export.card import About, about_architecture, about_trained, about_trial
from archsearch.export.formats import EXPORTERS
from archsearch.export.formats import export as write
from archsearch.export.onnx import Pictures, pictures_of
from archsearch.study.rundir import RunDir
from archsearch.unet.config import UNetConfig

DIFFUSERS_TOKENS = 77  # length of the text context that is read for a diffusers config


@app.command()
def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A run's folder, the folder of a trained network, or an architecture (preset, "
            "file, diffusers' folder, RUN_DIR#TRIAL or #knee)."
        ),
    ],
    format: Annotated[str, typer.Option("--format", help=", ".join(EXPORTERS))],
    output: Annotated[
        Path,
        typer.Option(
            help="File to write (diffusers, pipelines: folder); with --front, or several --trial, "
            "a folder of them."
        ),
    ],
    trial: Annotated[
        list[int] | None, typer.Option(help="A trial by number; may be given several times.")
    ] = None,
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
    study: Annotated[
        str | None,
        typer.Option(
            help="int8 with --weights: the study whose training pictures it is calibrated on."
        ),
    ] = None,
    runtime_python: Annotated[
        Path | None,
        typer.Option(help="executorch: a Python that has it, where this one has not."),
    ] = None,
    ios: Annotated[
        int | None,
        typer.Option(help="coreml: the first iOS that is to run it, 17 (by default) or 18."),
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite.")] = False,
) -> None:
    """Write an architecture in another format, at deployment scale, and a card that says what it
    is; weights that a format needs are random unless given.

    A network that `archsearch train` or `archsearch distill` made is written with its weights; with
    --proxy, so is the small network that a run has trained. These two the formats pipeline and
    pipeline-int8 take: a folder that draws pictures without archsearch and torch.
    """
    hows = {"knee": knee, "min-latency": min_latency, "best-quality": best_quality}
    chosen = [name for name, on in hows.items() if on]
    given = len(chosen) + bool(trial) + front
    if given > 1:
        raise InputError(
            "--trial, --knee, --min-latency, --best-quality and --front exclude each other, "
            "give one."
        )
    check_known(format, EXPORTERS, f"'{format}' is not an export format")
    exporter = EXPORTERS[format]
    path = Path(source)
    run, separator, _ = source.rpartition("#")
    if separator and proxy and not given:
        path, trial, given = Path(run), [catalog.trial_number(source)], 1
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
        about, conditions = _about(source, weights), None
        if weights is None and (path / DESCRIPTION).is_file():
            conditions = read_conditions(path)
            about = about_trained(path, conditions)
            weights = path / WEIGHTS if exporter.has_weights else None
        pictures = None
        if weights is not None and "pictures" in exporter.takes:
            pictures = _pictures_for(found.config, path, study, conditions)
        card = write(
            found.config, format, output, weights, force, found.name, about, pictures,
            runtime_python, conditions, ios,
        )  # fmt: skip
        _say_if_random(format, weights)
        if format == "diffusers" and found.config.context_tokens != DIFFUSERS_TOKENS:
            say(
                "note: diffusers' config does not hold the length of the text context, "
                f"{found.config.context_tokens} tokens"
            )
        return say(f"{found.name} → {output}, card: {card}")
    if not given:
        raise InputError(
            f"{source}: say which member: --knee, --min-latency, --best-quality, --front or "
            "--trial N."
        )
    opened = Study.open(path)
    if trial:
        numbers = list(dict.fromkeys(trial))
    elif chosen:
        numbers = [opened.results.pick(chosen[0]).number]
    else:
        numbers = [member.number for member in opened.results.front()]
        if not numbers:
            raise InputError(f"{path}: has no finished trial yet.")
    networks = {number: opened.network(number) for number in numbers}  # before the first is written
    held: dict[int, Path] = {}
    pictures = None
    if proxy:
        networks = {number: opened.setting.proxy(each) for number, each in networks.items()}
        if exporter.has_weights:
            held = {number: opened.results.weights(number) for number in numbers}
        if "pictures" in exporter.takes:
            pictures = _pictures(opened)
    for number, network in networks.items():
        several = front or len(numbers) > 1
        target = output / f"trial-{number}{exporter.suffix}" if several else output
        name = f"{path.name}#{number}{' (proxy)' if proxy else ''}"
        about = about_trial(opened.results, number, proxy)
        card = write(
            network, format, target, held.get(number), force, name, about, pictures,
            runtime_python, opened.conditions, ios,
        )  # fmt: skip
        say(f"{name} → {target}, card: {card}")
    return _say_if_random(format, next(iter(held.values()), None))


def _about(source: str, weights: Path | None) -> About:
    # What a run knows of RUN_DIR#TRIAL, as much as it knows of --trial.
    run, separator, _ = source.rpartition("#")
    if separator and weights is None:
        number = catalog.trial_number(source)
        return about_trial(Study.open(run).results, number, proxy=False)
    return about_architecture(source, weights)


def _pictures(study: Study) -> Pictures:
    with interruptible(), progress_bar() as report:
        return pictures_of(study.prepare(report=report).data, study.spec.proxy.recipe)


def _pictures_for(
    network: UNetConfig, folder: Path, study: str | None, conditions: Conditions | None
) -> Pictures | None:
    # Those of the study that is named, else those that a trained network says it learned from.
    guidance = conditions.guidance if conditions and network.guidance_dim else None
    with interruptible(), progress_bar() as report:
        if study is not None:
            spec, data = prepare_study(study, None, report)
            return pictures_of(data, spec.proxy.recipe, guidance)
        if conditions is None:
            return None
        source, recipe = conditions.to_learn_from(folder)
        return pictures_of(prepare(source, conditions.latent, report), recipe, guidance)


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
