"""The folder of a trained network: what it holds, and how what is made from it goes on from there.

``archsearch train`` writes one, ``archsearch distill`` another with fewer steps, and ``archsearch
adapt`` adapters for either.
"""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from archsearch import documents, files
from archsearch.catalog import read_config
from archsearch.data.spec import DataSpec
from archsearch.diffusion.spec import Prediction, Recipe, Sampling
from archsearch.errors import InputError
from archsearch.unet.model import UNet
from archsearch.unet.weights import load_weights

DESCRIPTION = "trained.json"
WEIGHTS = "weights.safetensors"
SCORES = "metrics.json"
Weight = Annotated[float, Field(ge=1, le=30)]


class Conditions(BaseModel):
    """What a network was trained under, as far as drawing with it, or training what is made from
    it, needs it.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True
    )

    schema_version: int = Field(alias="schema", default=1, ge=1, le=1)
    text: str
    """Text encoder of the captions."""
    tokens: int
    latent: str
    prediction: Prediction
    data: DataSpec | None = None
    """What it learned from; None in folders of earlier versions."""
    recipe: Recipe | None = None
    """How; None in folders of earlier versions."""
    sampling: Sampling | None = None
    """How its study draws pictures, which is how it draws where nothing else is said; None in
    folders of earlier versions."""
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Steps it was distilled to: it draws with no other number. None: with any."""
    guidance: tuple[Weight, Weight] | None = None
    """Guidance weights that one pass of it gives, the least and the largest; None: guidance is two
    passes, and any weight.
    """
    sampler: Literal["ddim", "renoise"] = "ddim"
    """How it draws: by DDIM; or, a generator, each step a whole picture, to which noise is added
    again."""

    @model_validator(mode="after")
    def _guidance_rises(self) -> Self:
        if self.guidance is not None and self.guidance[0] > self.guidance[1]:
            raise ValueError(f"guidance falls from {self.guidance[0]:g} to {self.guidance[1]:g}")
        return self

    def to_learn_from(self, folder: Path) -> tuple[DataSpec, Recipe]:
        """What the network in ``folder`` learned from, and how, for what is made from it.

        Raises:
            InputError: An earlier version wrote the folder, which did not say.
        """
        if self.data is None or self.recipe is None:
            raise InputError(
                f"{folder / DESCRIPTION}: does not say what the network learned from: an earlier "
                "version of archsearch wrote it. A network that `archsearch train` made: the same "
                "command again, which does not train anew, writes it. A distilled one has to be "
                "distilled again."
            )
        return self.data, self.recipe


class Trained(NamedTuple):
    """A network that was read."""

    model: UNet
    conditions: Conditions


def save_trained(folder: Path, model: UNet, conditions: Conditions, scores: dict[str, Any]) -> None:
    """Write a trained network, each file atomically, the scores last.

    Raises:
        ArchsearchError: The folder cannot be written.
    """
    files.write_json(folder / "config.json", model.config.to_dict())
    about = conditions.model_dump(mode="json", by_alias=True, exclude_none=True)
    files.write_json(folder / DESCRIPTION, about)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    files.write_bytes(
        folder / WEIGHTS, safetensors.torch.save(tensors, {"config": model.config.to_json()})
    )
    files.write_json(folder / SCORES, {"schema": 1, "scores": scores})


def read_conditions(folder: Path) -> Conditions:
    """Read what a network was trained under.

    Raises:
        InputError: The folder does not say it, or the file is damaged.
    """
    return documents.validate(documents.read(folder / DESCRIPTION), Conditions)


def load_trained(folder: Path, device: torch.device) -> Trained:
    """Read what ``save_trained`` wrote, ready to draw with.

    Raises:
        InputError: A file is missing, damaged, or the weights are of another network.
    """
    for name in ("config.json", DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: {_what_is_missing(folder, name)}")
    conditions = read_conditions(folder)
    model = UNet(read_config(folder / "config.json"))
    if model.config.guidance_dim and conditions.guidance is None:
        raise InputError(
            f"{folder / DESCRIPTION}: guidance is missing: the network has guidance_dim, so the "
            "least and the largest weight that it was trained for must stand there."
        )
    model.load_state_dict(load_weights(model.config, folder / WEIGHTS))
    return Trained(model.eval().to(device), conditions)


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


def begin(folder: Path, name: str, settings: dict[str, Any]) -> None:
    """Begin work in a folder of its own, or go on with the same work: ``settings`` are kept in the
    file ``name`` and compared.

    Raises:
        InputError: The folder holds something else, or the same with other settings.
    """
    path = folder / name
    if path.is_file():
        kept = documents.read(path).data
        if differing := [
            f"{key} ({kept.get(key)} there, {settings.get(key)} here)"
            for key in sorted(kept.keys() | settings.keys())
            if kept.get(key) != settings.get(key)
        ]:
            raise InputError(
                f"{folder}: holds other work of this kind; these differ: {'; '.join(differing)}. "
                "Choose another --output."
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder}: exists and is not an empty folder, nor one with {name}. Choose another "
            "--output."
        )
    files.write_json(path, settings)
