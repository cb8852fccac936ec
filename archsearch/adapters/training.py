"""Adapters: trained for a network, each kept alone in a file, and loaded onto the network or any
version of it that was distilled to fewer steps.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from archsearch.adapters.control import CHANNELS, Controlled, condition_of, encoder_for
from archsearch.adapters.lora import lora_state, merged, with_lora
from archsearch.adapters.work import Report, Work
from archsearch.data.latent import LatentSpace
from archsearch.diffusion.evaluate import held_out
from archsearch.diffusion.recipe import Draws, denoising_loss
from archsearch.diffusion.spec import Recipe
from archsearch.diffusion.trained import Trained
from archsearch.diffusion.trainer import Trainer, digest_of, trained
from archsearch.documents import parse_json
from archsearch.errors import InputError
from archsearch.files import check_regular, write_bytes
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

METHODS = ("lora", *CHANNELS)
FILE = "adapter.safetensors"
TRAINING = "training"


class About(BaseModel):
    """What an adapter's file says of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    method: Literal["lora", "control", "inpaint"]
    network: str  # digest of the network's configuration, without its guidance weight
    rank: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class Adapter:
    """An adapter that was read."""

    about: About
    tensors: dict[str, Tensor]
    path: Path

    def on(self, model: UNet, latent: LatentSpace) -> UNet | Controlled:
        """The network with the adapter: a LoRA is added to its weights, in place; control and
        inpainting wrap it.

        Raises:
            InputError: The adapter is another network's.
        """
        if (own := base_of(model.config)) != self.about.network:
            raise InputError(
                f"{self.path}: is an adapter for network {self.about.network}, but this is {own}, "
                "or what was distilled from it."
            )
        if self.about.method == "lora":
            merged(model, self.tensors, str(self.path))
            return model
        encoder = encoder_for(model.config, self.about.method, latent.factor)
        wanted = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
        if wanted != {name: tensor.shape for name, tensor in self.tensors.items()}:
            raise InputError(f"{self.path}: its weights are not those of the encoder it names.")
        encoder.load_state_dict(self.tensors)
        device = next(model.parameters()).device
        return Controlled(model, encoder.to(device)).eval()


def base_of(config: UNetConfig) -> str:
    """Digest of what a network and all that was distilled from it have in common."""
    return UNetConfig.model_validate(config.to_dict() | {"guidance_dim": None}).digest


def save_adapter(path: Path, about: About, tensors: dict[str, Tensor]) -> None:
    """Write an adapter as one safetensors file."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = about.model_dump(mode="json", by_alias=True, exclude_none=True)
    write_bytes(path, save(plain, {"format": "pt", "adapter": json.dumps(told)}))


def load_adapter(path: Path) -> Adapter:
    """Read an adapter, by its file or the folder of its training.

    Raises:
        InputError: It is none, or damaged.
    """
    path = path / FILE if path.is_dir() else path
    try:
        check_regular(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            told = (file.metadata() or {}).get("adapter")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if told is None:
            raise InputError(
                f"{path}: is no adapter: it does not say of what. `archsearch adapt` makes one."
            )
        about = About.model_validate(parse_json(told, path))
    except (OSError, SafetensorError, ValidationError) as error:
        told = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read as an adapter: {told}.") from error
    return Adapter(about, tensors, path)


class Adapting:
    """The loss of an adapter: that of its network, which heeds the condition of each picture.

    Args:
        method: Of ``METHODS``.
        latent: The space in which the network denoises.
        network: Digest of the network's weights.
        rank: Of a LoRA.
    """

    def __init__(self, method: str, latent: LatentSpace, network: str, rank: int) -> None:
        self.method, self.latent = method, latent
        of_rank = f" of rank {rank}" if method == "lora" else ""
        self.__name__ = f"{method}{of_rank} for {network}"

    def __call__(self, model: nn.Module, draws: Draws, scheduler: Any, recipe: Recipe) -> Tensor:
        """One number a sample, as ``denoising_loss``."""
        if isinstance(model, Controlled):
            images = self.latent.decode(draws.x0)
            model.see(condition_of(self.method, images, draws.noise, draws.x0.device))
        return denoising_loss(model, draws, scheduler, recipe)


def check_adaptable(network: Trained, method: str) -> None:
    """Refuse a network that was distilled: adapters are trained on what it came from.

    Raises:
        InputError: It was.
    """
    conditions = network.conditions
    if conditions.guidance is not None or conditions.steps is not None:
        raise InputError(
            f"--method {method}: the network was distilled. Train the adapter for the network that "
            "it came from; `archsearch generate --adapter` loads it onto both."
        )


def train_adapter(
    work: Work, method: str, rank: int, seed: int, report: Report
) -> dict[str, float | int]:
    """Train an adapter, or go on where an earlier call stopped; ``adapter.safetensors`` in the
    folder is the adapter.

    Returns:
        Held-out loss of the network alone (``val_loss_without``) and with the adapter
        (``val_loss``), the adapter's parameters and their share of the network's, pictures seen and
        seconds.

    Raises:
        InputError: peft is not installed, or the network has no layer to adapt.
        TrainingEndedError: The training diverged, or memory ran out.
    """
    network, data, recipe = work.trained.model, work.data, work.recipe
    params = sum(each.numel() for each in network.parameters())
    loss = Adapting(method, data.latent, digest_of(network.state_dict()), rank)
    without = held_out(network, data, recipe, work.device).loss
    module: nn.Module
    if method == "lora":
        module = with_lora(network, rank, seed)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = Controlled(network, encoder_for(network.config, method, data.latent.factor))
    trainer = Trainer(
        network.config,
        data,
        recipe,
        seed,
        work.device,
        work.folder / TRAINING,
        loss=loss,
        module=module,
    )
    trainer.run(
        recipe.samples,
        lambda seen, at: report(f"{method}: loss {at:.3f}", min(1.0, seen / recipe.samples)),
    )
    trainer.save()
    trainer.average_into(module)
    tensors = module.encoder.state_dict() if isinstance(module, Controlled) else lora_state(module)
    about = About(
        method=method,
        network=base_of(network.config),
        rank=rank if method == "lora" else None,
    )
    save_adapter(work.folder / FILE, about, tensors)
    own = sum(each.numel() for each in trained(module))
    return {
        "val_loss_without": without,
        "val_loss": held_out(module.eval(), data, recipe, work.device, loss).loss,
        "params": own,
        "share_of_network": own / params,
        "samples": trainer.samples,
        "seconds": round(trainer.seconds, 1),
    }
