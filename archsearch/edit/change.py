"""How far an edit moves the output of a network."""

import torch
from torch import Tensor

from archsearch.edit.maps import State
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

TIMESTEPS = 1000
MOST_CHANNELS = 16
"""Samples of up to so many channels agree in those that they share."""


@torch.inference_mode()
def respond(config: UNetConfig, state: State, probes: int = 1, seed: int = 0) -> Tensor:
    """Predictions for fixed random inputs at evenly spread timesteps, (probes, out_channels, H, W).

    Networks that differ in input channels see the same values in those they share.
    """
    with torch.device("meta"):
        network = UNet(config).eval()
    network.load_state_dict(state, assign=True)
    answers = []
    for probe in range(probes):
        size, added = config.sample_size, config.added
        context = _random(seed + probe, config.context_tokens, config.context_dim)
        sample = _random(seed + probe, max(config.in_channels, MOST_CHANNELS), size, size)[:, : config.in_channels]
        timestep = torch.full((1,), TIMESTEPS * (probe + 0.5) / probes)
        extra = (_random(seed + probe, added.text_dim), torch.full((1, added.ids), 8.0 * size)) if added.text_dim else ()
        answers.append(network(sample, timestep, context, *extra))
    return torch.cat(answers)


def _random(seed: int, *shape: int) -> Tensor:
    """Each input from a generator of its own, so that another number of channels in one does not change the rest."""
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def relative_change(before: Tensor, after: Tensor) -> float:
    """Norm of the difference over the norm of ``before``, over the channels that both predict; 0 where nothing changes."""
    channels = min(before.shape[1], after.shape[1])
    before, after = before[:, :channels], after[:, :channels]
    return float((after - before).norm() / before.norm().clamp(min=1e-12))
