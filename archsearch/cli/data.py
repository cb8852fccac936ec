"""``archsearch data``: fetch, encode and look at a study's pictures."""

from pathlib import Path
from typing import Annotated, Any

import typer

from archsearch import documents, resources
from archsearch.cli.app import group
from archsearch.cli.console import JsonOption, SetOption, print_json, print_table, progress_bar, say
from archsearch.data.prepare import Prepared, prepare
from archsearch.data.spec import DataSpec
from archsearch.study.spec import StudySpec

data_app = group("data", "Prepare and look at a study's captioned pictures.")
StudyArgument = Annotated[str, typer.Argument(help="A study, by name or path: its data section is used.")]


def _prepare(study: str, settings: list[str] | None) -> tuple[DataSpec, Prepared]:
    document = documents.override(documents.read(resources.find("study", study)), settings or [])
    spec = documents.validate(document, StudySpec).data
    with progress_bar() as report:
        return spec, prepare(spec, progress=report)


@data_app.command("prepare")
def prepare_(study: StudyArgument = "quickstart", settings: SetOption = None) -> None:
    """Load the pictures, encode the captions, and cache both."""
    spec, data = _prepare(study, settings)
    say(f"{spec.source}: {len(data.images)} pictures ready, fingerprint {data.fingerprint[:16]}")


@data_app.command()
def show(
    study: StudyArgument = "quickstart",
    settings: SetOption = None,
    grid: Annotated[Path | None, typer.Option(help="Write 64 of the pictures into this PNG.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the data holds: counts, the split, some captions."""
    spec, data = _prepare(study, settings)
    examples = [data.captions[i] for i in data.held_out[:: max(1, len(data.held_out) // 5)].tolist()][:5]
    summary: dict[str, Any] = {
        "source": spec.source,
        "size": spec.size,
        "pictures": len(data.images),
        "families": len(set(data.families)),
        "train": len(data.train),
        "held_out": len(data.held_out),
        "context": [data.context.shape[1], data.context.shape[2]],
        "fingerprint": data.fingerprint,
        "held_out_examples": examples,
    }
    if grid:
        from archsearch.study.finish import save_grid

        save_grid(data.images[:: max(1, len(data.images) // 64)][:64], grid)
    if as_json:
        return print_json(summary)
    return print_table(
        None, ["", ""], [(key, "; ".join(value) if key == "held_out_examples" else str(value)) for key, value in summary.items()]
    )
