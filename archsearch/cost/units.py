"""What one unit costs, in closed form: the one place in ``cost`` that a new knob touches.

Per unit kind: its parameters, its multiply-accumulates at batch 1 by kind, and its tape: the tensors it makes, in execution
order, from which its activation memory follows. Norms, activations and additions count no MACs, as is usual.
"""

from dataclasses import dataclass
from functools import lru_cache

from archsearch.unet import units
from archsearch.unet.config import GATED


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates by kind: convolutions, linear layers, and the two matrix products of attention."""

    conv: int = 0
    linear: int = 0
    attention: int = 0

    @property
    def total(self) -> int:
        """All kinds together."""
        return self.conv + self.linear + self.attention

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(self.conv + other.conv, self.linear + other.linear, self.attention + other.attention)


@dataclass(frozen=True, slots=True)
class Op:
    """One step of a tape: makes a tensor of ``elements`` from the named ones. ``x`` is the unit's input."""

    makes: str
    elements: int
    reads: tuple[str, ...]


def _conv(in_channels: int, out_channels: int, kernel: int = 3) -> int:
    return in_channels * out_channels * kernel**2 + out_channels


def _conv_of_kind(in_channels: int, out_channels: int, kind: str) -> int:
    if kind == "full":
        return _conv(in_channels, out_channels)
    return in_channels * 9 + in_channels + _conv(in_channels, out_channels, 1)


def _conv_macs(in_channels: int, out_channels: int, pixels: int, kind: str) -> int:
    return pixels * (in_channels * out_channels * 9 if kind == "full" else in_channels * 9 + in_channels * out_channels)


def _hidden(unit: units.FeedForward) -> tuple[int, int]:
    """Widths out of the first linear layer and into the second."""
    hidden = unit.expansion * unit.channels
    return hidden, hidden // 2 if unit.activation in GATED else hidden


def _source(unit: units.SelfAttention | units.CrossAttention) -> tuple[int, int]:
    """Tokens and width of what keys and values are made from."""
    if isinstance(unit, units.CrossAttention):
        return unit.context_tokens, unit.context_dim
    return unit.tokens, unit.channels


@lru_cache(maxsize=65536)
def params(unit: units.Unit) -> int:
    """Number of parameters."""
    match unit:
        case units.Input():
            return _conv(unit.in_channels, unit.out_channels)
        case units.TimeEmbedding():
            return (unit.channels + 1) * unit.width + (unit.width + 1) * unit.width
        case units.Residual():
            i, o = unit.in_channels, unit.out_channels
            convs = _conv_of_kind(i, o, unit.conv) + _conv_of_kind(o, o, unit.conv)
            return 2 * i + 2 * o + convs + (unit.time_width + 1) * o + (_conv(i, o, 1) if i != o else 0)
        case units.Projection():
            return 2 * unit.channels + 2 * _conv(unit.channels, unit.channels, 1)
        case units.SelfAttention() | units.CrossAttention():
            c, width = unit.channels, _source(unit)[1]
            return 2 * c + c * c + (1 if unit.shared_kv else 2) * width * c + (c + 1) * c
        case units.FeedForward():
            c, (wide, narrow) = unit.channels, _hidden(unit)
            return 2 * c + (c + 1) * wide + (narrow + 1) * c
        case units.Downsample() | units.Upsample():
            return _conv(unit.channels, unit.channels)
        case units.Output():
            return 2 * unit.in_channels + _conv(unit.in_channels, unit.out_channels)


@lru_cache(maxsize=65536)
def macs(unit: units.Unit) -> Macs:
    """Multiply-accumulates at batch 1."""
    match unit:
        case units.Input() | units.Output():
            return Macs(conv=unit.size**2 * unit.in_channels * unit.out_channels * 9)
        case units.TimeEmbedding():
            return Macs(linear=unit.channels * unit.width + unit.width**2)
        case units.Residual():
            i, o, pixels = unit.in_channels, unit.out_channels, unit.size**2
            shortcut = pixels * i * o if i != o else 0
            convs = _conv_macs(i, o, pixels, unit.conv) + _conv_macs(o, o, pixels, unit.conv)
            return Macs(conv=convs + shortcut, linear=unit.time_width * o)
        case units.Projection():
            return Macs(conv=2 * unit.size**2 * unit.channels**2)
        case units.SelfAttention() | units.CrossAttention():
            c, (tokens, width) = unit.channels, _source(unit)
            projections = 2 * unit.tokens * c * c + (1 if unit.shared_kv else 2) * tokens * width * c
            return Macs(linear=projections, attention=2 * unit.tokens * tokens * c)
        case units.FeedForward():
            wide, narrow = _hidden(unit)
            return Macs(linear=unit.tokens * unit.channels * (wide + narrow))
        case units.Downsample():
            return Macs(conv=(unit.size // 2) ** 2 * unit.channels**2 * 9)
        case units.Upsample():
            return Macs(conv=(unit.size * 2) ** 2 * unit.channels**2 * 9)


def tape(unit: units.Unit) -> list[Op]:
    """The tensors the unit makes, in execution order, at batch 1; views make none. The last one is its output."""
    match unit:
        case units.Input():
            return [Op("y", unit.out_channels * unit.size**2, ("x",))]
        case units.TimeEmbedding():
            half, width = unit.channels // 2, unit.width
            return [
                Op("angles", half, ("x",)),
                Op("cos", half, ("angles",)),
                Op("sin", half, ("angles",)),
                Op("sinusoids", unit.channels, ("cos", "sin")),
                Op("linear1", width, ("sinusoids",)),
                Op("act", width, ("linear1",)),
                Op("linear2", width, ("act",)),
                Op("y", width, ("linear2",)),
            ]
        case units.Residual():
            return _residual_tape(unit)
        case units.Projection():
            raise ValueError("a projection frames its transformer blocks: see cost.memory")
        case units.SelfAttention() | units.CrossAttention():
            return _attention_tape(unit)
        case units.FeedForward():
            return _feed_forward_tape(unit)
        case units.Downsample():
            return [Op("y", unit.channels * (unit.size // 2) ** 2, ("x",))]
        case units.Upsample():
            elements = unit.channels * (2 * unit.size) ** 2
            return [Op("nearest", elements, ("x",)), Op("y", elements, ("nearest",))]
        case units.Output():
            elements = unit.in_channels * unit.size**2
            return [
                Op("norm", elements, ("x",)),
                Op("act", elements, ("norm",)),
                Op("y", unit.out_channels * unit.size**2, ("act",)),
            ]


def _residual_tape(unit: units.Residual) -> list[Op]:
    x, y = unit.in_channels * unit.size**2, unit.out_channels * unit.size**2
    separable = unit.conv == "separable"
    ops = [Op("norm1", x, ("x",)), Op("act1", x, ("norm1",))]
    ops += [Op("depthwise1", x, ("act1",)), Op("conv1", y, ("depthwise1",))] if separable else [Op("conv1", y, ("act1",))]
    ops += [Op("time", unit.out_channels, ()), Op("timed", y, ("conv1", "time"))]
    ops += [Op("norm2", y, ("timed",)), Op("act2", y, ("norm2",))]
    ops += [Op("depthwise2", y, ("act2",)), Op("conv2", y, ("depthwise2",))] if separable else [Op("conv2", y, ("act2",))]
    if unit.in_channels != unit.out_channels:
        return [*ops, Op("shortcut", y, ("x",)), Op("y", y, ("conv2", "shortcut"))]
    return [*ops, Op("y", y, ("conv2", "x"))]


def _attention_tape(unit: units.SelfAttention | units.CrossAttention) -> list[Op]:
    x, source_tokens = unit.tokens * unit.channels, _source(unit)[0]
    keys, scores = source_tokens * unit.channels, unit.heads * unit.tokens * source_tokens
    source = ("norm",) if isinstance(unit, units.SelfAttention) else ()
    ops = [Op("norm", x, ("x",)), Op("q", x, ("norm",)), Op("k", keys, source)]
    value = "k" if unit.shared_kv else "v"
    if not unit.shared_kv:
        ops.append(Op("v", keys, source))
    return [
        *ops,
        Op("scaled", x, ("q",)),
        Op("scores", scores, ("scaled", "k")),
        Op("weights", scores, ("scores",)),
        Op("heads", x, ("weights", value)),
        *([Op("merged", x, ("heads",))] if unit.heads > 1 and unit.tokens > 1 else [Op("merged", 0, ("heads",))]),
        Op("out", x, ("merged", "heads") if unit.heads == 1 else ("merged",)),
        Op("y", x, ("x", "out")),
    ]


def _feed_forward_tape(unit: units.FeedForward) -> list[Op]:
    x, (wide, narrow) = unit.tokens * unit.channels, _hidden(unit)
    ops = [Op("norm", x, ("x",)), Op("wide", unit.tokens * wide, ("norm",))]
    if unit.activation in GATED:
        ops += [
            Op("gate", unit.tokens * narrow, ("wide",)),
            Op("gated", unit.tokens * narrow, ("wide", "gate")),
            Op("out", x, ("gated",)),
        ]
    else:
        ops += [Op("act", unit.tokens * wide, ("wide",)), Op("out", x, ("act",))]
    return [*ops, Op("y", x, ("x", "out"))]
