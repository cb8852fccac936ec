"""``archsearch data`` and ``archsearch evaluate``: captioned pictures, and scores of pictures."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from archsearch import catalog, documents
from archsearch.cli.app import (
    JsonOption,
    Report,
    SetOption,
    app,
    complain,
    group,
    print_json,
    print_table,
    progress_bar,
    say,
)
from archsearch.data.prepare import Prepared, prepare
from archsearch.errors import InputError, nearest
from archsearch.files import expanded
from archsearch.metrics.base import Reference
from archsearch.metrics.distances import FEWEST_REAL
from archsearch.metrics.evaluate import (
    BATCH,
    FolderReference,
    PictureFolder,
    SavedReference,
    build_metrics,
    evaluate_batches,
    load_networks,
    save_reference,
    scan,
)
from archsearch.metrics.networks import MAX_SEED, MetricSettings, Networks
from archsearch.metrics.registry import METRICS, check_settings
from archsearch.study.setting import check_data, located, resolve_data
from archsearch.study.spec import StudySpec

data_app = group("data", "Prepare and look at a study's captioned pictures.")
StudyArgument = Annotated[
    str, typer.Argument(help="A study, by name or path: its data section is used.")
]


def _prepare(study: str, settings: list[str] | None) -> tuple[StudySpec, Prepared]:
    document = documents.override(documents.read(catalog.find("study", study)), settings or [])
    spec = resolve_data(document, documents.validate(document, StudySpec))
    check_data(document, spec)
    with located(document), progress_bar() as report:
        return spec, prepare(spec.data, spec.proxy.latent, report)


def _summary(spec: StudySpec, data: Prepared) -> dict[str, Any]:
    """What the data hold, as plain values."""
    encoder = data.encoder
    return {
        "source": ", ".join(spec.data.sources),
        **({"path": spec.data.path} if spec.data.path else {}),
        "size": spec.data.size,
        "pictures": len(data.images),
        "skipped": [asdict(skipped) for skipped in data.skipped],
        "families": len(set(data.families)),
        "train": len(data.train),
        "held_out": len(data.held_out),
        "encoder": f"{encoder.name} {encoder.version}" if encoder else None,
        "context": [data.context.shape[1], data.context.shape[2]],
        "latent": data.latent.name,
        "sample": list(data.samples(data.train[:1]).shape[1:]),
        "fingerprint": data.fingerprint,
    }


@data_app.command("prepare")
def prepare_(study: StudyArgument = "quickstart", settings: SetOption = None) -> None:
    """Load the pictures, encode the captions, and the pictures where the latent space is an
    autoencoder's; cache it all.
    """
    spec, data = _prepare(study, settings)
    source = ", ".join(spec.data.sources)
    say(f"{source}: {len(data.images)} pictures ready, fingerprint {data.fingerprint[:16]}")
    for skipped in data.skipped:
        say(f"left out: {skipped}")


@data_app.command()
def show(
    study: StudyArgument = "quickstart",
    settings: SetOption = None,
    grid: Annotated[
        Path | None, typer.Option(help="Write 64 of the pictures into this PNG.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the data holds: counts, the split, some captions."""
    spec, data = _prepare(study, settings)
    examples = [
        data.captions[i] for i in data.held_out[:: max(1, len(data.held_out) // 5)].tolist()
    ][:5]
    summary = _summary(spec, data) | {"held_out_examples": examples}
    if grid:
        from archsearch.study.finish import save_grid

        save_grid(data.images[:: max(1, len(data.images) // 64)][:64], grid)
    if as_json:
        return print_json(summary)
    told = summary | {
        "skipped": "; ".join(map(str, data.skipped)) or "none",
        "held_out_examples": "; ".join(examples),
    }
    return print_table(None, ["", ""], [(key, str(value)) for key, value in told.items()])


FEWEST_PICTURES = 3
DEFAULT_SIZE = 299
_SHOWN = ("low", "high", "floor", "floor_sd")


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
    asked = _asked(metrics)
    settings = MetricSettings(inception=inception and expanded(inception), clip=clip, seed=seed)
    _check_files(asked or [], settings)
    with progress_bar() as report:
        networks = load_networks(asked or _free(settings, text=True), settings)
        data, side = _reference(reference, size, report)
        pictures = scan(images, side, lambda fraction: report("reading pictures", fraction))
        _warn(pictures)
        if len(pictures.paths) < FEWEST_PICTURES:
            raise InputError(
                f"{images}: at least {FEWEST_PICTURES} usable pictures are needed, but got "
                f"{len(pictures.paths)}."
            )
        names = _names(asked, settings, pictures, data, reference)
        report("real pictures", 0.0)
        built = build_metrics(names, data, settings, networks)
        order = torch.randperm(
            len(pictures.paths), generator=torch.Generator().manual_seed(seed)
        ).tolist()[:limit]
        batches = _reported(pictures, order, report)
        values = evaluate_batches(built, batches)
        if save:
            save_reference(save, data, _used(networks, names), side)
    _print(names, values, len(order), pictures, data, side, as_json)
    if save and not as_json:
        say(f"real pictures' features: {save}")


def _asked(metrics: str | None) -> list[str] | None:
    if metrics is None:
        return None
    names = list(dict.fromkeys(name.strip() for name in metrics.split(",") if name.strip()))
    allowed = [name for name, info in METRICS.items() if info.prompts == "seen"]
    for name in names or [""]:
        if name not in allowed:
            raise InputError(
                f"--metrics: unknown score '{name}'.{nearest(name, allowed)} Allowed: "
                f"{', '.join(allowed)}."
            )
    return names


def _check_files(names: list[str], settings: MetricSettings) -> None:
    if settings.inception is not None and not settings.inception.is_file():
        raise InputError(f"--inception: {settings.inception}: no such file.")
    for name in names:
        check_settings(name, settings, at="--metrics", give=f"--{METRICS[name].needs_setting}")


def _free(settings: MetricSettings, text: bool) -> list[str]:
    """Scores of the given pictures that need nothing which is not given."""
    return [
        name
        for name, info in METRICS.items()
        if info.prompts == "seen"
        and (text or info.axis != "text")
        and (info.needs_setting is None or getattr(settings, info.needs_setting) is not None)
    ]


def _names(
    asked: list[str] | None,
    settings: MetricSettings,
    pictures: PictureFolder,
    data: Reference,
    reference: str,
) -> list[str]:
    """The scores to compute: those asked for, or all that what is there allows."""
    lacking = [
        name
        for name, there in ((str(pictures.folder), pictures.captions), (reference, data.captions))
        if not there
    ]
    if asked is None:
        return _free(settings, text=not lacking)
    for name in asked:
        if METRICS[name].axis == "text" and not pictures.captions:
            raise InputError(
                f"--metrics: {name} needs a caption for each picture of {pictures.folder}: "
                "NAME.txt beside it, or metadata.jsonl."
            )
    return asked


def _reference(reference: str, size: int | None, report: Report) -> tuple[Reference, int]:
    """The real pictures, and the side at which pictures are read."""
    path = expanded(reference)
    if path.is_dir():
        side = size or DEFAULT_SIZE
        found = scan(path, side, lambda fraction: report("reading real pictures", fraction))
        _warn(found)
        data: Reference = FolderReference(
            found, lambda fraction: report("features of real pictures", fraction)
        )
    elif path.suffix == ".safetensors":
        saved = SavedReference(path)
        data, side = saved, _same_size(size, saved.size or DEFAULT_SIZE, reference)
    else:
        document = documents.read(catalog.find("study", reference))
        spec = resolve_data(document, documents.validate(document, StudySpec))
        check_data(document, spec)
        with located(document):
            data = prepare(
                spec.data, spec.proxy.latent, report
            )  # as the study does it: what it has cached is found
        side = _same_size(size, spec.data.size, reference)
    if len(data.train) < FEWEST_REAL:
        raise InputError(
            f"--reference: {reference}: at least {FEWEST_REAL} real pictures are needed, but "
            f"got {len(data.train)}."
        )
    return data, side


def _same_size(given: int | None, side: int, reference: str) -> int:
    if given is not None and given != side:
        raise InputError(
            f"--size: {given}, but the pictures of {reference} are {side} pixels wide. Leave "
            "--size out."
        )
    return side


def _warn(pictures: PictureFolder) -> None:
    if pictures.skipped:
        complain(f"warning: {pictures.folder}: left out: {'; '.join(map(str, pictures.skipped))}")


def _reported(pictures: PictureFolder, order: list[int], report: Report) -> Any:
    for number, batch in enumerate(pictures.batches(order, BATCH)):
        yield batch
        report("scoring", min(1.0, (number + 1) * BATCH / len(order)))


def _used(networks: Networks, names: list[str]) -> list[Any]:
    """The networks whose features of real pictures these scores use; EfficientNet's always, for it
    is free.
    """
    needed = {METRICS[name].needs_setting for name in names}
    used = [networks.effnet]
    used += [networks.inception] if "inception" in needed else []
    return used + ([networks.clip_images] if "clip" in needed else [])


def _print(
    names: list[str],
    values: dict[str, dict[str, float]],
    count: int,
    pictures: PictureFolder,
    data: Reference,
    side: int,
    as_json: bool,
) -> None:
    if as_json:
        scores = {
            name: {
                "value": values[name][name],
                "axis": METRICS[name].axis,
                "direction": METRICS[name].direction,
            }
            | {
                key.removeprefix(f"{name}_"): value
                for key, value in values[name].items()
                if key != name
            }
            for name in names
        }
        return print_json(
            {
                "pictures": count,
                "skipped": sum(skipped.count for skipped in pictures.skipped),
                "real_pictures": len(data.train),
                "size": side,
                "reference": data.fingerprint,
                "scores": scores,
            }
        )
    rows = [
        [
            name,
            METRICS[name].axis,
            values[name][name],
            *(values[name].get(f"{name}_{key}", "–") for key in _SHOWN),
            _better(name),
        ]
        for name in names
    ]
    columns = ["score", "axis", "value", "95 % from", "to", "floor", "± sd", "better"]
    return print_table(
        f"{count} pictures against {len(data.train)} real ones, at {side} px", columns, rows
    )


def _better(name: str) -> str:
    return "lower" if METRICS[name].direction == "minimize" else "higher"
