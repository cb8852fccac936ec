"""The denoising loss, in training and on held-out pictures. Shape suffixes: B batch, C channels, H W size, T tokens, D width."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archsearch.diffusion.device import autocast, memory_format
from archsearch.diffusion.recipe import Recipe
from archsearch.diffusion.schedule import target_of


class Draws(NamedTuple):
    """Samples with the captions, times and noise they are met with."""

    x0: Tensor  # (B, C, H, W)
    context: Tensor  # (B, T, D)
    times: Tensor  # (B,)
    noise: Tensor  # (B, C, H, W)

    def to(self, device: torch.device) -> "Draws":
        """The same on a device."""
        return Draws(*(tensor.to(device) for tensor in self))

    def rows(self, index: Tensor) -> "Draws":
        """Some of them."""
        return Draws(*(tensor[index] for tensor in self))


def denoising_loss(model: nn.Module, draws: Draws, scheduler: Any, recipe: Recipe) -> Tensor:
    """Mean squared error of the prediction, one number a sample: (B,), on the device of ``draws``.

    It is taken in fp32, whatever the network computes in.
    """
    x0, context, times, noise = draws
    noisy = scheduler.add_noise(x0, noise, times)
    target = target_of(scheduler, x0, noise, times)
    with autocast(x0.device, recipe.precision):
        predicted = model(noisy.to(memory_format=memory_format(x0.device, recipe.channels_last)), times, context)
    return F.mse_loss(predicted.float(), target, reduction="none").flatten(1).mean(1)
