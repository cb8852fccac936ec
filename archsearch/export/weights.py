"""The network to export: built from its config, with given or random weights."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

NAMED = 3


def build(config: UNetConfig, weights: Path | None, seed: int = 0) -> UNet:
    """Build the network in evaluation mode.

    Args:
        config: The architecture.
        weights: A safetensors file of its state dict; None for random weights.
        seed: Of random weights; torch's own random state is left alone.

    Raises:
        InputError: The file cannot be read, or its tensors are not those of the network; the message names some.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(config).eval()
    if weights is None:
        return network
    try:
        given = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{weights}: cannot be read as safetensors: {error}") from error
    wanted = network.state_dict()
    wrong = [f"{name} is missing" for name in wanted if name not in given]
    wrong += [f"{name} is not in the network" for name in given if name not in wanted]
    wrong += [
        f"{name} has shape {tuple(given[name].shape)}, the network's is {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise InputError(f"{weights}: not the weights of network {config.digest}: {'; '.join(wrong[:NAMED])}{more}.")
    network.load_state_dict(given)
    return network
