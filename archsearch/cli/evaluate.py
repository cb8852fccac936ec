"""``archsearch evaluate``: scores of a folder of pictures."""

from pathlib import Path
from typing import Annotated

import typer

from archsearch.cli.app import (
    JsonOption,
    Report,
    app,
    check_file,
    complain,
    interruptible,
    print_json,
    print_table,
    progress_bar,
    say,
)
from archsearch.cli.data import prepare_study
from archsearch.errors import InputError, check_known
from archsearch.files import expanded
from archsearch.metrics.base import Reference
from archsearch.metrics.distances import FEWEST_REAL
from archsearch.metrics.evaluate import (
    FEWEST_PICTURES,
    PictureFolder,
    SavedReference,
    available,
    evaluate_folder,
    load_networks,
    save_reference,
    scan,
)
from archsearch.metrics.registry import METRICS, check_settings
from archsearch.metrics.spec import MAX_SEED, MetricSettings
from archsearch.study.spec import StudySpec

DEFAULT_SIZE = 299
_COLUMNS = ["score", "axis", "value", "95 % from", "to", "floor", "± sd", "better"]


@app.command("evaluate")
def evaluate_(
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES", help="Folder of pictures to score, with those in its folders."
        ),
    ],
    reference: Annotated[
        str,
        typer.Option(
            "--reference",
            metavar="DATA",
            help="Real pictures: a folder, a study, or a saved .safetensors file.",
        ),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Scores to compute. Default: all that what is given allows."
        ),
    ] = None,
    inception: Annotated[
        Path | None, typer.Option(help="FID's network as TorchScript, for fid and kid.")
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(metavar="ID", help="A CLIP, as a hub id or folder, for clip_score and cmmd."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=8, help="Side to which pictures are resized and cropped. Default: 299; the study's."
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=MAX_SEED, help="Seed of the draws of real pictures, and of --limit."
        ),
    ] = 0,
    limit: Annotated[
        int | None,
        typer.Option(min=FEWEST_PICTURES, help="Score a draw of at most this many pictures."),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save-reference",
            metavar="FILE",
            help="Write the features of the real pictures, for later.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a folder of pictures against real ones: how near they are to them, and how well they
    fit their captions.
    """
    check_file("--save-reference", save, ".safetensors")
    if not images.is_dir():  # before the real ones are read
        raise InputError(f"{images}: no such folder of pictures.")
    settings = MetricSettings(inception=inception and expanded(inception), clip=clip, seed=seed)
    names = _asked(metrics, settings)
    networks = load_networks(names or available(settings), settings)
    with interruptible(), progress_bar() as report:
        real, side = _reference(reference, size, report)
        pictures = _scan(images, side, report)
        found = evaluate_folder(pictures, real, settings, names, networks, limit)
        scores = found["scores"]
        if save:
            brought = {METRICS[name].needs_setting for name in scores}
            # Those of EfficientNet are always kept, for they need nothing of the user.
            extractors = [networks.effnet]
            extractors += [networks.inception] if "inception" in brought else []
            extractors += [networks.clip] if "clip" in brought else []
            save_reference(save, real, extractors, side)
    if as_json:
        return print_json(found)
    rows = [
        [
            name,
            score["axis"],
            *(score.get(key, "–") for key in ("value", "low", "high", "floor", "floor_sd")),
            "lower" if score["direction"] == "minimize" else "higher",
        ]
        for name, score in scores.items()
    ]
    against = f"{found['pictures']} pictures against {found['real_pictures']} real ones"
    print_table(f"{against}, at {side} px", _COLUMNS, rows)
    if save:
        say(f"real pictures' features: {save}")


def _asked(metrics: str | None, settings: MetricSettings) -> list[str] | None:
    if settings.inception is not None and not settings.inception.is_file():
        raise InputError(f"--inception: {settings.inception}: no such file.")
    if metrics is None:
        return None
    names = list(dict.fromkeys(name.strip() for name in metrics.split(",") if name.strip()))
    allowed = [name for name, info in METRICS.items() if info.prompts == "seen"]
    for name in names or [""]:
        check_known(name, allowed, f"--metrics: '{name}' is not known")
        check_settings(name, settings, at="--metrics", give=f"--{METRICS[name].needs_setting}")
    return names


def _reference(reference: str, size: int | None, report: Report) -> tuple[Reference, int]:
    path = expanded(reference)
    real: Reference
    if path.is_dir():
        real = _scan(path, size or DEFAULT_SIZE, report)
        side = real.size
    elif path.suffix == ".safetensors":
        real = SavedReference(path)
        side = real.size
    elif len(path.parts) > 1 and not path.exists():
        raise InputError(
            f"--reference: {reference}: there is no such folder, study, or .safetensors file that "
            "--save-reference has written."
        )
    else:
        spec, real = _study_data(reference, report)
        side = spec.data.size
    if size not in (None, side):
        raise InputError(
            f"--size: {size}, but the pictures of {reference} are {side} pixels wide. Leave "
            "--size out."
        )
    if len(real.train) < FEWEST_REAL:
        raise InputError(
            f"--reference: {reference}: at least {FEWEST_REAL} real pictures are needed, but "
            f"got {len(real.train)}."
        )
    return real, side


def _study_data(reference: str, report: Report) -> tuple[StudySpec, Reference]:
    try:
        return prepare_study(reference, None, report)
    except InputError as error:
        if not str(error).startswith(f"study '{reference}' is not known"):
            raise
        raise InputError(f"--reference: is no folder of pictures, and {error}") from error


def _scan(folder: Path, size: int, report: Report) -> PictureFolder:
    found = scan(folder, size, report)
    if found.skipped:
        complain(f"warning: {folder}: left out: {'; '.join(map(str, found.skipped))}")
    return found
