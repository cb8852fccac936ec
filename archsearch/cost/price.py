"""What a network costs, counted in closed form: parameters, MACs by kind, activation memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

from archsearch.unet import units
from archsearch.unet.config import GATED, ResidualBlock, UNetConfig
from archsearch.unet.plan import Block, Plan, plan
from archsearch.unet.units import Unit, unit_fields


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates by kind: convolutions, linear layers, and the two matrix products of
    attention.
    """

    conv: int = 0
    linear: int = 0
    attention: int = 0

    @property
    def total(self) -> int:
        """All kinds together."""
        return self.conv + self.linear + self.attention

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(
            self.conv + other.conv, self.linear + other.linear, self.attention + other.attention
        )


@dataclass(frozen=True, slots=True)
class Op:
    """One step of a tape: makes a tensor of ``elements`` from the named ones. ``x`` is the unit's
    input.
    """

    makes: str
    elements: int
    reads: tuple[str, ...]


def _conv(in_channels: int, out_channels: int, kernel: int = 3) -> int:
    return in_channels * out_channels * kernel**2 + out_channels


def _parts(in_channels: int, out_channels: int, kind: str) -> list[tuple[int, int, int]]:
    """What a 3×3 convolution is made of: inputs to each of the second number of channels, those,
    and the kernel's size.
    """
    match kind:
        case "full":
            return [(in_channels, out_channels, 3)]
        case "separable":
            return [(1, in_channels, 3), (in_channels, out_channels, 1)]
        case _:
            wide = 2 * in_channels
            return [
                (1, in_channels, 3),
                (in_channels, wide, 1),
                (1, wide, 3),
                (wide, out_channels, 1),
            ]


def _conv_params(in_channels: int, out_channels: int, kind: str) -> int:
    return sum(_conv(*part) for part in _parts(in_channels, out_channels, kind))


def _conv_macs(in_channels: int, out_channels: int, kind: str) -> int:
    """Multiply-accumulates a pixel."""
    return sum(
        inputs * outputs * kernel**2
        for inputs, outputs, kernel in _parts(in_channels, out_channels, kind)
    )


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
            return (
                (unit.channels + 1) * w
                + (w + 1) * w
                + ((unit.added + 1) * w + (w + 1) * w if unit.added else 0)
            )
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
            return Macs(
                linear=unit.channels * w + w**2 + (unit.added * w + w**2 if unit.added else 0)
            )
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
            projections = 2 * unit.tokens * c * c + (
                1 if unit.shared_kv else 2
            ) * tokens * width * _kv_channels(unit)
            return Macs(linear=projections, attention=2 * unit.tokens * tokens * c)
        case units.FeedForward():
            wide, narrow = _hidden(unit)
            return Macs(linear=unit.tokens * unit.channels * (wide + narrow))
        case units.Downsample():
            return Macs(conv=(unit.size // 2) ** 2 * unit.channels**2 * 9)
        case units.Upsample():
            return Macs(conv=(unit.size * 2) ** 2 * unit.channels**2 * 9)


def tape(unit: units.Unit) -> list[Op]:
    """The tensors the unit makes, in execution order, at batch 1; views make none. The last one is
    its output.
    """
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
    ops = [
        Op("norm1", x, ("x",)),
        Op("act1", x, ("norm1",)),
        *_conv_tape("conv1", x, y, unit.conv, "act1"),
    ]
    ops += [Op("time", unit.out_channels, ())] if unit.time_width else []
    ops += [Op("timed", y, ("conv1", "time"))]
    ops += [
        Op("norm2", y, ("timed",)),
        Op("act2", y, ("norm2",)),
        *_conv_tape("conv2", y, y, unit.conv, "act2"),
    ]
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
                (f"{name}_{part}", size)
                for part, size in (
                    ("depthwise", x),
                    ("wide", 2 * x),
                    ("act", 2 * x),
                    ("deep", 2 * x),
                )
            ]
            steps.append((name, y))
    return [
        Op(makes, elements, (before,))
        for (makes, elements), before in zip(
            steps, (source, *(makes for makes, _ in steps)), strict=False
        )
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
        ops += [
            *_rms_tape(q, x, unit.heads * unit.tokens),
            *_rms_tape("k", keys, (unit.kv_heads or unit.heads) * source_tokens),
        ]
        q, k = f"{q}_normed", "k_normed"
    return [
        *ops,
        Op("scaled", x, (q,)),
        Op("scores", scores, ("scaled", k)),
        Op("weights", scores, ("scores",)),
        Op("heads", x, ("weights", value)),
        *(
            [Op("merged", x, ("heads",))]
            if unit.heads > 1 and unit.tokens > 1
            else [Op("merged", 0, ("heads",))]
        ),
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


@dataclass(frozen=True, slots=True)
class Bill:
    """Parameters, multiply-accumulates by kind, and the most elements alive at once while the unit
    runs.
    """

    params: int
    conv: int
    linear: int
    attention: int
    peak: int
    """Its input counted."""
    peak_held: int
    """Its input not counted, since someone else holds it."""


@lru_cache(maxsize=65536)
def bill(unit: units.Unit) -> Bill:
    """Price a unit at batch 1."""
    counted = macs(unit)
    x = _input_elements(unit)
    # What frames transformer blocks has no tape of its own: see cost.memory.
    peaks = (
        (0, 0) if isinstance(unit, units.Projection) else (peak(tape(unit), x), peak(tape(unit), 0))
    )
    return Bill(params(unit), counted.conv, counted.linear, counted.attention, *peaks)


def _input_elements(unit: units.Unit) -> int:
    """Elements of a unit's input; 0 where it belongs to the caller."""
    match unit:
        case units.Input() | units.TimeEmbedding() | units.TimeProjection():
            return 0
        case units.Residual() | units.Output():
            return unit.in_channels * unit.size**2
        case units.Projection() | units.Downsample() | units.Upsample():
            return unit.channels * unit.size**2
        case _:
            return unit.tokens * unit.channels


def peak(ops: list[Op], x: int) -> int:
    """Most elements alive at once over ``ops``, with ``x`` elements of input to count."""
    last_read = {name: step for step, op in enumerate(ops) for name in op.reads}
    alive = {"x": x}
    most = x
    for step, op in enumerate(ops):
        alive[op.makes] = op.elements
        most = max(most, sum(alive.values()))
        for name in [name for name in alive if last_read.get(name, -1) <= step and name != "y"]:
            del alive[name]
    return most


def peak_activation_elements(plan: Plan, bills: Mapping[int, Bill]) -> int:
    """Most elements alive at once in a forward pass of ``plan``.

    Args:
        plan: The network, resolved.
        bills: What its units cost, by their ``id``.
    """
    return _Walk(plan, bills).run()


class _Walk:
    """Follows a forward pass: ``held`` is what lives besides the running unit, ``size`` the
    elements of the current tensor.
    """

    def __init__(self, plan: Plan, bills: Mapping[int, Bill]) -> None:
        self.plan = plan
        self.bills = bills
        self.held = plan.input.in_channels * plan.input.size**2 + plan.context[0] * plan.context[1]
        self.held += plan.time.text_dim + plan.time.ids
        self.peak = 0
        self.size = 0
        self.is_skip = False
        self.blocks: dict[
            tuple[int, bool], int
        ] = {}  # equal blocks are one object: each is looked at once

    def run(self) -> int:
        plan = self.plan
        skips: list[int] = []
        self._unit(plan.time, 0)
        self.held += plan.time.width
        self._unit(plan.input, plan.input.out_channels * plan.input.size**2)
        for stage in plan.stages:
            self._keep(skips, stage.keeps(0))
            for index, block in enumerate(stage.down):
                self._block(block)
                self._keep(skips, stage.keeps(index + 1))
            if stage.downsample:
                self._unit(stage.downsample, self.size // 4)
        for block in plan.middle:
            self._block(block)
        residuals_left = sum(len(stage.up) for stage in plan.stages)
        for stage in reversed(plan.stages):
            for block in stage.up:
                if block.skip:
                    self._concatenate(skips)
                self._block(block, last=residuals_left == 1)
                residuals_left -= 1
            if stage.upsample:
                self._unit(stage.upsample, self.size * 4)
        self._unit(plan.output, 0)
        return self.peak

    def _unit(self, unit: units.Unit, out: int) -> None:
        cost = self.bills[id(unit)]
        self.peak = max(self.peak, self.held + (cost.peak_held if self.is_skip else cost.peak))
        self.size, self.is_skip = out, False

    def _block(self, block: Block, last: bool = False) -> None:
        residual = block.residual
        key = (id(block), self.is_skip)
        peak = self.blocks.get(key)
        if peak is None or last:
            cost = self.bills[id(residual)]
            peak = cost.peak_held if self.is_skip else cost.peak
            if block.projection:
                released = (
                    self.plan.time.width if last else 0
                )  # nothing after the last residual block reads the time embedding
                peak = max(peak, self._transformer_peak(block.projection, block) - released)
            self.blocks[key] = peak
        self.peak = max(self.peak, self.held + peak)
        if last:
            self.held -= self.plan.time.width
        self.size, self.is_skip = residual.out_channels * residual.size**2, False

    def _transformer_peak(self, projection: units.Projection, block: Block) -> int:
        x = projection.channels * projection.size**2
        inner = (
            2 * x
        )  # around the layers: norm, projection and the copy to token order, two at a time beside the input
        for key in set(map(id, chain.from_iterable(block.transformers))):
            inner = max(inner, self.bills[key].peak)
        return x + inner  # the residual connection keeps the input to the end

    def _keep(self, skips: list[int], keep: bool) -> None:
        if keep:
            skips.append(self.size)
            self.held += self.size
            self.is_skip = True

    def _concatenate(self, skips: list[int]) -> None:
        skip = skips.pop()
        # With a skip straight from the innermost block, the current tensor is that skip.
        current = 0 if self.is_skip else self.size
        joined = self.size + skip
        self.peak = max(self.peak, self.held + current + joined)
        self.held -= skip
        self.size, self.is_skip = joined, False


BYTES_FP32 = 4
BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}
"""Bits a parameter by dtype. Scales of quantisation, some thousandths of the size, are not counted.
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Counted cost at batch 1. Peak activation bytes are for 4-byte numbers."""

    params: int
    macs_by_kind: Macs
    peak_activation_bytes: int

    @property
    def macs(self) -> int:
        """Convolutions, linear layers and attention products together."""
        return self.macs_by_kind.total

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Size of the weights by the dtype that all of them are kept in."""
        return {dtype: -(-self.params * bits // 8) for dtype, bits in BITS.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``arch show --json`` prints it."""
        kinds = self.macs_by_kind
        return {
            "params": self.params,
            "macs": self.macs,
            "macs_by_kind": {
                "conv": kinds.conv,
                "linear": kinds.linear,
                "attention": kinds.attention,
            },
            "peak_activation_bytes": self.peak_activation_bytes,
            "weight_bytes": self.weight_bytes,
        }


def price(config: UNetConfig | Plan) -> Cost:
    """Price an architecture in closed form; nothing is built. Exact against the module and
    ``FlopCounterMode``.
    """
    resolved = config if isinstance(config, Plan) else plan(config)
    total_params, conv, linear, attention = 0, 0, 0, 0
    bills: dict[int, Bill] = {}
    for unit, count in resolved.tally():
        cost = bills[id(unit)] = bill(unit)
        total_params += count * cost.params
        conv += count * cost.conv
        linear += count * cost.linear
        attention += count * cost.attention
    peak = peak_activation_elements(resolved, bills) * BYTES_FP32
    return Cost(total_params, Macs(conv, linear, attention), peak)


Times = Callable[[Unit], float | None]
"""Milliseconds of a unit, None where they are not known."""


def unit_costs(config: UNetConfig, times: Times | None = None) -> list[dict[str, Any]]:
    """Every unit with its place, fields, parameters, MACs and, given ``times``, milliseconds; in
    execution order.
    """
    rows = []
    for place, unit in plan(config).placed():
        row = {
            "place": place,
            **unit_fields(unit),
            "params": params(unit),
            "macs": macs(unit).total,
        }
        rows.append(row | ({"ms": times(unit)} if times else {}))
    return rows


def stage_costs(config: UNetConfig, times: Times | None = None) -> list[dict[str, Any]]:
    """One row a stage, the middle, and what belongs to none (input, time embedding, output)."""
    rows: list[dict[str, Any]] = [
        {
            "stage": f"stages[{index}]",
            "channels": stage.channels,
            "size": config.sample_size // 2**index,
            "down": describe_side(stage.down),
            "up": describe_side(stage.up),
            "conv": config.conv_of(index),
        }
        for index, stage in enumerate(config.stages)
    ]
    if config.middle:
        rows.append({"stage": "middle", "down": describe_side(config.middle)})
    rows.append({"stage": "input, time, output"})
    costs = unit_costs(config, times)
    for row in rows:
        mine = [cost for cost in costs if _belongs(cost["place"], row["stage"])]
        row |= {
            name: sum(cost[name] or 0 for cost in mine)
            for name in ("params", "macs", *(["ms"] if times else []))
        }
    return rows


def _belongs(place: str, stage: str) -> bool:
    return (
        place.startswith(stage)
        if stage.startswith(("stages", "middle"))
        else place in ("input", "time", "output")
    )


def describe_side(blocks: tuple[ResidualBlock, ...]) -> str:
    """Residual blocks and their transformer blocks in short: ``2 × (R + 3 [sa ca ff])``."""
    runs: list[tuple[str, int]] = []
    for block in blocks:
        text = _short(block)
        if runs and runs[-1][0] == text:
            runs[-1] = (text, runs[-1][1] + 1)
        else:
            runs.append((text, 1))
    return ", ".join(f"{count} × {text}" if count > 1 else text for text, count in runs)


def _short(block: ResidualBlock) -> str:
    if not block.transformers:
        return "R"
    if len(set(block.transformers)) == 1:
        count = len(block.transformers)
        return f"(R + {f'{count} ' if count > 1 else ''}[{' '.join(block.transformers[0])}])"
    return "(R + " + " ".join(f"[{' '.join(layers)}]" for layers in block.transformers) + ")"
