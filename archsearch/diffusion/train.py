"""Train a proxy for the budget of its recipe."""

from dataclasses import dataclass
from pathlib import Path

import torch

from archsearch.data.prepare import Prepared
from archsearch.diffusion.recipe import Recipe
from archsearch.diffusion.trainer import Progress, Trainer
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet


@dataclass(frozen=True)
class Trained:
    """A trained network: the moving average of its weights, and what the training took."""

    model: UNet
    samples: int
    seconds: float
    train_loss: float
    """Mean over the last tenth of the steps."""
    capped: bool
    """Whether ``max_seconds`` ended it before the budget."""


def train(
    config: UNetConfig,
    data: Prepared,
    recipe: Recipe,
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
    folder: Path | None = None,
    tensorboard: bool = False,
) -> Trained:
    """Train ``config`` from scratch on the training split of ``data``, or go on with what ``folder`` holds.

    Args:
        config: Network at proxy scale.
        data: Pictures and text features.
        recipe: Budget and recipe; its precision must be resolved.
        seed: Seed of initialisation, order, times, noise and dropout: the same seed gives the same weights on one machine.
        device: Where to train.
        progress: Called with samples seen and loss, once in a while.
        folder: Where checkpoint and log go; None keeps nothing.
        tensorboard: Whether TensorBoard's events are written too.

    Raises:
        InputError: The data cannot feed a batch, or the folder holds another training.
        DivergedError: The loss is not finite.
        TrainingMemoryError: Memory ran out.
    """
    trainer = Trainer(config, data, recipe, seed, device, folder, tensorboard)
    whole = trainer.run(recipe.samples, progress)
    if trainer.log:
        trainer.log.close()
    tail = trainer.losses[-max(1, len(trainer.losses) // 10) :]
    return Trained(trainer.averaged(), trainer.samples, trainer.seconds, sum(tail) / len(tail), capped=not whole)
