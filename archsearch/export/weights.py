"""The network to export: built from its config, with given or random weights."""

from pathlib import Path

import torch

from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet
from archsearch.unet.weights import load_weights


def build(config: UNetConfig, weights: Path | None, seed: int = 0) -> UNet:
    """Build the network in evaluation mode.

    Args:
        config: The architecture.
        weights: A safetensors file of its state dict, under our names or diffusers'; None for random weights.
        seed: Of random weights; torch's own random state is left alone.

    Raises:
        InputError: The file cannot be read, or its tensors are not those of the network; the message says which.
    """
    if weights is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return UNet(config).eval()
    given = load_weights(config, weights)
    with torch.device("meta"):  # no memory, no random numbers: every tensor is given
        network = UNet(config).eval()
    network.load_state_dict(given, assign=True)
    return network
