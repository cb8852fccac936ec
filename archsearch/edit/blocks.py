"""Residual blocks and transformers of other widths, convolutions and layers, from trained ones; and new ones that add nothing."""

import torch
from torch import Tensor

from archsearch.edit.attention import inherit_attention
from archsearch.edit.convolution import inherit_conv, input_norms, output_norms, silence
from archsearch.edit.feed_forward import inherit_feed_forward
from archsearch.edit.maps import State, first, keep_best, norm_along, part, placed, take
from archsearch.unet import units
from archsearch.unet.blocks import build_unit
from archsearch.unet.plan import Block


def fresh(unit: units.Unit) -> State:
    """Initial weights of a unit."""
    return dict(build_unit(unit).state_dict())


def inherit_residual(
    state: State, source: units.Residual, target: units.Residual, inputs: Tensor, outputs: Tensor, time: Tensor
) -> State:
    """Thin a residual block to the channels of its input, output and time embedding; its convolutions may change their kind.

    The channels between its two convolutions are its own: those stay whose writing and reading norms have the largest product. A
    shortcut that the trained block did not need picks the surviving channels of its input. One that the new block does not have,
    since its input and output are now equally wide, is lost: the input is added as it is, and training has to make up for it.
    """
    conv1, conv2 = part(state, "conv1"), part(state, "conv2")
    within = torch.arange(source.out_channels)
    if target.out_channels < source.out_channels:
        importance = output_norms(conv1, source.conv) * input_norms(conv2, source.conv)
        within = keep_best(importance, target.out_channels, target.norm_groups)
    inherited = {f"norm1.{name}": take(state[f"norm1.{name}"], 0, inputs) for name in ("weight", "bias")}
    inherited["norm1.weight"] = inherited["norm1.weight"] + (
        inputs < 0
    )  # what is new comes through, to be learned by what reads it
    inherited |= placed(inherit_conv(conv1, source.conv, target.conv, inputs, within), "conv1")
    inherited["time.weight"] = take(take(state["time.weight"], 0, within), 1, time)
    inherited["time.bias"] = take(state["time.bias"], 0, within)
    inherited |= {f"norm2.{name}": take(state[f"norm2.{name}"], 0, within) for name in ("weight", "bias")}
    inherited |= placed(inherit_conv(conv2, source.conv, target.conv, within, outputs), "conv2")
    if target.in_channels != target.out_channels:
        weight = state.get("shortcut.weight", torch.eye(source.out_channels, source.in_channels)[..., None, None])
        bias = state.get("shortcut.bias", torch.zeros(source.out_channels))
        inherited |= {"shortcut.weight": take(take(weight, 0, outputs), 1, inputs), "shortcut.bias": take(bias, 0, outputs)}
    return inherited


def new_residual(unit: units.Residual, current: int) -> State:
    """A block that hands on the first ``current`` channels of its input, as far as its output has room, and adds nothing."""
    state = fresh(unit)
    state |= placed(silence(part(state, "conv2"), unit.conv), "conv2")
    if "shortcut.weight" in state:
        handed_on = take(torch.eye(unit.out_channels, current), 1, first(current, unit.in_channels))
        state |= {"shortcut.weight": handed_on[..., None, None], "shortcut.bias": torch.zeros(unit.out_channels)}
    return state


def inherit_transformer(state: State, source: Block, target: Block, stream: Tensor) -> State:
    """A transformer of fewer, more or other layers: each continues the one of its kind in the block of its number, if there is one.

    Args:
        state: The trained transformer's tensors; empty where there was none.
        source: The trained block.
        target: The block wanted; must have a transformer.
        stream: Map of the stage's channels.
    """
    assert target.projection is not None
    if source.projection is None:
        return new_transformer(target)
    within = torch.arange(source.projection.channels)
    if target.projection.channels < source.projection.channels:
        within = keep_best(_importance(state), target.projection.channels)
    inherited = {f"norm.{name}": take(state[f"norm.{name}"], 0, stream) for name in ("weight", "bias")}
    for name, rows, columns in (("proj_in", within, stream), ("proj_out", stream, within)):
        weight = take(take(state[f"{name}.weight"].flatten(1), 0, rows), 1, columns)
        inherited[f"{name}.weight"] = weight if target.projection.form == "linear" else weight[..., None, None]
        inherited[f"{name}.bias"] = take(state[f"{name}.bias"], 0, rows)
    for number, layers in enumerate(target.transformers):
        old = source.transformers[number] if number < len(source.transformers) else ()
        places = {layer.kind: place for place, layer in enumerate(old)}
        for place, layer in enumerate(layers):
            prefix = f"blocks.{number}.{place}"
            if layer.kind in places:
                before = places[layer.kind]
                inherited |= placed(_layer(part(state, f"blocks.{number}.{before}"), old[before], layer, within), prefix)
            else:
                inherited |= placed(_silent(fresh(layer), layer), prefix)
    return inherited


def new_transformer(block: Block) -> State:
    """A transformer that adds nothing: its projection out is zero."""
    assert block.projection is not None
    state = fresh(block.projection)
    state |= {name: torch.zeros_like(state[name]) for name in ("proj_out.weight", "proj_out.bias")}
    for number, layers in enumerate(block.transformers):
        for place, layer in enumerate(layers):
            state |= placed(fresh(layer), f"blocks.{number}.{place}")
    return state


def _layer(state: State, source: units.TransformerLayer, target: units.TransformerLayer, stream: Tensor) -> State:
    if isinstance(source, units.FeedForward) and isinstance(target, units.FeedForward):
        return inherit_feed_forward(state, source, target, stream, fresh(target))
    assert not isinstance(source, units.FeedForward)
    assert not isinstance(target, units.FeedForward)
    return inherit_attention(state, source, target, stream)


def _silent(state: State, layer: units.TransformerLayer) -> State:
    """The same layer, adding nothing to its input until it is trained."""
    last = "contract" if isinstance(layer, units.FeedForward) else "to_out"
    return state | {f"{last}.{name}": torch.zeros_like(state[f"{last}.{name}"]) for name in ("weight", "bias")}


def _importance(state: State) -> Tensor:
    """How strongly each channel within a transformer is written and then read by the projection out, (C,)."""
    writers = [tensor for name, tensor in state.items() if name.endswith(("proj_in.weight", "to_out.weight", "contract.weight"))]
    written = torch.stack([norm_along(tensor, 0).square() for tensor in writers]).sum(dim=0).sqrt()
    return written * norm_along(state["proj_out.weight"], 1)


def inherit_linear(state: State, rows: Tensor, columns: Tensor) -> State:
    """A full convolution or linear layer thinned to rows and columns."""
    return {"weight": take(take(state["weight"], 0, rows), 1, columns), "bias": take(state["bias"], 0, rows)}
