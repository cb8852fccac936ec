"""A small trained network's stand-in: Stable Diffusion's layout, random weights, and what an edit
makes of it.
"""

from typing import Any

import torch

from archsearch.edit.inherit import inherit
from archsearch.edit.maps import State
from archsearch.edit.recipe import relative_change, respond
from archsearch.search_space import paths
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

BLOCK = {"transformers": 1, "layers": ["sa", "ca", "ff"]}
SMALL: dict[str, Any] = {
    "sample_size": 8,
    "norm_groups": 8,
    "context_dim": 24,
    "context_tokens": 5,
    "attention": {"heads": 4},
    "stages": [
        {"channels": 32, "down": [BLOCK] * 2, "up": [BLOCK] * 3},
        {"channels": 64, "down": [BLOCK] * 2, "up": [BLOCK] * 3},
        {"channels": 64, "down": [{}] * 2, "up": [{}] * 3},
    ],
    "middle": [BLOCK, {}],
}


def edited(config: UNetConfig, **sets: Any) -> UNetConfig:
    """Set paths, numbers of blocks first."""
    tree = paths.open_form(config)
    for path, value in sorted(sets.items(), key=lambda item: not item[0].endswith(".length")):
        paths.assign(tree, paths.parse(path), value)
    return UNetConfig.model_validate(tree)


def small(**sets: Any) -> UNetConfig:
    return edited(UNetConfig.model_validate(SMALL), **sets)


def weights(config: UNetConfig, seed: int = 0) -> State:
    torch.manual_seed(seed)
    state = UNet(config).state_dict()
    # Norms that are not all alike, as in a trained network.
    return {
        name: tensor + 0.2 * torch.randn_like(tensor) if ".norm" in name else tensor
        for name, tensor in state.items()
    }


def change(source: UNetConfig, target: UNetConfig) -> float:
    """Relative change of the output when ``target`` inherits the weights of ``source``."""
    state = weights(source)
    return relative_change(respond(source, state), respond(target, inherit(source, state, target)))


def change_from_scratch(source: UNetConfig, target: UNetConfig) -> float:
    """The same with weights that know nothing of each other."""
    return relative_change(
        respond(source, weights(source)), respond(target, weights(target, seed=1))
    )
