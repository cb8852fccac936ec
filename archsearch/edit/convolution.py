"""3×3 convolutions of one kind from those of another, thinned. Names of tensors as ``unet.blocks.conv3x3`` gives them."""

import torch
from torch import Tensor

from archsearch.edit.maps import State, first, keep_best, norm_along, take
from archsearch.errors import InputError


def inherit_conv(state: State, kind: str, target: str, inputs: Tensor, outputs: Tensor) -> State:
    """Thin a convolution of ``kind`` to the given channels and turn it into one of kind ``target``.

    Exact: separable → full, separable → expanded. Full → separable (and on to expanded) takes, for every input channel, the best
    depthwise kernel in the least-squares sense: the leading singular vector of its kernels to all outputs.

    Args:
        state: The convolution's tensors.
        kind: full, separable or expanded.
        target: full, separable or expanded.
        inputs: Map of the input channels.
        outputs: Map of the output channels.

    Raises:
        InputError: From expanded to another kind: the activation within cannot be folded.
    """
    thin = _thin(state, kind, inputs, outputs)
    if kind == target:
        return thin
    if kind == "expanded":
        raise InputError(f"conv: an expanded convolution cannot become {target}: the activation within it cannot be folded")
    if kind == "full":
        thin = _factor(thin)
    return _expand(thin) if target == "expanded" else _multiply(thin) if target == "full" else thin


def input_norms(state: State, kind: str) -> Tensor:
    """How strongly a convolution reads each of its input channels, (in,)."""
    if kind == "full":
        return norm_along(state["weight"], 1)
    return norm_along(state["0.weight"], 0) * norm_along(state["1.weight"], 1)


def output_norms(state: State, kind: str) -> Tensor:
    """How strongly a convolution writes each of its output channels, (out,)."""
    return norm_along(state[f"{LAST[kind]}weight"], 0)


LAST = {"full": "", "separable": "1.", "expanded": "4."}
"""Prefix of the part that writes the output."""


def silence(state: State, kind: str) -> State:
    """The same convolution with an output of zero."""
    last = LAST[kind]
    return state | {f"{last}{name}": torch.zeros_like(state[f"{last}{name}"]) for name in ("weight", "bias")}


def _thin(state: State, kind: str, inputs: Tensor, outputs: Tensor) -> State:
    if kind == "full":
        return {"weight": take(take(state["weight"], 0, outputs), 1, inputs), "bias": take(state["bias"], 0, outputs)}
    depthwise = {name: take(state[name], 0, inputs) for name in ("0.weight", "0.bias")}
    depthwise["0.weight"] = _passing(depthwise["0.weight"], inputs)
    if kind == "separable":
        pointwise = {"1.weight": take(take(state["1.weight"], 0, outputs), 1, inputs), "1.bias": take(state["1.bias"], 0, outputs)}
        return depthwise | pointwise
    within = norm_along(state["1.weight"], 0) * norm_along(state["3.weight"], 0) * norm_along(state["4.weight"], 1)
    wide = keep_best(within, 2 * len(inputs)) if 2 * len(inputs) < len(within) else first(len(within), 2 * len(inputs))
    middle = {name: take(state[name], 0, wide) for name in ("1.weight", "1.bias", "3.weight", "3.bias")}
    middle["1.weight"] = take(middle["1.weight"], 1, inputs)
    new = wide < 0  # drawn anew, and not heard while the last pointwise convolution has zeros for them
    middle["1.weight"] = middle["1.weight"] + new[:, None, None, None] * _like(state["1.weight"], middle["1.weight"])
    middle["3.weight"] = _passing(middle["3.weight"], wide)
    last = {"4.weight": take(take(state["4.weight"], 0, outputs), 1, wide), "4.bias": take(state["4.bias"], 0, outputs)}
    return depthwise | middle | last


def _like(known: Tensor, wanted: Tensor) -> Tensor:
    """Random numbers of the size of ``known`` and the shape of ``wanted``."""
    return known.square().mean().sqrt() * torch.randn_like(wanted)


def _passing(kernels: Tensor, index: Tensor) -> Tensor:
    """Depthwise kernels (N, 1, 3, 3) that hand new channels on, so that the pointwise convolution behind can learn to read them."""
    centre = torch.zeros_like(kernels)
    centre[:, :, 1, 1] = 1
    return kernels + (index < 0)[:, None, None, None] * centre


def _factor(full: State) -> State:
    """Full → separable: the kernels (out, 9) of every input channel become their best product of one kernel and out factors."""
    kernels = full["weight"].flatten(2).transpose(0, 1)  # (in, out, 9)
    leading = torch.linalg.eigh(kernels.transpose(1, 2).double() @ kernels.double()).eigenvectors[..., -1].float()  # (in, 9)
    factors = (kernels @ leading[..., None])[..., 0]  # (in, out)
    inputs = len(leading)
    return {
        "0.weight": leading.view(inputs, 1, 3, 3),
        "0.bias": torch.zeros(inputs),
        "1.weight": factors.T[..., None, None].contiguous(),
        "1.bias": full["bias"],
    }


def _multiply(separable: State) -> State:
    """Separable → full, exactly."""
    pointwise, depthwise = separable["1.weight"][..., 0, 0], separable["0.weight"][:, 0]
    return {
        "weight": pointwise[..., None, None] * depthwise[None],
        "bias": separable["1.bias"] + pointwise @ separable["0.bias"],
    }


def _expand(separable: State) -> State:
    """Separable → expanded, exactly: SiLU(x) − SiLU(−x) = x, so both signs go through and their difference comes out."""
    channels = len(separable["0.bias"])
    identity = torch.eye(channels)[..., None, None]
    centre = torch.zeros(2 * channels, 1, 3, 3)
    centre[:, :, 1, 1] = 1
    return {
        "0.weight": separable["0.weight"],
        "0.bias": separable["0.bias"],
        "1.weight": torch.cat([identity, -identity]),
        "1.bias": torch.zeros(2 * channels),
        "3.weight": centre,
        "3.bias": torch.zeros(2 * channels),
        "4.weight": torch.cat([separable["1.weight"], -separable["1.weight"]], dim=1),
        "4.bias": separable["1.bias"],
    }
