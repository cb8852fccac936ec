"""A trained network as a folder: ``config.json``, ``weights.safetensors``, and ``trained.json``, what it takes to draw with it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from archsearch import files
from archsearch.architectures import read_config
from archsearch.diffusion.schedule import Prediction
from archsearch.errors import InputError
from archsearch.unet.model import UNet

DESCRIPTION = "trained.json"


class Conditions(BaseModel):
    """What a network was trained under, as far as drawing with it needs it."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: int = Field(alias="schema", default=1, ge=1, le=1)
    text: str
    """Text encoder of the captions."""
    tokens: int
    latent: str
    prediction: Prediction


@dataclass(frozen=True)
class TrainedFolder:
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
    files.write_bytes(folder / "weights.safetensors", safetensors.torch.save(tensors, {"config": model.config.to_json()}))
    files.write_json(folder / "metrics.json", {"schema": 1, "scores": scores})


def load_trained(folder: Path, device: torch.device) -> TrainedFolder:
    """Read what ``save_trained`` wrote.

    Raises:
        InputError: A file is missing, damaged, or the weights are of another network.
    """
    for name in ("config.json", DESCRIPTION, "weights.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: is no trained network, it has no {name}. `archsearch train ARCH --output DIR` makes one.")
    try:
        conditions = Conditions.model_validate(json.loads((folder / DESCRIPTION).read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise InputError(f"{folder / DESCRIPTION}: is damaged: {str(error).splitlines()[0]}.") from error
    model = UNet(read_config(folder / "config.json"))
    try:
        model.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    except (RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder / 'weights.safetensors'}: does not hold the weights of its config.json: {reason}") from error
    return TrainedFolder(model.eval().to(device), conditions)
