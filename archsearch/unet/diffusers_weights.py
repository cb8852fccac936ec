"""The names of weights in diffusers' ``UNet2DConditionModel`` and ``DreamLiteUNetModel``, and state
dicts renamed from and to them.

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

MARK = "conv_in.weight"  # a tensor that every network of diffusers has, and none of ours

# Parts of our names and what diffusers calls them, replaced one after another.
RENAMES = (
    (r"^time\.linear", "time_embedding.linear_"),
    (r"^time\.added", "add_embedding.linear_"),
    (r"^time\.guidance\.", "time_embedding.cond_proj."),
    (r"^input\.", "conv_in."),
    (r"^output\.norm\.", "conv_norm_out."),
    (r"^output\.conv\.", "conv_out."),
    (r"^middle\.", "mid_block."),
    (r"^stages\.(\d+)\.(down|up)sample\.", r"\2_blocks.\1.\2samplers.0."),
    (r"^stages\.(\d+)\.(down|up)\.", r"\2_blocks.\1."),
    (r"\.(\d+)\.residual\.", r".resnets.\1."),
    (r"\.time\.", ".time_emb_proj."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"\.conv([12])\.0\.", r".conv\1.depthwise."),
    (r"\.conv([12])\.1\.", r".conv\1.pointwise."),
    (r"\.(\d+)\.transformer\.blocks\.", r".attentions.\1.transformer_blocks."),
    (r"\.(\d+)\.transformer\.", r".attentions.\1."),
    # The layers of a transformer block: self-attention or its norm alone, cross-attention,
    # feed-forward.
    (r"(transformer_blocks\.\d+)\.0\.norm\.", r"\1.norm1."),
    (r"(transformer_blocks\.\d+)\.1\.norm\.", r"\1.norm2."),
    (r"(transformer_blocks\.\d+)\.2\.norm\.", r"\1.norm3."),
    (r"(transformer_blocks\.\d+)\.0\.(to|norm)_", r"\1.attn1.\2_"),
    (r"(transformer_blocks\.\d+)\.1\.(to|norm)_", r"\1.attn2.\2_"),
    (r"\.to_out\.", ".to_out.0."),
    (r"(transformer_blocks\.\d+)\.2\.expand\.", r"\1.ff.net.0.proj."),
    (r"(transformer_blocks\.\d+)\.2\.contract\.", r"\1.ff.net.2."),
)


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


def _diffusers_name(name: str, stages: int) -> str:
    for ours, theirs in RENAMES:
        name = re.sub(ours, theirs, name)
    # diffusers counts its blocks up from the lowest resolution.
    return re.sub(r"^up_blocks\.(\d+)", lambda at: f"up_blocks.{stages - 1 - int(at[1])}", name)


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
