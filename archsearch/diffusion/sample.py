"""Pictures drawn by a trained network, and the folder it is kept in."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import safetensors.torch
import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
)
from torch import Tensor

from archsearch import documents, files
from archsearch.catalog import read_config
from archsearch.data.latent import PIXELS, LatentSpace, latent_space
from archsearch.data.text import text_encoder
from archsearch.diffusion.recipe import Prediction, make_scheduler, pick_device
from archsearch.errors import InputError
from archsearch.unet.model import UNet
from archsearch.unet.weights import load_weights

VERSION = 2  # changes whenever a network would draw other pictures

Steps = Annotated[int, Field(ge=1, le=1000)]


def _form(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "int"


class Sampling(BaseModel):
    """How pictures are drawn."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    steps: Annotated[
        Annotated[Steps, Tag("int")]
        | Annotated[tuple[Steps, ...], Tag("list"), Field(min_length=1)],
        Discriminator(_form),
    ] = 20
    """DDIM steps, each two forward passes under guidance. A list is searched: every trial takes one
    of its numbers.
    """
    guidance: float = Field(default=3.0, ge=1, le=30)
    """Classifier-free guidance; 1 is none, and saves the second pass."""

    @field_validator("steps")
    @classmethod
    def _different(cls, steps: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(steps, tuple) and len(set(steps)) < len(steps):
            raise ValueError(f"must differ, but got {list(steps)}")
        return steps

    @property
    def searched(self) -> tuple[int, ...]:
        """The numbers of steps that a trial may take, where they are searched; else empty."""
        return self.steps if isinstance(self.steps, tuple) else ()

    def at(self, steps: int | None) -> "Sampling":
        """The same with the number of steps a trial has chosen; None where there is nothing to
        choose.
        """
        return self if steps is None else self.model_copy(update={"steps": steps})


@torch.no_grad()
def sample(
    model: UNet,
    context: Tensor,
    null_context: Tensor,
    sampling: Sampling,
    seed: int,
    device: torch.device,
    latent: LatentSpace = PIXELS,
    prediction: Prediction = "v",
    batch: int = 32,
) -> Tensor:
    """Draw one picture for each caption.

    Args:
        model: Trained network.
        context: Text features (N, tokens, width).
        null_context: Features of the empty caption (tokens, width).
        sampling: Steps and guidance, one number of steps.
        seed: Seed of the initial noise; picture i starts from the same noise for every network.
        device: Where to compute.
        latent: The space the network was trained in.
        prediction: What the network predicts.
        batch: Pictures at a time.

    Returns:
        Pictures (N, 3, H, W), bytes.

    Raises:
        ValueError: The number of steps is still to be chosen.
    """
    if isinstance(sampling.steps, tuple):
        raise ValueError(
            f"one number of steps is needed, but got {sampling.steps}; see Sampling.at"
        )
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(
        len(context),
        config.in_channels,
        config.sample_size,
        config.sample_size,
        generator=generator,
    )
    pictures = []
    for start in range(0, len(context), batch):
        x = noise[start : start + batch].to(device, memory_format=torch.channels_last)
        text = context[start : start + batch].float().to(device)
        empty = null_context.float().to(device).expand_as(text)
        scheduler = make_scheduler(prediction)
        scheduler.set_timesteps(sampling.steps)
        for time in scheduler.timesteps:
            x = scheduler.step(
                _guided(model, x, float(time), text, empty, sampling.guidance), time, x
            ).prev_sample
        pictures.append(latent.decode(x))
    return torch.cat(pictures).contiguous()


def _guided(
    model: UNet, x: Tensor, time: float, text: Tensor, empty: Tensor, guidance: float
) -> Tensor:
    # empty + guidance · (text − empty), both predictions in one pass.
    times = torch.full((len(x),), time, device=x.device)
    if guidance == 1:
        return model(x, times, text)  # type: ignore[no-any-return]
    both = model(torch.cat([x, x]), torch.cat([times, times]), torch.cat([empty, text]))
    without, with_text = both.chunk(2)
    return without + guidance * (with_text - without)  # type: ignore[no-any-return]


DESCRIPTION = "trained.json"


class Conditions(BaseModel):
    """What a network was trained under, as far as drawing with it needs it."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: int = Field(alias="schema", default=1, ge=1, le=1)
    text: str  # text encoder of the captions
    tokens: int
    latent: str
    prediction: Prediction


class TrainedFolder(NamedTuple):
    """A network that was read."""

    model: UNet
    conditions: Conditions


def save_trained(folder: Path, model: UNet, conditions: Conditions, scores: dict[str, Any]) -> None:
    """Write a trained network, each file atomically, the scores last.

    Raises:
        ArchsearchError: The folder cannot be written.
    """
    files.write_json(folder / "config.json", model.config.to_dict())
    files.write_json(folder / DESCRIPTION, conditions.model_dump(mode="json", by_alias=True))
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    files.write_bytes(
        folder / "weights.safetensors",
        safetensors.torch.save(tensors, {"config": model.config.to_json()}),
    )
    files.write_json(folder / "metrics.json", {"schema": 1, "scores": scores})


def load_trained(folder: Path, device: torch.device) -> TrainedFolder:
    """Read what ``save_trained`` wrote, ready to draw with.

    Raises:
        InputError: A file is missing, damaged, or the weights are of another network.
    """
    for name in ("config.json", DESCRIPTION, "weights.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: {_what_is_missing(folder, name)}")
    conditions = documents.validate(documents.read(folder / DESCRIPTION), Conditions)
    model = UNet(read_config(folder / "config.json"))
    model.load_state_dict(load_weights(model.config, folder / "weights.safetensors"))
    return TrainedFolder(model.eval().to(device), conditions)


def _what_is_missing(folder: Path, name: str) -> str:
    """Why a folder is no trained network, and what makes one."""
    run, separator, _ = str(folder).rpartition("#")
    searched = (folder / "study.yaml").is_file()
    if not folder.exists() and not (separator and Path(run).is_dir()):
        return (
            "there is no such folder. `archsearch train ARCH --output DIR` makes one to draw with."
        )
    if separator and not folder.exists():
        return (
            "is a trial of a search, whose proxy was trained for a short while and draws hardly "
            f"anything yet. Train it for longer: archsearch train {shlex.quote(str(folder))} "
            "--output DIR, and give DIR here."
        )
    if searched:
        given = shlex.quote(f"{folder}#TRIAL")
        return (
            "is a run without a network to draw with. Of a search, train one of its networks for "
            f"longer: archsearch train {given} --output DIR, and give DIR here. A training that "
            "was interrupted goes on with the same command."
        )
    return (
        f"is no trained network, it has no {name}. `archsearch train ARCH --output DIR` makes one."
    )


def generate(
    folder: str | Path,
    prompts: Sequence[str],
    steps: int = 30,
    guidance: float = 3.0,
    seed: int = 0,
) -> Tensor:
    """Draw pictures with a trained network: (N, 3, H, W), one a prompt, as bytes.

    Args:
        folder: What ``Study.train`` made.
        prompts: What to draw.
        steps: DDIM steps.
        guidance: Classifier-free guidance; 1 is none.
        seed: Of the noise.

    Raises:
        InputError: The folder holds no trained network.
    """
    device = pick_device()
    trained = load_trained(Path(folder), device)
    conditions = trained.conditions
    context = text_encoder(conditions.text).encode((*prompts, ""), conditions.tokens)
    return sample(
        trained.model,
        context[:-1],
        context[-1],
        Sampling(steps=steps, guidance=guidance),
        seed,
        device,
        latent_space(conditions.latent),
        conditions.prediction,
    )
