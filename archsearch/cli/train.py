"""``archsearch train`` and ``archsearch generate``: one network by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from filelock import FileLock, Timeout

from archsearch import catalog
from archsearch.cli.app import (
    JsonOption,
    SetOption,
    app,
    heed_termination,
    print_json,
    print_table,
    progress_bar,
    say,
    told,
)
from archsearch.cli.arch import find_architecture
from archsearch.data.latent import latent_space
from archsearch.data.prepare import Prepared, prepare
from archsearch.data.text import text_encoder
from archsearch.diffusion.evaluate import held_out
from archsearch.diffusion.recipe import Recipe, pick_device
from archsearch.diffusion.sample import Conditions, Sampling, load_trained, sample, save_trained
from archsearch.diffusion.trainer import Trainer
from archsearch.errors import InputError
from archsearch.files import write_text
from archsearch.metrics.evaluate import seen_rows
from archsearch.metrics.networks import MAX_SEED
from archsearch.study.finish import save_grid
from archsearch.study.setting import check_data, load_setting
from archsearch.study.spec import StudySpec
from archsearch.unet.model import UNet

GRID_PICTURES = 64


@app.command()
def train(
    architecture: Annotated[
        str,
        typer.Argument(metavar="ARCH", help="A preset, file, diffusers' folder, or RUN_DIR#TRIAL."),
    ],
    output: Annotated[
        Path, typer.Option(help="Folder of the training; one that is there goes on.")
    ],
    study: Annotated[
        str, typer.Option(help="A study, by name or path: its data, proxy and sampling are used.")
    ] = "quickstart",
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures to see in all [default: the study's budget]."),
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
    setting = load_setting(catalog.find("study", study), settings or [])
    check_data(setting.document, setting.spec)
    spec, device = setting.spec, pick_device()
    config = setting.proxy(find_architecture(architecture).config)
    with progress_bar() as report:
        data = prepare(spec.data, spec.proxy.latent, report)
    goal = samples or spec.proxy.samples
    heed_termination()
    with (
        _alone(output),
        told("Interrupted. Run the same command to go on from the last checkpoint."),
    ):
        trainer = Trainer(config, data, spec.proxy.recipe, seed, device, output, tensorboard)
        with progress_bar() as report:
            trainer.run(
                goal,
                lambda seen, loss: report(
                    f"{seen:,} of {goal:,} pictures, loss {loss:.3f}", min(1.0, seen / goal)
                ),
            )
        trainer.save()
        scores = _finish(trainer, spec, output) | {"capped": trainer.samples < goal}
    if as_json:
        return print_json(scores)
    print_table(f"{architecture} → {output}", ["", ""], list(scores.items()))
    return say(
        f'Pictures: {output / "samples.png"}. Draw others with: archsearch generate {output} "a '
        'red heart" --output heart.png'
    )


def _finish(trainer: Trainer, spec: StudySpec, output: Path) -> dict[str, float]:
    """Score the averaged weights, keep them, and draw with them."""
    model, recipe, device = trainer.averaged(), spec.proxy.recipe, trainer.device
    found = held_out(model, trainer.data, recipe, device).scores()
    if trainer.log:
        trainer.log.scalar("val_loss", found["val_loss"], trainer.samples)
        trainer.log.close()
    scores = found | {"samples": trainer.samples, "seconds": round(trainer.seconds, 1)}
    data = spec.data
    conditions = Conditions(
        text=data.text, tokens=data.tokens, latent=recipe.latent, prediction=recipe.prediction
    )
    save_trained(output, model, conditions, scores)
    _draw_seen(model, trainer.data, spec.sampling, recipe, device, output / "samples.png")
    return scores


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder against a second training."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise InputError(f"--output: another training is at work in {folder}.") from None


def _draw_seen(
    model: UNet,
    data: Prepared,
    sampling: Sampling,
    recipe: Recipe,
    device: torch.device,
    path: Path,
) -> None:
    """Pictures of captions seen in training, their captions beside them as text."""
    index = seen_rows(data.train, GRID_PICTURES)
    chosen = sampling.at(max(sampling.searched)) if sampling.searched else sampling
    pictures = sample(
        model,
        data.context[index],
        data.null_context,
        chosen,
        1,
        device,
        data.latent,
        recipe.prediction,
    )
    save_grid(pictures, path)
    write_text(path.with_suffix(".txt"), "\n".join(data.captions[i] for i in index.tolist()) + "\n")


@app.command()
def generate(
    folder: Annotated[Path, typer.Argument(help="Folder that `archsearch train` made.")],
    prompts: Annotated[list[str], typer.Argument(help="What to draw, one picture each.")],
    output: Annotated[Path, typer.Option(help="PNG to write, eight pictures a row.")],
    steps: Annotated[int, typer.Option(min=1, max=1000, help="DDIM steps.")] = 30,
    guidance: Annotated[
        float, typer.Option(min=1, max=30, help="Classifier-free guidance; 1 is none.")
    ] = 3.0,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the noise.")] = 0,
) -> None:
    """Draw pictures with a trained network."""
    if output.suffix.lower() != ".png":
        raise InputError(f"--output: must end in .png, but got '{output}'.")
    device = pick_device()
    trained = load_trained(folder, device)
    encoder = text_encoder(trained.conditions.text)
    context = encoder.encode((*prompts, ""), trained.conditions.tokens)
    pictures = sample(
        trained.model,
        context[:-1],
        context[-1],
        Sampling(steps=steps, guidance=guidance),
        seed,
        device,
        latent_space(trained.conditions.latent),
        trained.conditions.prediction,
    )
    save_grid(pictures, output)
    say(f"{len(prompts)} picture{'' if len(prompts) == 1 else 's'} → {output}")
