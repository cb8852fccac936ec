"""How the weights of a block are taken over by a changed one."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from archsearch.edit import heads as parts
from archsearch.edit.heads import Heads
from archsearch.edit.maps import State, first, keep_best, norm_along, part, placed, take
from archsearch.errors import InputError
from archsearch.unet import units
from archsearch.unet.config import GATED
from archsearch.unet.model import ACTIVATIONS, build_unit
from archsearch.unet.plan import Block

AttentionUnit = units.SelfAttention | units.CrossAttention


def inherit_attention(
    state: State, source: AttentionUnit, target: AttentionUnit, stream: Tensor
) -> State:
    """Thin attention to the channels ``stream`` of its stream and give it the target's heads,
    sharing and norms.

    The normaliser needs nothing: the ReLU network starts from the softmax network's weights, as
    MobileDiffusion's finetuning does. Order: heads of queries, groups of keys and values, then
    channels a head and sharing at once, each as ``heads`` tells. Queries are scaled so that scores,
    which are divided by √D, come out as before.
    """
    tensors = _thin_attention(state, isinstance(source, units.SelfAttention), stream)
    heads, dim = _split(tensors, source), target.channels // target.heads
    if target.heads != heads.count:
        heads = parts.with_count(heads, target.heads)
    heads, before = parts.regroup(heads, target.kv_heads or target.heads), heads.dim
    mixed = True  # whether channels of a head are combinations of those there were
    if target.shared_kv and (not source.shared_kv or dim < before):
        heads = parts.share(heads, dim)
    elif dim != before:
        heads = parts.with_dim(heads, dim)
    else:
        mixed = False
    heads = replace(heads, q=heads.q * math.sqrt(dim / before))
    heads, scales = _normed(tensors, heads, source, target, mixed)
    kept = {name: tensors[name] for name in ("norm.weight", "norm.bias", "to_out.bias")}
    return kept | _merge(heads, target.shared_kv) | scales


def _thin_attention(state: State, self_attention: bool, stream: Tensor) -> State:
    thin = {
        name: take(state[name], 0, stream)
        for name in ("norm.weight", "norm.bias", "to_out.weight", "to_out.bias")
    }
    thin |= {
        name: tensor for name, tensor in state.items() if name.startswith(("norm_q", "norm_k"))
    }
    for name in ("to_q.weight", "to_k.weight", "to_v.weight"):
        if name in state:
            reads_stream = self_attention or name == "to_q.weight"
            thin[name] = take(state[name], 1, stream) if reads_stream else state[name]
    return thin


def _split(state: State, unit: AttentionUnit) -> Heads:
    kv_heads = unit.kv_heads or unit.heads
    key = _rows(state["to_k.weight"], kv_heads)
    value = key if unit.shared_kv else _rows(state["to_v.weight"], kv_heads)
    output = _rows(state["to_out.weight"].T, unit.heads).transpose(1, 2)
    return Heads(_rows(state["to_q.weight"], unit.heads), key, value, output)


def _rows(weight: Tensor, heads: int) -> Tensor:
    return weight.reshape(heads, -1, weight.shape[1])


def _merge(heads: Heads, shared: bool) -> State:
    merged = {"to_q.weight": heads.q.flatten(0, 1), "to_k.weight": heads.k.flatten(0, 1)}
    if not shared:
        merged["to_v.weight"] = heads.v.flatten(0, 1)
    return merged | {"to_out.weight": heads.o.transpose(0, 1).flatten(1)}


def _normed(
    state: State, heads: Heads, source: AttentionUnit, target: AttentionUnit, mixed: bool
) -> tuple[Heads, State]:
    """The norms of queries and keys, and queries that make up for a norm that goes.

    A trained norm stays as it is while its channels do, and keeps the mean of its scales where they
    are mixed. A new one begins with the root mean square that it takes away; where one goes, what
    it did to the size of the scores goes into the queries.
    """
    had, wanted = source.qk_norm == "rms", target.qk_norm == "rms"
    if not had and not wanted:
        return heads, {}
    if had and wanted and not mixed:
        return heads, {name: state[name] for name in ("norm_q.weight", "norm_k.weight")}
    sizes = {
        "norm_q.weight": _size(state, heads.q, normalised=True),
        "norm_k.weight": _size(state, heads.k, normalised=isinstance(target, units.SelfAttention)),
    }
    trained = {name: float(state[name].mean()) for name in sizes} if had else sizes
    if wanted:
        return heads, {name: torch.full((heads.dim,), size) for name, size in trained.items()}
    scale = math.prod(trained[name] / sizes[name] for name in sizes)
    return replace(heads, q=heads.q * scale), {}


def _size(state: State, weights: Tensor, normalised: bool) -> float:
    """Root mean square of what ``weights`` (heads, D, C) make of the layer norm's output, or of
    input of unit variance.
    """
    if not normalised:
        return float(weights.square().sum(dim=2).mean().sqrt())
    scale, shift = state["norm.weight"], state["norm.bias"]
    return float(((weights * scale).square().sum(dim=2) + (weights @ shift).square()).mean().sqrt())


GELU_AS_SILU = 1.702
"""GELU(x) ≈ x·σ(1.702·x) = SiLU(1.702·x)/1.702 (Hendrycks and Gimpel, arXiv 1606.08415, section 2).
"""
SMOOTH = {"gelu": 1.0, "geglu": 1.0, "silu": GELU_AS_SILU, "swiglu": GELU_AS_SILU, "relu": 1.0}


@dataclass(frozen=True, slots=True)
class _Hidden:
    """Rows (N, C + 1) with the bias as last column, the value's where gated; columns back (C, N)
    and their bias (C,).
    """

    gate: Tensor
    value: Tensor | None
    back: Tensor
    bias: Tensor


def inherit_feed_forward(
    state: State, source: units.FeedForward, target: units.FeedForward, stream: Tensor, fresh: State
) -> State:
    """Thin a feed-forward layer to the channels ``stream`` and to the target's hidden units, and
    change its activation.

    Hidden units are kept by the product of the norms of their rows and column; new ones start from
    ``fresh`` with a column of zero, which leaves the output as it was. GELU and SiLU follow one
    another by scaling (their closest forms differ by 0.02). A plain layer becomes gated exactly, by
    a value of one. A gated one becomes plain by the best line through each unit's response, were
    the normalised input Gaussian.
    """
    norm = {name: take(state[name], 0, stream) for name in ("norm.weight", "norm.bias")}
    hidden = _thin_hidden(_read(state, source.activation in GATED), stream)
    if hidden.value is not None and target.activation not in GATED:
        hidden = _drop_value(hidden, norm, ACTIVATIONS[source.activation])
    elif hidden.value is None and target.activation in GATED:
        ones = torch.zeros_like(hidden.gate)
        ones[:, -1] = 1
        hidden = _Hidden(hidden.gate, ones, hidden.back, hidden.bias)
    hidden = _resize(hidden, _read(fresh, target.activation in GATED))
    scale = SMOOTH[target.activation] / SMOOTH[source.activation]
    return norm | _write(
        _Hidden(hidden.gate * scale, hidden.value, hidden.back / scale, hidden.bias)
    )


def _read(state: State, gated: bool) -> _Hidden:
    rows = torch.cat([state["expand.weight"], state["expand.bias"][:, None]], dim=1)
    value, gate = rows.chunk(2) if gated else (None, rows)
    return _Hidden(gate, value, state["contract.weight"], state["contract.bias"])


def _write(hidden: _Hidden) -> State:
    rows = hidden.gate if hidden.value is None else torch.cat([hidden.value, hidden.gate])
    return {
        "expand.weight": rows[:, :-1].contiguous(),
        "expand.bias": rows[:, -1].contiguous(),
        "contract.weight": hidden.back,
        "contract.bias": hidden.bias,
    }


def _thin_hidden(hidden: _Hidden, stream: Tensor) -> _Hidden:
    columns = torch.cat([stream, torch.tensor([hidden.gate.shape[1] - 1])])
    value = None if hidden.value is None else take(hidden.value, 1, columns)
    return _Hidden(
        take(hidden.gate, 1, columns),
        value,
        take(hidden.back, 0, stream),
        take(hidden.bias, 0, stream),
    )


def _resize(hidden: _Hidden, fresh: _Hidden) -> _Hidden:
    """As many hidden units as ``fresh`` has: the most important ones, or all of them and then its
    own, unheard.
    """
    have, want = len(hidden.gate), len(fresh.gate)
    if want > have:
        value = None
        if hidden.value is not None and fresh.value is not None:
            value = torch.cat([hidden.value, fresh.value[have:]])
        return _Hidden(
            torch.cat([hidden.gate, fresh.gate[have:]]),
            value,
            take(hidden.back, 1, first(have, want)),
            hidden.bias,
        )
    importance = hidden.gate.norm(dim=1) * hidden.back.norm(dim=0)
    if hidden.value is not None:
        importance = importance * hidden.value.norm(dim=1)
    kept = keep_best(importance, want)
    value = None if hidden.value is None else hidden.value[kept]
    return _Hidden(hidden.gate[kept], value, hidden.back[:, kept], hidden.bias)


def _drop_value(hidden: _Hidden, norm: State, activation: Callable[[Tensor], Tensor]) -> _Hidden:
    """Replace each unit's value · activation(gate) by the least-squares line slope ·
    activation(gate) + offset.

    With z the normalised input before scale and shift, taken as standard normal, value and gate are
    jointly normal with moments that follow from their rows; the expectation over the gate is a sum
    over Gauss–Hermite nodes.
    """
    assert hidden.value is not None
    scale, shift = norm["norm.weight"].double(), norm["norm.bias"].double()
    gate, value = hidden.gate.double(), hidden.value.double()
    mean_gate = gate[:, :-1] @ shift + gate[:, -1]
    mean_value = value[:, :-1] @ shift + value[:, -1]
    variance = (gate[:, :-1] * scale).square().sum(dim=1).clamp(min=1e-12)
    covariance = (gate[:, :-1] * value[:, :-1] * scale.square()).sum(dim=1)
    nodes, weights = (torch.from_numpy(array) for array in np.polynomial.hermite_e.hermegauss(32))
    weights = weights / math.sqrt(2 * math.pi)
    at = mean_gate[:, None] + variance.sqrt()[:, None] * nodes  # (N, nodes)
    plain = activation(at)
    wanted = (
        mean_value[:, None] + (covariance / variance)[:, None] * (at - mean_gate[:, None])
    ) * plain  # E[value | gate] · act
    mean_plain, mean_wanted = plain @ weights, wanted @ weights
    spread = (plain.square() @ weights - mean_plain.square()).clamp(min=1e-12)
    slope = ((plain * wanted) @ weights - mean_plain * mean_wanted) / spread
    offset = mean_wanted - slope * mean_plain
    back = hidden.back.double()
    return _Hidden(
        hidden.gate, None, (back * slope).float(), (hidden.bias.double() + back @ offset).float()
    )


def inherit_conv(state: State, kind: str, target: str, inputs: Tensor, outputs: Tensor) -> State:
    """Thin a convolution of ``kind`` to the given channels and turn it into one of kind ``target``.

    Exact: separable → full, separable → expanded. Full → separable (and on to expanded) takes, for
    every input channel, the best depthwise kernel in the least-squares sense: the leading singular
    vector of its kernels to all outputs.

    Args:
        state: The convolution's tensors.
        kind: full, separable or expanded.
        target: full, separable or expanded.
        inputs: Map of the input channels.
        outputs: Map of the output channels.

    Raises:
        InputError: From expanded to another kind: the activation within cannot be folded.
    """
    thin = _thin_convolution(state, kind, inputs, outputs)
    if kind == target:
        return thin
    if kind == "expanded":
        raise InputError(
            f"conv: an expanded convolution cannot become {target}: the activation within it "
            "cannot be folded"
        )
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
    return state | {
        f"{last}{name}": torch.zeros_like(state[f"{last}{name}"]) for name in ("weight", "bias")
    }


def _thin_convolution(state: State, kind: str, inputs: Tensor, outputs: Tensor) -> State:
    if kind == "full":
        return {
            "weight": take(take(state["weight"], 0, outputs), 1, inputs),
            "bias": take(state["bias"], 0, outputs),
        }
    depthwise = {name: take(state[name], 0, inputs) for name in ("0.weight", "0.bias")}
    depthwise["0.weight"] = _passing(depthwise["0.weight"], inputs)
    if kind == "separable":
        pointwise = {
            "1.weight": take(take(state["1.weight"], 0, outputs), 1, inputs),
            "1.bias": take(state["1.bias"], 0, outputs),
        }
        return depthwise | pointwise
    within = (
        norm_along(state["1.weight"], 0)
        * norm_along(state["3.weight"], 0)
        * norm_along(state["4.weight"], 1)
    )
    wide = (
        keep_best(within, 2 * len(inputs))
        if 2 * len(inputs) < len(within)
        else first(len(within), 2 * len(inputs))
    )
    middle = {
        name: take(state[name], 0, wide) for name in ("1.weight", "1.bias", "3.weight", "3.bias")
    }
    middle["1.weight"] = take(middle["1.weight"], 1, inputs)
    new = (
        wide < 0
    )  # drawn anew, and not heard while the last pointwise convolution has zeros for them
    middle["1.weight"] = middle["1.weight"] + new[:, None, None, None] * _like(
        state["1.weight"], middle["1.weight"]
    )
    middle["3.weight"] = _passing(middle["3.weight"], wide)
    last = {
        "4.weight": take(take(state["4.weight"], 0, outputs), 1, wide),
        "4.bias": take(state["4.bias"], 0, outputs),
    }
    return depthwise | middle | last


def _like(known: Tensor, wanted: Tensor) -> Tensor:
    """Random numbers of the size of ``known`` and the shape of ``wanted``."""
    return known.square().mean().sqrt() * torch.randn_like(wanted)


def _passing(kernels: Tensor, index: Tensor) -> Tensor:
    """Depthwise kernels (N, 1, 3, 3) that hand new channels on, so that the pointwise convolution
    behind can learn to read them.
    """
    centre = torch.zeros_like(kernels)
    centre[:, :, 1, 1] = 1
    return kernels + (index < 0)[:, None, None, None] * centre


def _factor(full: State) -> State:
    """Full → separable: the kernels (out, 9) of every input channel become their best product of
    one kernel and out factors.
    """
    kernels = full["weight"].flatten(2).transpose(0, 1)  # (in, out, 9)
    leading = (
        torch.linalg.eigh(kernels.transpose(1, 2).double() @ kernels.double())
        .eigenvectors[..., -1]
        .float()
    )  # (in, 9)
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
    """Separable → expanded, exactly: SiLU(x) − SiLU(−x) = x, so both signs go through and their
    difference comes out.
    """
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


def fresh(unit: units.Unit) -> State:
    """Initial weights of a unit."""
    return dict(build_unit(unit).state_dict())


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
    norms have the largest product. A shortcut that the trained block did not need picks the
    surviving channels of its input. One that the new block does not have, since its input and
    output are now equally wide, is lost: the input is added as it is, and training has to make up
    for it.
    """
    conv1, conv2 = part(state, "conv1"), part(state, "conv2")
    within = torch.arange(source.out_channels)
    if target.out_channels < source.out_channels:
        importance = output_norms(conv1, source.conv) * input_norms(conv2, source.conv)
        within = keep_best(importance, target.out_channels, target.norm_groups)
    inherited = {
        f"norm1.{name}": take(state[f"norm1.{name}"], 0, inputs) for name in ("weight", "bias")
    }
    inherited["norm1.weight"] = inherited["norm1.weight"] + (
        inputs < 0
    )  # what is new comes through, to be learned by what reads it
    inherited |= placed(inherit_conv(conv1, source.conv, target.conv, inputs, within), "conv1")
    inherited["time.weight"] = take(take(state["time.weight"], 0, within), 1, time)
    inherited["time.bias"] = take(state["time.bias"], 0, within)
    inherited |= {
        f"norm2.{name}": take(state[f"norm2.{name}"], 0, within) for name in ("weight", "bias")
    }
    inherited |= placed(inherit_conv(conv2, source.conv, target.conv, within, outputs), "conv2")
    if target.in_channels != target.out_channels:
        weight = state.get(
            "shortcut.weight", torch.eye(source.out_channels, source.in_channels)[..., None, None]
        )
        bias = state.get("shortcut.bias", torch.zeros(source.out_channels))
        inherited |= {
            "shortcut.weight": take(take(weight, 0, outputs), 1, inputs),
            "shortcut.bias": take(bias, 0, outputs),
        }
    return inherited


def new_residual(unit: units.Residual, current: int) -> State:
    """A block that hands on the first ``current`` channels of its input, as far as its output has
    room, and adds nothing.
    """
    state = fresh(unit)
    state |= placed(silence(part(state, "conv2"), unit.conv), "conv2")
    if "shortcut.weight" in state:
        handed_on = take(torch.eye(unit.out_channels, current), 1, first(current, unit.in_channels))
        state |= {
            "shortcut.weight": handed_on[..., None, None],
            "shortcut.bias": torch.zeros(unit.out_channels),
        }
    return state


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
        within = keep_best(_importance(state), target.projection.channels)
    inherited = {
        f"norm.{name}": take(state[f"norm.{name}"], 0, stream) for name in ("weight", "bias")
    }
    for name, rows, columns in (("proj_in", within, stream), ("proj_out", stream, within)):
        weight = take(take(state[f"{name}.weight"].flatten(1), 0, rows), 1, columns)
        inherited[f"{name}.weight"] = (
            weight if target.projection.form == "linear" else weight[..., None, None]
        )
        inherited[f"{name}.bias"] = take(state[f"{name}.bias"], 0, rows)
    for number, layers in enumerate(target.transformers):
        old = source.transformers[number] if number < len(source.transformers) else ()
        places = {layer.kind: place for place, layer in enumerate(old)}
        for place, layer in enumerate(layers):
            prefix = f"blocks.{number}.{place}"
            if layer.kind in places:
                before = places[layer.kind]
                inherited |= placed(
                    _layer(part(state, f"blocks.{number}.{before}"), old[before], layer, within),
                    prefix,
                )
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


def _layer(
    state: State, source: units.TransformerLayer, target: units.TransformerLayer, stream: Tensor
) -> State:
    if isinstance(source, units.FeedForward) and isinstance(target, units.FeedForward):
        return inherit_feed_forward(state, source, target, stream, fresh(target))
    assert not isinstance(source, units.FeedForward)
    assert not isinstance(target, units.FeedForward)
    return inherit_attention(state, source, target, stream)


def _silent(state: State, layer: units.TransformerLayer) -> State:
    """The same layer, adding nothing to its input until it is trained."""
    last = "contract" if isinstance(layer, units.FeedForward) else "to_out"
    return state | {
        f"{last}.{name}": torch.zeros_like(state[f"{last}.{name}"]) for name in ("weight", "bias")
    }


def _importance(state: State) -> Tensor:
    """How strongly each channel within a transformer is written and then read by the projection
    out, (C,).
    """
    writers = [
        tensor
        for name, tensor in state.items()
        if name.endswith(("proj_in.weight", "to_out.weight", "contract.weight"))
    ]
    written = torch.stack([norm_along(tensor, 0).square() for tensor in writers]).sum(dim=0).sqrt()
    return written * norm_along(state["proj_out.weight"], 1)


def inherit_linear(state: State, rows: Tensor, columns: Tensor) -> State:
    """A full convolution or linear layer thinned to rows and columns."""
    return {
        "weight": take(take(state["weight"], 0, rows), 1, columns),
        "bias": take(state["bias"], 0, rows),
    }
