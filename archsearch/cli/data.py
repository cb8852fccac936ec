"""``archsearch data``: the captioned pictures of a study."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from archsearch import catalog
from archsearch.cli.app import (
    JsonOption,
    Report,
    SetOption,
    check_file,
    group,
    interruptible,
    print_json,
    print_table,
    progress_bar,
    say,
)
from archsearch.data.pictures import licences
from archsearch.data.prepare import Prepared, prepare
from archsearch.study.setting import check_data, located, read_study
from archsearch.study.spec import StudySpec

data_app = group("data", "Prepare and look at a study's captioned pictures.")
StudyArgument = Annotated[
    str, typer.Argument(help="A study, by name or path: its data section is used.")
]


def prepare_study(
    study: str, settings: list[str] | None, report: Report
) -> tuple[StudySpec, Prepared]:
    """Read a study and prepare its data as the study does it: what it has cached is found."""
    document, spec = read_study(catalog.find("study", study), settings or [])
    check_data(document, spec)
    with located(document):
        return spec, prepare(spec.data, spec.proxy.latent, report)


def _summary(spec: StudySpec, data: Prepared) -> dict[str, Any]:
    encoder = data.encoder
    return {
        "source": ", ".join(spec.data.sources),
        **({"path": spec.data.path} if spec.data.path else {}),
        "licences": licences(spec.data),
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
    with interruptible(), progress_bar() as report:
        spec, data = prepare_study(study, settings, report)
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
    check_file("--grid", grid, ".png")
    with interruptible(), progress_bar() as report:
        spec, data = prepare_study(study, settings, report)
    examples = [
        data.captions[i] for i in data.held_out[:: max(1, len(data.held_out) // 5)].tolist()
    ][:5]
    summary = _summary(spec, data) | {"held_out_examples": examples}
    if grid:
        from archsearch.study.finish import save_grid

        save_grid(data.images[:: max(1, len(data.images) // 64)][:64], grid)
    if as_json:
        return print_json(summary)
    licences = "; ".join(f"{name}: {licence}" for name, licence in summary["licences"].items())
    told = summary | {
        "licences": licences or "as you know them",
        "skipped": "; ".join(map(str, data.skipped)) or "none",
        "held_out_examples": "; ".join(examples),
    }
    return print_table(None, ["", ""], [(key, str(value)) for key, value in told.items()])
