"""``archsearch train`` and ``archsearch generate``: one network by itself."""

from pathlib import Path
from typing import Annotated

import typer

from archsearch import api
from archsearch.adapters.generate import generate as draw
from archsearch.cli.app import (
    JsonOption,
    SetOption,
    app,
    check_file,
    heed_termination,
    interruptible,
    print_json,
    print_table,
    progress_bar,
    quoted,
    say,
)
from archsearch.documents import read_text
from archsearch.errors import InputError
from archsearch.metrics.spec import MAX_SEED
from archsearch.study.finish import save_grid


@app.command()
def train(
    architecture: Annotated[
        str,
        typer.Argument(
            metavar="ARCH", help="A preset, file, diffusers' folder, RUN_DIR#TRIAL or RUN_DIR#knee."
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="Folder of the training; one that is there goes on.")
    ],
    study: Annotated[
        str, typer.Option(help="A study, by name or path: its data, proxy and sampling are used.")
    ] = "quickstart",
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures to see in all (by default the study's budget)."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the training.")] = 0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's events too.")
    ] = False,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train one network as a study trains its candidates, for as long as you like. The same command
    again goes on.

    It is the proxy of ARCH that is trained, as the study's section says; --set proxy.width=1 trains
    it at full width.
    """
    overrides = [*(settings or []), *(["engine.tensorboard=true"] if tensorboard else [])]
    search = api.Study(study, output, overrides)
    network = api.arch(architecture)
    heed_termination()
    with interruptible(kept="the last checkpoint is kept"), progress_bar() as report:
        scores = search.train(network, samples, seed, report)
    if as_json:
        return print_json(scores)
    print_table(f"{architecture} → {output}", ["", ""], list(scores.items()))
    return say(
        f"Pictures: {output / 'samples.png'}. Draw others with: archsearch generate "
        f'{quoted(output)} "a red heart" --output heart.png'
    )


@app.command()
def generate(
    folder: Annotated[
        Path, typer.Argument(help="Folder that `archsearch train` or `archsearch distill` made.")
    ],
    output: Annotated[Path, typer.Option(help="PNG to write, eight pictures a row.")],
    prompts: Annotated[
        list[str] | None, typer.Argument(help="What to draw, one picture each.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A further prompt, as diffusers' scripts name it; several times too."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A text file with further prompts, one a line.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            help="DDIM steps (by default as its study says, or as many as it was distilled to).",
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=30,
            help="Classifier-free guidance (by default as its study says); 1 is none.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the noise.")] = 0,
    adapter: Annotated[
        list[Path] | None,
        typer.Option(
            help="What `archsearch adapt` made, folder or file. May be given several times: LoRAs, "
            "and one that heeds a picture."
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="control: a picture whose edges are kept. inpaint: one whose part is drawn anew."
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="inpaint: a picture that is white where it is drawn anew.")
    ] = None,
) -> None:
    """Draw pictures with a trained network, and what `archsearch adapt` made for it."""
    check_file("--output", output, ".png")
    asked = [*(prompts or []), *(prompt or []), *(_lines(file) if file else [])]
    if not asked:
        raise InputError("no prompts are given; say what to draw, or name a --file of prompts.")
    drawn = draw(folder, asked, steps, guidance, seed, adapter or (), picture, mask)
    save_grid(drawn, output)
    say(f"{len(asked)} picture{'' if len(asked) == 1 else 's'} → {output}")


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]
