"""A training from its first step to its budget."""

import torch

from archsearch.data.prepare import Prepared
from archsearch.diffusion.spec import Recipe
from archsearch.diffusion.trainer import Progress, Trainer
from archsearch.unet.config import UNetConfig

CPU = torch.device("cpu")


def train(
    config: UNetConfig,
    data: Prepared,
    recipe: Recipe,
    seed: int = 0,
    progress: Progress | None = None,
) -> Trainer:
    trainer = Trainer(config, data, recipe, seed, CPU)
    trainer.run(recipe.samples, progress)
    return trainer
