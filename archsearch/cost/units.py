"""What one unit costs, in closed form: the one place in ``cost`` that a new knob touches. ``bill`` keeps the results.

Per unit kind: its parameters, its multiply-accumulates at batch 1 by kind, and its tape: the tensors it makes, in execution
order, from which its activation memory follows. Norms, activations and additions count no MACs, as is usual.
"""

from dataclasses import dataclass

from archsearch.unet import units
from archsearch.unet.options import GATED


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


def _parts(in_channels: int, out_channels: int, kind: str) -> list[tuple[int, int, int]]:
    """What a 3×3 convolution is made of: inputs to each of the second number of channels, those, and the kernel's size."""
    match kind:
        case "full":
            return [(in_channels, out_channels, 3)]
        case "separable":
            return [(1, in_channels, 3), (in_channels, out_channels, 1)]
        case _:
            wide = 2 * in_channels
            return [(1, in_channels, 3), (in_channels, wide, 1), (1, wide, 3), (wide, out_channels, 1)]


def _conv_params(in_channels: int, out_channels: int, kind: str) -> int:
    return sum(_conv(*part) for part in _parts(in_channels, out_channels, kind))


def _conv_macs(in_channels: int, out_channels: int, kind: str) -> int:
    """Multiply-accumulates a pixel."""
    return sum(inputs * outputs * kernel**2 for inputs, outputs, kernel in _parts(in_channels, out_channels, kind))


def _hidden(unit: units.FeedForward) -> tuple[int, int]:
    """Widths out of the first linear layer and into the second."""
    hidden = unit.expansion * unit.channels
    return hidden, hidden // 2 if unit.activation in GATED else hidden


def _kv_channels(unit: units.SelfAttention | units.CrossAttention) -> int:
    """Width of the keys, and of the values."""
    return unit.channels // unit.heads * (unit.kv_heads or unit.heads)


def _source(unit: units.SelfAttention | units.CrossAttention) -> tuple[int, int]:
    """Tokens and width of what keys and values are made from."""
    if isinstance(unit, units.CrossAttention):
        return unit.context_tokens, unit.context_dim
    return unit.tokens, unit.channels


def params(unit: units.Unit) -> int:
    """Number of parameters."""
    match unit:
        case units.Input():
            return _conv(unit.in_channels, unit.out_channels)
        case units.TimeEmbedding():
            w = unit.width
            return (unit.channels + 1) * w + (w + 1) * w + ((unit.added + 1) * w + (w + 1) * w if unit.added else 0)
        case units.TimeProjection():
            return (unit.width + 1) * unit.channels
        case units.Residual():
            i, o = unit.in_channels, unit.out_channels
            convs = _conv_params(i, o, unit.conv) + _conv_params(o, o, unit.conv)
            time = (unit.time_width + 1) * o if unit.time_width else 0
            return 2 * i + 2 * o + convs + time + (_conv(i, o, 1) if i != o else 0)
        case units.Projection():
            return 2 * unit.channels + 2 * _conv(unit.channels, unit.channels, 1)
        case units.SelfAttention() | units.CrossAttention():
            c, width, kv = unit.channels, _source(unit)[1], _kv_channels(unit)
            norms = 2 * c + (2 * (c // unit.heads) if unit.qk_norm == "rms" else 0)
            return norms + c * c + (1 if unit.shared_kv else 2) * width * kv + (c + 1) * c
        case units.FeedForward():
            c, (wide, narrow) = unit.channels, _hidden(unit)
            return 2 * c + (c + 1) * wide + (narrow + 1) * c
        case units.Downsample() | units.Upsample():
            return _conv(unit.channels, unit.channels)
        case units.Output():
            return 2 * unit.in_channels + _conv(unit.in_channels, unit.out_channels)


def macs(unit: units.Unit) -> Macs:
    """Multiply-accumulates at batch 1."""
    match unit:
        case units.Input() | units.Output():
            return Macs(conv=unit.size**2 * unit.in_channels * unit.out_channels * 9)
        case units.TimeEmbedding():
            w = unit.width
            return Macs(linear=unit.channels * w + w**2 + (unit.added * w + w**2 if unit.added else 0))
        case units.TimeProjection():
            return Macs(linear=unit.width * unit.channels)
        case units.Residual():
            i, o, pixels = unit.in_channels, unit.out_channels, unit.size**2
            shortcut = i * o if i != o else 0
            convs = _conv_macs(i, o, unit.conv) + _conv_macs(o, o, unit.conv)
            return Macs(conv=pixels * (convs + shortcut), linear=unit.time_width * o)
        case units.Projection():
            both = 2 * unit.size**2 * unit.channels**2
            return Macs(linear=both) if unit.form == "linear" else Macs(conv=both)
        case units.SelfAttention() | units.CrossAttention():
            c, (tokens, width) = unit.channels, _source(unit)
            projections = 2 * unit.tokens * c * c + (1 if unit.shared_kv else 2) * tokens * width * _kv_channels(unit)
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
            return _time_tape(unit)
        case units.TimeProjection():
            return [Op("y", unit.channels, ("x",))]
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


def _time_tape(unit: units.TimeEmbedding) -> list[Op]:
    width = unit.width
    ops = [
        *_sinusoids("", unit.channels, "x"),
        Op("linear1", width, ("sinusoids",)),
        Op("act", width, ("linear1",)),
        Op("linear2", width, ("act",)),
    ]
    if unit.added:
        ops += [
            *_sinusoids("id_", unit.ids * unit.id_dim, "x"),
            Op("added", unit.added, ("id_sinusoids",)),
            Op("added1", width, ("added",)),
            Op("added_act", width, ("added1",)),
            Op("added2", width, ("added_act",)),
            Op("sum", width, ("linear2", "added2")),
        ]
    return [*ops, Op("y", width, (ops[-1].makes,))]


def _sinusoids(prefix: str, channels: int, source: str) -> list[Op]:
    half = channels // 2
    return [
        Op(f"{prefix}angles", half, (source,)),
        Op(f"{prefix}cos", half, (f"{prefix}angles",)),
        Op(f"{prefix}sin", half, (f"{prefix}angles",)),
        Op(f"{prefix}sinusoids", channels, (f"{prefix}cos", f"{prefix}sin")),
    ]


def _residual_tape(unit: units.Residual) -> list[Op]:
    x, y = unit.in_channels * unit.size**2, unit.out_channels * unit.size**2
    ops = [Op("norm1", x, ("x",)), Op("act1", x, ("norm1",)), *_conv_tape("conv1", x, y, unit.conv, "act1")]
    ops += [Op("time", unit.out_channels, ())] if unit.time_width else []
    ops += [Op("timed", y, ("conv1", "time"))]
    ops += [Op("norm2", y, ("timed",)), Op("act2", y, ("norm2",)), *_conv_tape("conv2", y, y, unit.conv, "act2")]
    if unit.in_channels != unit.out_channels:
        return [*ops, Op("shortcut", y, ("x",)), Op("y", y, ("conv2", "shortcut"))]
    return [*ops, Op("y", y, ("conv2", "x"))]


def _conv_tape(name: str, x: int, y: int, kind: str, source: str) -> list[Op]:
    match kind:
        case "full":
            steps = [(name, y)]
        case "separable":
            steps = [(f"{name}_depthwise", x), (name, y)]
        case _:
            steps = [
                (f"{name}_{part}", size) for part, size in (("depthwise", x), ("wide", 2 * x), ("act", 2 * x), ("deep", 2 * x))
            ]
            steps.append((name, y))
    return [
        Op(makes, elements, (before,))
        for (makes, elements), before in zip(steps, (source, *(makes for makes, _ in steps)), strict=False)
    ]


def _attention_tape(unit: units.SelfAttention | units.CrossAttention) -> list[Op]:
    x, source_tokens = unit.tokens * unit.channels, _source(unit)[0]
    keys, scores = source_tokens * _kv_channels(unit), unit.heads * unit.tokens * source_tokens
    source = ("norm",) if isinstance(unit, units.SelfAttention) else ()
    grouped = bool(unit.kv_heads)
    ops = [Op("norm", x, ("x",)), Op("q", x, ("norm",))]
    if grouped and unit.tokens > 1:
        ops.append(Op("grouped", x, ("q",)))
    q, k = ops[-1].makes, "k"
    ops.append(Op("k", keys, source))
    value = "k" if unit.shared_kv else "v"
    if not unit.shared_kv:
        ops.append(Op("v", keys, source))
    if unit.qk_norm == "rms":
        ops += [*_rms_tape(q, x, unit.heads * unit.tokens), *_rms_tape("k", keys, (unit.kv_heads or unit.heads) * source_tokens)]
        q, k = f"{q}_normed", "k_normed"
    return [
        *ops,
        Op("scaled", x, (q,)),
        Op("scores", scores, ("scaled", k)),
        Op("weights", scores, ("scores",)),
        Op("heads", x, ("weights", value)),
        *([Op("merged", x, ("heads",))] if unit.heads > 1 and unit.tokens > 1 else [Op("merged", 0, ("heads",))]),
        Op("out", x, ("merged", "heads") if unit.heads == 1 else ("merged",)),
        Op("y", x, ("x", "out")),
    ]


def _rms_tape(name: str, elements: int, rows: int) -> list[Op]:
    return [
        Op(f"{name}_squares", elements, (name,)),
        Op(f"{name}_mean", rows, (f"{name}_squares",)),
        Op(f"{name}_stable", rows, (f"{name}_mean",)),
        Op(f"{name}_rsqrt", rows, (f"{name}_stable",)),
        Op(f"{name}_unit", elements, (name, f"{name}_rsqrt")),
        Op(f"{name}_normed", elements, (f"{name}_unit",)),
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
