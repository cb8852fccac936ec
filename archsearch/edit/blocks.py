"""How the parts of a block take over trained weights: convolutions, residual blocks, feed-forward
layers, transformers. Attention has a file of its own, ``heads``.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from archsearch.edit.heads import AttentionUnit, inherit_attention
from archsearch.edit.maps import (
    NEW,
    State,
    first,
    keep_best,
    noise_like,
    norm_along,
    part,
    placed,
    silenced,
    take,
    thin,
    thin_part,
)
from archsearch.errors import InputError
from archsearch.unet import units
from archsearch.unet.config import GATED
from archsearch.unet.model import ACTIVATIONS, build_unit
from archsearch.unet.plan import Block

# What the name of a convolution is followed by in the name of its part that writes the output.
LAST_PART = {"full": "", "separable": ".1", "expanded": ".4", "inverted": ".1"}


def inherit_conv(state: State, kind: str, target: str, inputs: Tensor, outputs: Tensor) -> State:
    """Thin a convolution of ``kind`` to the given channels and turn it into one of kind ``target``.

    Exact: separable → full, separable → expanded. Full → separable (and on to expanded) takes, for
    every input channel, the best depthwise kernel in the least-squares sense: the leading singular
    vector of its kernels to all outputs. An inverted convolution is a separable one without biases;
    as a target it comes with those that its block has to find another place for.

    Args:
        state: The convolution's tensors.
        kind: full, separable, expanded or inverted.
        target: full, separable, expanded or inverted.
        inputs: Map of the input channels.
        outputs: Map of the output channels.

    Raises:
        InputError: From expanded to another kind: the activation within cannot be folded.
    """
    if kind == "inverted":
        biases = {f"{name}.bias": torch.zeros(len(state[f"{name}.weight"])) for name in "01"}
        return inherit_conv(state | biases, "separable", target, inputs, outputs)
    if kind == "full":
        thinned = thin(state, outputs, inputs)
    elif kind == "separable":
        thinned = _thin_depthwise(state, "0", inputs) | thin_part(state, "1", outputs, inputs)
    else:
        thinned = _thin_expanded(state, inputs, outputs)
    if kind == target:
        return thinned
    if kind == "expanded":
        raise InputError(
            f"conv: an expanded convolution cannot become {target}: the activation within it "
            "cannot be folded"
        )
    separable = _factor(thinned) if kind == "full" else thinned
    if target in ("separable", "inverted"):
        return separable
    return _expand(separable) if target == "expanded" else _multiply(separable)


def _thin_depthwise(state: State, name: str, index: Tensor) -> State:
    # New channels are handed on, so that the pointwise convolution behind learns to read them.
    thinned = thin_part(state, name, index)
    thinned[f"{name}.weight"][index < 0, :, 1, 1] = 1
    return thinned


def _thin_expanded(state: State, inputs: Tensor, outputs: Tensor) -> State:
    have, want = len(state["1.bias"]), 2 * len(inputs)
    importance = norm_along(state["1.weight"], 0)
    importance = importance * norm_along(state["3.weight"], 0) * norm_along(state["4.weight"], 1)
    wide = keep_best(importance, want) if want < have else first(have, want)
    middle = thin_part(state, "1", wide, inputs)
    # New channels are drawn: they are not heard while the last convolution has zeros for them.
    new = (wide < 0)[:, None, None, None]
    drawn = noise_like(state["1.weight"], *middle["1.weight"].shape)
    middle["1.weight"] = middle["1.weight"] + new * drawn
    return (
        _thin_depthwise(state, "0", inputs)
        | middle
        | _thin_depthwise(state, "3", wide)
        | thin_part(state, "4", outputs, wide)
    )


def _factor(full: State) -> State:
    # Full → separable: the kernels (out, 9) of every input channel become their best product of one
    # kernel and out factors.
    kernels = full["weight"].flatten(2).transpose(0, 1)  # (in, out, 9)
    # Which kernel is best is taken as given where gradients go back: an eigenvector's own gradient
    # has no bound.
    gram = (kernels.transpose(1, 2).double() @ kernels.double()).detach()
    leading = torch.linalg.eigh(gram).eigenvectors[..., -1].float()  # (in, 9)
    factors = (kernels @ leading[..., None])[..., 0]  # (in, out)
    return {
        "0.weight": leading.view(-1, 1, 3, 3),
        "0.bias": torch.zeros(len(leading)),
        "1.weight": factors.T[..., None, None].contiguous(),
        "1.bias": full["bias"],
    }


def _multiply(separable: State) -> State:
    # Separable → full, exactly.
    pointwise, depthwise = separable["1.weight"][..., 0, 0], separable["0.weight"][:, 0]
    return {
        "weight": pointwise[..., None, None] * depthwise[None],
        "bias": separable["1.bias"] + pointwise @ separable["0.bias"],
    }


def _expand(separable: State) -> State:
    # Separable → expanded, exactly: SiLU(x) − SiLU(−x) = x, so both signs go through and their
    # difference comes out.
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


def _input_norms(state: State, kind: str) -> Tensor:
    # How strongly a convolution reads each of its input channels, (in,).
    if kind == "full":
        return norm_along(state["weight"], 1)
    return norm_along(state["0.weight"], 0) * norm_along(state["1.weight"], 1)


def output_norms(state: State, name: str, kind: str) -> Tensor:
    """How strongly the convolution ``name`` writes each of its output channels, (out,)."""
    return norm_along(state[f"{name}{LAST_PART[kind]}.weight"], 0)


def fresh(unit: units.Unit) -> State:
    """Initial weights of a unit."""
    return dict(build_unit(unit).state_dict())


def handed_on(unit: units.Downsample | units.Upsample) -> State:
    """A sampler whose convolution hands on the pixels as they are."""
    state = silenced(fresh(unit), "conv")
    torch.nn.init.dirac_(state["conv.weight"])
    return state


def inherit_residual(
    state: State,
    source: units.Residual,
    target: units.Residual,
    inputs: Tensor,
    outputs: Tensor,
    time: Tensor,
) -> State:
    """Thin a residual block to the channels of its input, output and time embedding; its
    convolutions may change their kind.

    The channels between its two convolutions are its own: those stay whose writing and reading
    norms have the largest product. Where there are more of them now, as between inverted
    convolutions, they are repeated within their norm group, whose statistics so stay, and the
    repetitions are not read yet. A shortcut that the trained block did not need picks the
    surviving channels of its input. One that the new block does not have, since its input and
    output are now equally wide, is lost: the input is added as it is, and training has to make up
    for it.
    """
    conv1, conv2 = part(state, "conv1"), part(state, "conv2")
    have, want = source.inner_channels, target.inner_channels
    within = read = torch.arange(have)
    if want < have:
        importance = output_norms(state, "conv1", source.conv) * _input_norms(conv2, source.conv)
        within = read = keep_best(importance, want, target.norm_groups)
    elif want > have:
        within, read = _repeated(have, want, target.norm_groups)
    inherited = (
        thin_part(state, "norm1", inputs)
        | placed(inherit_conv(conv1, source.conv, target.conv, inputs, within), "conv1")
        | thin_part(state, "time", within, time)
        | thin_part(state, "norm2", within)
        | placed(inherit_conv(conv2, source.conv, target.conv, read, outputs), "conv2")
    )
    # What is new to the input comes through the norm, to be learned by what reads it.
    inherited["norm1.weight"] = inherited["norm1.weight"] + (inputs < 0)
    if target.in_channels != target.out_channels:
        shortcut = part(state, "shortcut") or {
            "weight": torch.eye(source.out_channels, source.in_channels)[..., None, None],
            "bias": torch.zeros(source.out_channels),
        }
        inherited |= placed(thin(shortcut, outputs, inputs), "shortcut")
    return _without_biases(inherited) if target.conv == "inverted" else inherited


def _repeated(have: int, want: int, groups: int) -> tuple[Tensor, Tensor]:
    # Map of ``want`` channels that repeats the ``have`` there were, group by group, and the same
    # with the repetitions new, both (want,).
    groups = groups if have % groups == want % groups == 0 else 1
    place = torch.arange(want // groups)
    within = torch.arange(have).view(groups, -1)[:, place % (have // groups)]
    return within.flatten(), torch.where(place < have // groups, within, NEW).flatten()


def _without_biases(block: State) -> State:
    # The biases of convolutions that have none, given to what is added behind them: the time, and
    # the shortcut. Without a shortcut the second convolution's are lost, for training to make up.
    kept = dict(block)
    for conv, behind in (("conv1", "time.bias"), ("conv2", "shortcut.bias")):
        inner, outer = kept.pop(f"{conv}.0.bias"), kept.pop(f"{conv}.1.bias")
        if behind in kept:
            kept[behind] = kept[behind] + outer + block[f"{conv}.1.weight"].flatten(1) @ inner
    return kept


def new_residual(unit: units.Residual, current: int) -> State:
    """A block that hands on the first ``current`` channels of its input, as far as its output has
    room, and adds nothing.
    """
    state = silenced(fresh(unit), f"conv2{LAST_PART[unit.conv]}")
    if "shortcut.weight" in state:
        handed_on = take(torch.eye(unit.out_channels, current), 1, first(current, unit.in_channels))
        state = silenced(state, "shortcut") | {"shortcut.weight": handed_on[..., None, None]}
    return state


# GELU(x) ≈ x·σ(1.702·x) = SiLU(1.702·x)/1.702 (Hendrycks and Gimpel, arXiv 1606.08415, section 2).
GELU_AS_SILU = 1.702
SMOOTH = {"gelu": 1.0, "geglu": 1.0, "silu": GELU_AS_SILU, "swiglu": GELU_AS_SILU, "relu": 1.0}


def inherit_feed_forward(
    state: State, source: units.FeedForward, target: units.FeedForward, stream: Tensor
) -> State:
    """Thin a feed-forward layer to the channels ``stream`` and to the target's hidden units, and
    change its activation.

    Hidden units are kept by the product of the norms of their rows and column; new ones start
    fresh with a column of zero, which leaves the output as it was. GELU and SiLU follow one
    another by scaling (their closest forms differ by 0.02). A plain layer becomes gated exactly, by
    a value of one. A gated one becomes plain by the best line through each unit's response, were
    the normalised input Gaussian.
    """
    gated = target.activation in GATED
    new = _hidden_rows(fresh(target), gated)
    norm, contract = thin_part(state, "norm", stream), thin_part(state, "contract", stream)
    rows = _hidden_rows(state, source.activation in GATED)
    rows = take(rows, 2, torch.cat([stream, torch.tensor([rows.shape[2] - 1])]))
    if len(rows) == 2 and not gated:
        contract = _without_value(rows, contract, norm, ACTIVATIONS[source.activation])
        rows = rows[1:]
    elif len(rows) == 1 and gated:
        one = torch.zeros_like(rows)
        one[:, :, -1] = 1
        rows = torch.cat([one, rows])
    back, have, want = contract["contract.weight"], rows.shape[1], new.shape[1]
    if want > have:
        rows, back = torch.cat([rows, new[:, have:]], dim=1), take(back, 1, first(have, want))
    else:
        importance = rows[-1].norm(dim=1) * back.norm(dim=0)
        for value in rows[:-1]:
            importance = importance * value.norm(dim=1)
        kept = keep_best(importance, want)
        rows, back = rows[:, kept], back[:, kept]
    scale = SMOOTH[target.activation] / SMOOTH[source.activation]
    rows = torch.cat([rows[:-1], rows[-1:] * scale]).flatten(0, 1)
    expand = {
        "expand.weight": rows[:, :-1].contiguous(),
        "expand.bias": rows[:, -1].contiguous(),
    }
    return norm | expand | contract | {"contract.weight": back / scale}


def _hidden_rows(state: State, gated: bool) -> Tensor:
    # What computes the N hidden units, with the bias as last column: (1, N, C + 1), or (2, N, C +
    # 1), the values before the gates.
    rows = torch.cat([state["expand.weight"], state["expand.bias"][:, None]], dim=1)
    return rows.view(2 if gated else 1, -1, rows.shape[1])


def _without_value(
    rows: Tensor, contract: State, norm: State, activation: Callable[[Tensor], Tensor]
) -> State:
    # The layer behind the hidden units, once each unit's value · activation(gate) has become the
    # least-squares line slope · activation(gate) + offset.
    #
    # With z the normalised input before scale and shift, taken as standard normal, value and gate
    # are jointly normal with moments that follow from their rows; the expectation over the gate is
    # a sum over Gauss–Hermite nodes.
    scale, shift = norm["norm.weight"].double(), norm["norm.bias"].double()
    value, gate = rows.double()
    mean_gate = gate[:, :-1] @ shift + gate[:, -1]
    mean_value = value[:, :-1] @ shift + value[:, -1]
    variance = (gate[:, :-1] * scale).square().sum(dim=1).clamp(min=1e-12)
    covariance = (gate[:, :-1] * value[:, :-1] * scale.square()).sum(dim=1)
    nodes, weights = (torch.from_numpy(array) for array in np.polynomial.hermite_e.hermegauss(32))
    weights = weights / math.sqrt(2 * math.pi)
    at = mean_gate[:, None] + variance.sqrt()[:, None] * nodes  # (N, nodes)
    plain = activation(at)
    # E[value | gate] · activation(gate)
    line = mean_value[:, None] + (covariance / variance)[:, None] * (at - mean_gate[:, None])
    wanted = line * plain
    mean_plain, mean_wanted = plain @ weights, wanted @ weights
    spread = (plain.square() @ weights - mean_plain.square()).clamp(min=1e-12)
    slope = ((plain * wanted) @ weights - mean_plain * mean_wanted) / spread
    offset = mean_wanted - slope * mean_plain
    back, bias = contract["contract.weight"].double(), contract["contract.bias"].double()
    return {
        "contract.weight": (back * slope).float(),
        "contract.bias": (bias + back @ offset).float(),
    }


def inherit_transformer(state: State, source: Block, target: Block, stream: Tensor) -> State:
    """A transformer of fewer, more or other layers: each continues the one of its kind in the block
    of its number, if there is one.

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
        within = keep_best(_inner_norms(state), target.projection.channels)
    inherited = thin_part(state, "norm", stream)
    for name, rows, columns in (("proj_in", within, stream), ("proj_out", stream, within)):
        projection = part(state, name)
        linear = thin(projection | {"weight": projection["weight"].flatten(1)}, rows, columns)
        if target.projection.form == "conv":
            linear["weight"] = linear["weight"][..., None, None]
        inherited |= placed(linear, name)
    for number, layers in enumerate(target.transformers):
        trained = source.transformers[number] if number < len(source.transformers) else ()
        places = {layer.kind: (place, layer) for place, layer in enumerate(trained)}
        for place, layer in enumerate(layers):
            kind = "self_attention" if layer.kind == "norm" not in places else layer.kind
            before, old = places.get(kind, (place, None))
            new = _inherit_layer(part(state, f"blocks.{number}.{before}"), old, layer, within)
            inherited |= placed(new, f"blocks.{number}.{place}")
    return inherited


def _inherit_layer(
    state: State,
    source: units.TransformerLayer | None,
    target: units.TransformerLayer,
    stream: Tensor,
) -> State:
    # What continues a layer of the same kind; a new one adds nothing to its input. A norm in place
    # of self-attention continues that one's norm.
    if isinstance(target, units.Norm):
        return fresh(target) if source is None else thin_part(state, "norm", stream)
    if isinstance(target, units.FeedForward):
        if isinstance(source, units.FeedForward):
            return inherit_feed_forward(state, source, target, stream)
        return silenced(fresh(target), "contract")
    if not isinstance(source, AttentionUnit):
        return silenced(fresh(target), "to_out")
    return inherit_attention(state, source, target, stream)


def new_transformer(block: Block) -> State:
    """A transformer that adds nothing: its projection out is zero."""
    assert block.projection is not None
    state = silenced(fresh(block.projection), "proj_out")
    for number, layers in enumerate(block.transformers):
        for place, layer in enumerate(layers):
            state |= placed(fresh(layer), f"blocks.{number}.{place}")
    return state


def _inner_norms(state: State) -> Tensor:
    # How strongly each channel within a transformer is written and then read by the projection out,
    # (C,).
    writers = ("proj_in.weight", "to_out.weight", "contract.weight")
    written = [
        norm_along(each, 0).square() for name, each in state.items() if name.endswith(writers)
    ]
    return torch.stack(written).sum(dim=0).sqrt() * norm_along(state["proj_out.weight"], 1)
