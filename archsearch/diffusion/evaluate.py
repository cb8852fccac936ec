"""The default quality objective: denoising loss on held-out pictures, at fixed times and noise."""

import torch

from archsearch.data.prepare import Prepared
from archsearch.diffusion.recipe import Recipe
from archsearch.diffusion.schedule import TRAIN_STEPS, make_scheduler
from archsearch.diffusion.train import v_loss
from archsearch.unet.model import UNet

VERSION = 1
"""Changes whenever the number would: part of the key of a score."""

_SEED = 20_231_118  # fixed for all studies: every network of every study meets the same times and noise


@torch.no_grad()
def held_out_loss(model: UNet, data: Prepared, recipe: Recipe, device: torch.device, batch: int = 32) -> float:
    """Mean v-prediction loss over ``recipe.draws`` fixed triples of held-out picture, time and noise.

    Times are stratified over the schedule, pictures taken in turn, captions given. The same for every network.
    """
    generator = torch.Generator().manual_seed(_SEED)
    scheduler = make_scheduler()
    times = ((torch.arange(recipe.draws) + torch.rand(recipe.draws, generator=generator)) / recipe.draws * TRAIN_STEPS).long()
    times = times.clamp(max=TRAIN_STEPS - 1)[torch.randperm(recipe.draws, generator=generator)]
    pictures = data.held_out[torch.arange(recipe.draws) % len(data.held_out)]
    total = 0.0
    for start in range(0, recipe.draws, batch):
        index = pictures[start : start + batch]
        x0 = data.samples(index)
        noise = torch.randn(x0.shape, generator=generator)
        chunk = times[start : start + batch]
        total += v_loss(model, x0, data.context[index].float(), chunk, noise, scheduler, recipe, device).sum().item()
    return total / recipe.draws
