"""The names of weights in diffusers' ``UNet2DConditionModel``, and state dicts renamed from and to
them.

Both networks compute the same from the same tensors, in the same order inside each: nothing is
transposed, split or joined.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.diffusers import to_diffusers
from archsearch.unet.model import UNet

MARK = "conv_in.weight"
"""A tensor that every network of diffusers has, and none of ours."""

TOP = {
    "time.linear1": "time_embedding.linear_1",
    "time.linear2": "time_embedding.linear_2",
    "time.added1": "add_embedding.linear_1",
    "time.added2": "add_embedding.linear_2",
    "input": "conv_in",
    "output.norm": "conv_norm_out",
    "output.conv": "conv_out",
}
RESIDUAL = {"time": "time_emb_proj", "shortcut": "conv_shortcut"}
ATTENTION = {"to_out": "to_out.0"}
FEED_FORWARD = {"expand": "net.0.proj", "contract": "net.2"}

_SIDE = re.compile(r"stages\.(\d+)\.(down|up)\.(.+)")
_RESAMPLE = re.compile(r"stages\.(\d+)\.(down|up)sample\.(.+)")
_LAYER = re.compile(r"blocks\.(\d+)\.([012])\.(.+)")


def state_shapes(config: UNetConfig) -> dict[str, torch.Size]:
    """Names and shapes of the network's tensors, without their memory."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in UNet(config).state_dict().items()}


def diffusers_names(config: UNetConfig) -> dict[str, str]:
    """Map the names of the network's tensors to diffusers'.

    Raises:
        InputError: diffusers' UNet cannot express ``config``.
    """
    to_diffusers(config)
    return {name: _diffusers_name(name, len(config.stages)) for name in state_shapes(config)}


def from_diffusers_state(config: UNetConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors from diffusers' names to ours.

    Raises:
        InputError: diffusers' UNet cannot express ``config``, or has no tensor of a name; the
            message names it.
    """
    return _renamed(state, {theirs: ours for ours, theirs in diffusers_names(config).items()})


def to_diffusers_state(config: UNetConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors from our names to diffusers'.

    Raises:
        InputError: diffusers' UNet cannot express ``config``, or the network has no tensor of a
            name; the message names it.
    """
    return _renamed(state, diffusers_names(config))


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    if unknown := [name for name in state if name not in names]:
        raise InputError(
            f"{', '.join(unknown[:3])}{' …' if len(unknown) > 3 else ''}: no tensor of the "
            "network is called so."
        )
    return {names[name]: tensor for name, tensor in state.items()}


def _diffusers_name(name: str, stages: int) -> str:
    """Translate one name. diffusers counts its blocks up from the lowest resolution."""
    if match := _SIDE.fullmatch(name):
        index, side, rest = int(match[1]), match[2], match[3]
        return f"{side}_blocks.{_position(index, side, stages)}.{_block(rest)}"
    if match := _RESAMPLE.fullmatch(name):
        index, side, rest = int(match[1]), match[2], match[3]
        return f"{side}_blocks.{_position(index, side, stages)}.{side}samplers.0.{rest}"
    if name.startswith("middle."):
        return f"mid_block.{_block(name.removeprefix('middle.'))}"
    return _swap(name, TOP)


def _position(stage: int, side: str, stages: int) -> int:
    return stage if side == "down" else stages - 1 - stage


def _block(name: str) -> str:
    """``0.residual.time.bias`` as ``resnets.0.time_emb_proj.bias``."""
    number, part, rest = name.split(".", 2)
    if part == "residual":
        return f"resnets.{number}.{_swap(rest, RESIDUAL)}"
    if match := _LAYER.fullmatch(rest):
        rest = f"transformer_blocks.{match[1]}.{_layer(int(match[2]) + 1, match[3])}"
    return f"attentions.{number}.{rest}"


def _layer(number: int, rest: str) -> str:
    """The layers are self-attention (1), cross-attention (2) and feed-forward (3)."""
    if rest.startswith("norm."):
        return f"norm{number}.{rest.removeprefix('norm.')}"
    return (
        f"ff.{_swap(rest, FEED_FORWARD)}"
        if number == 3
        else f"attn{number}.{_swap(rest, ATTENTION)}"
    )


def _swap(name: str, names: Mapping[str, str]) -> str:
    """Replace all of a name but its last part (weight or bias)."""
    module, _, parameter = name.rpartition(".")
    return f"{names.get(module, module)}.{parameter}"
