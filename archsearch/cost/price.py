"""What a network costs, counted in closed form: parameters, MACs by kind, activation memory.

First one unit: the products of matrices in it decide its parameters and its MACs, the tape of the
tensors it makes decides its memory; both together are its bill. Then a whole network: ``price``
adds up the bills and follows a forward pass through its skip connections. Last, the breakdown by
unit, by stage, and by kind of unit.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain, groupby
from typing import Any, Literal, NamedTuple

from archsearch.unet import units
from archsearch.unet.config import GATED, ResidualBlock, UNetConfig
from archsearch.unet.plan import Block, Plan, plan
from archsearch.unet.units import Unit, unit_fields

AttentionUnit = units.SelfAttention | units.CrossAttention

# One unit: parameters and multiply-accumulates ----------------------------------------------------


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


class Product(NamedTuple):
    """A matrix of weights, and at how many positions (pixels, tokens) it is applied."""

    kind: Literal["conv", "linear"]
    inputs: int  # weights of one output channel
    outputs: int
    positions: int = 1
    bias: bool = True


def _conv(
    in_channels: int, out_channels: int, size: int, kernel: int = 3, bias: bool = True
) -> Product:
    return Product("conv", in_channels * kernel**2, out_channels, size**2, bias)


def _conv_steps(inputs: int, outputs: int, kind: str) -> list[tuple[str, int, int, int]]:
    # What a 3×3 convolution is made of, step by step: the name of the step, the channels that each
    # of its channels reads, its channels, and the size of its kernel, 0 for an activation.
    wide = 2 * inputs
    match kind:
        case "full":
            return [("", inputs, outputs, 3)]
        case "separable" | "inverted":
            return [("_depthwise", 1, inputs, 3), ("", inputs, outputs, 1)]
        case _:
            return [
                ("_depthwise", 1, inputs, 3),
                ("_wide", inputs, wide, 1),
                ("_act", 1, wide, 0),
                ("_deep", 1, wide, 3),
                ("", wide, outputs, 1),
            ]


def _hidden(unit: units.FeedForward) -> tuple[int, int]:
    hidden = unit.expansion * unit.channels
    return hidden, hidden // 2 if unit.activation in GATED else hidden


def _kv_channels(unit: AttentionUnit) -> int:
    return unit.channels // unit.heads * (unit.kv_heads or unit.heads)


def _source(unit: AttentionUnit) -> tuple[int, int]:
    # Tokens and width of what keys and values are projected from.
    if isinstance(unit, units.CrossAttention):
        return unit.context_tokens, unit.context_dim
    return unit.tokens, unit.channels


def _compresses(unit: AttentionUnit) -> bool:
    return isinstance(unit, units.SelfAttention) and unit.kv_compression == "conv"


def _products(unit: Unit) -> list[Product]:
    match unit:
        case units.Input() | units.Output():
            return [_conv(unit.in_channels, unit.out_channels, unit.size)]
        case units.TimeEmbedding():
            added = [unit.added, unit.width] if unit.added else []
            layers = [
                Product("linear", inputs, unit.width)
                for inputs in (unit.channels, unit.width, *added)
            ]
            if unit.guidance_dim:
                layers.append(Product("linear", unit.guidance_dim, unit.channels, bias=False))
            return layers
        case units.TimeProjection():
            return [Product("linear", unit.width, unit.channels)]
        case units.Residual():
            i, inner, o = unit.in_channels, unit.inner_channels, unit.out_channels
            steps = _conv_steps(i, inner, unit.conv) + _conv_steps(inner, o, unit.conv)
            bias = unit.conv != "inverted"
            products = [
                _conv(reads, c, unit.size, kernel, bias) for _, reads, c, kernel in steps if kernel
            ]
            if unit.time_width:
                products.append(Product("linear", unit.time_width, inner))
            if i != o:
                products.append(_conv(i, o, unit.size, 1))
            return products
        case units.Projection():
            kind: Literal["conv", "linear"] = "linear" if unit.form == "linear" else "conv"
            return 2 * [Product(kind, unit.channels, unit.channels, unit.size**2)]
        case units.SelfAttention() | units.CrossAttention():
            c, (tokens, width) = unit.channels, _source(unit)
            keys = [Product("linear", width, _kv_channels(unit), tokens, bias=False)]
            if _compresses(unit):
                keys.append(Product("conv", 4, _kv_channels(unit), unit.keys, bias=False))
            return [
                Product("linear", c, c, unit.tokens, bias=False),
                *(keys if unit.shared_kv else 2 * keys),
                Product("linear", c, c, unit.tokens),
            ]
        case units.FeedForward():
            c, (wide, narrow) = unit.channels, _hidden(unit)
            return [
                Product("linear", c, wide, unit.tokens),
                Product("linear", narrow, c, unit.tokens),
            ]
        case units.Downsample():
            return [_conv(unit.channels, unit.channels, unit.size // 2)]
        case units.Upsample():
            return [_conv(unit.channels, unit.channels, unit.size * 2)]
        case units.Norm():
            return []


def _norm_params(unit: Unit) -> int:
    match unit:
        case units.Residual():
            return 2 * (unit.in_channels + unit.inner_channels)
        case units.Output():
            return 2 * unit.in_channels
        case units.SelfAttention() | units.CrossAttention():
            heads = 2 * (unit.channels // unit.heads) if unit.qk_norm == "rms" else 0
            return 2 * unit.channels + heads
        case units.Projection() | units.FeedForward() | units.Norm():
            return 2 * unit.channels
        case _:
            return 0


def params(unit: Unit) -> int:
    """Number of parameters."""
    return _norm_params(unit) + sum(
        product.outputs * (product.inputs + product.bias) for product in _products(unit)
    )


def macs(unit: Unit) -> Macs:
    """Multiply-accumulates at batch 1."""
    counted = {"conv": 0, "linear": 0}
    for product in _products(unit):
        counted[product.kind] += product.inputs * product.outputs * product.positions
    if isinstance(unit, AttentionUnit):
        counted["attention"] = _attention_macs(unit)
    return Macs(**counted)


def _attention_macs(unit: AttentionUnit) -> int:
    keys = unit.keys
    if unit.normalizer != "linear":
        return 2 * unit.tokens * keys * unit.channels  # QKᵀ, and the weights with V
    head = unit.channels // unit.heads
    return keys * _kv_channels(unit) * head + unit.tokens * unit.channels * head  # KᵀV, then Q·KᵀV


# One unit: memory ---------------------------------------------------------------------------------


class Op(NamedTuple):
    """One step of a tape: makes a tensor of ``elements`` from the named ones. ``x`` is the unit's
    input.
    """

    makes: str
    elements: int
    reads: tuple[str, ...]


def tape(unit: Unit) -> list[Op]:
    """The tensors the unit makes, in execution order, at batch 1; views make none. The last one is
    its output.

    Raises:
        ValueError: The unit is a projection, which runs around other units.
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
            raise ValueError(
                "a projection frames its transformer blocks: it has no tape of its own"
            )
        case units.SelfAttention() | units.CrossAttention():
            return _attention_tape(unit)
        case units.FeedForward():
            return _feed_forward_tape(unit)
        case units.Norm():
            return [Op("y", unit.tokens * unit.channels, ("x",))]
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
    ops = _sinusoids("", unit.channels)
    if unit.guidance_dim:
        ops += [
            *_sinusoids("guidance_", unit.guidance_dim),
            Op("guidance", unit.channels, ("guidance_sinusoids",)),
            Op("guided", unit.channels, ("sinusoids", "guidance")),
        ]
    ops += [
        Op("linear1", width, (ops[-1].makes,)),
        Op("act", width, ("linear1",)),
        Op("linear2", width, ("act",)),
    ]
    if unit.added:
        ops += [
            *_sinusoids("id_", unit.ids * unit.id_dim),
            Op("added", unit.added, ("id_sinusoids",)),
            Op("added1", width, ("added",)),
            Op("added_act", width, ("added1",)),
            Op("added2", width, ("added_act",)),
            Op("sum", width, ("linear2", "added2")),
        ]
    return [*ops, Op("y", width, (ops[-1].makes,))]


def _sinusoids(prefix: str, channels: int) -> list[Op]:
    half = channels // 2
    return [
        Op(f"{prefix}angles", half, ("x",)),
        Op(f"{prefix}cos", half, (f"{prefix}angles",)),
        Op(f"{prefix}sin", half, (f"{prefix}angles",)),
        Op(f"{prefix}sinusoids", channels, (f"{prefix}cos", f"{prefix}sin")),
    ]


def _residual_tape(unit: units.Residual) -> list[Op]:
    i, inner, o = unit.in_channels, unit.inner_channels, unit.out_channels
    pixels = unit.size**2
    x, within, y = i * pixels, inner * pixels, o * pixels

    def conv(name: str, inputs: int, outputs: int, source: str) -> list[Op]:
        ops: list[Op] = []
        for step, _, channels, _ in _conv_steps(inputs, outputs, unit.conv):
            before = ops[-1].makes if ops else source
            ops.append(Op(f"{name}{step}", channels * pixels, (before,)))
        return ops

    return [
        Op("norm1", x, ("x",)),
        Op("act1", x, ("norm1",)),
        *conv("conv1", i, inner, "act1"),
        *([Op("time", inner, ("embedding",))] if unit.time_width else []),
        Op("timed", within, ("conv1", "time")),
        Op("norm2", within, ("timed",)),
        Op("act2", within, ("norm2",)),
        *conv("conv2", inner, o, "act2"),
        *([Op("shortcut", y, ("x",))] if i != o else []),
        Op("y", y, ("conv2", "shortcut" if i != o else "x")),
    ]


def _attention_tape(unit: AttentionUnit) -> list[Op]:
    x, keys = unit.tokens * unit.channels, unit.keys * _kv_channels(unit)
    scores = unit.heads * unit.tokens * unit.keys
    source = ("norm",) if isinstance(unit, units.SelfAttention) else ()
    ops = [Op("norm", x, ("x",)), Op("q", x, ("norm",))]
    if unit.kv_heads and unit.tokens > 1:
        ops.append(Op("grouped", x, ("q",)))
    q, k, v = ops[-1].makes, "k", "k" if unit.shared_kv else "v"
    for name in dict.fromkeys((k, v)):
        if _compresses(unit):
            ops += [Op(f"{name}_all", 4 * keys, source), Op(name, keys, (f"{name}_all",))]
        else:
            ops.append(Op(name, keys, source))
    if unit.qk_norm == "rms":
        ops += _rms_tape(q, x, unit.heads * unit.tokens)
        ops += _rms_tape(k, keys, (unit.kv_heads or unit.heads) * unit.keys)
        q, k = f"{q}_normed", f"{k}_normed"
    if unit.normalizer == "linear":
        head, rows = unit.channels // unit.heads, unit.heads * unit.tokens
        products = [
            Op("q_relu", x, (q,)),
            Op("k_relu", keys, (k,)),
            Op("k_scaled", keys, ("k_relu",)),
            Op("kv", _kv_channels(unit) * head, ("k_scaled", v)),
            Op("sums", x, ("q_relu", "kv")),
            Op("k_mean", _kv_channels(unit), ("k_scaled",)),
            Op("q_k", x, ("q_relu", "k_mean")),
            Op("divisor", rows, ("q_k",)),
            Op("stable", rows, ("divisor",)),
            Op("heads", x, ("sums", "stable")),
        ]
    else:
        products = [
            Op("scaled", x, (q,)),
            Op("scores", scores, ("scaled", k)),
            Op("weights", scores, ("scores",)),
            Op("heads", x, ("weights", v)),
        ]
    return [
        *ops,
        *products,
        Op("merged", x if unit.heads > 1 and unit.tokens > 1 else 0, ("heads",)),
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
    inner = [Op("act", unit.tokens * wide, ("wide",))]
    if unit.activation in GATED:
        inner = [
            Op("gate", unit.tokens * narrow, ("wide",)),
            Op("gated", unit.tokens * narrow, ("wide", "gate")),
        ]
    return [
        Op("norm", x, ("x",)),
        Op("wide", unit.tokens * wide, ("norm",)),
        *inner,
        Op("out", x, (inner[-1].makes,)),
        Op("y", x, ("x", "out")),
    ]


def peak_of(ops: list[Op], x: int, embedding: int = 0) -> int:
    """Most elements alive at once over ``ops``, with ``x`` elements of input to count, and as many
    of the time embedding.
    """
    last_read = {name: step for step, op in enumerate(ops) for name in op.reads}
    alive = {"x": x, "embedding": embedding}
    most = x + embedding
    for step, op in enumerate(ops):
        alive[op.makes] = op.elements
        most = max(most, sum(alive.values()))
        for name in [name for name in alive if last_read.get(name, -1) <= step and name != "y"]:
            del alive[name]
    return most


@dataclass(frozen=True, slots=True)
class Bill:
    """Parameters, multiply-accumulates, and the most elements alive at once while the unit runs.

    Attributes:
        peak: Its input counted. 0 for a projection, which has no tape.
        peak_held: Its input not counted, since someone else holds it.
    """

    params: int
    macs: Macs
    peak: int = 0
    peak_held: int = 0


@lru_cache(maxsize=65536)
def bill(unit: Unit) -> Bill:
    """Price a unit at batch 1."""
    if isinstance(unit, units.Projection):
        return Bill(params(unit), macs(unit))
    ops = tape(unit)
    return Bill(params(unit), macs(unit), peak_of(ops, _input_elements(unit)), peak_of(ops, 0))


def _input_elements(unit: Unit) -> int:
    # Elements of a unit's input; 0 where it belongs to the caller.
    match unit:
        case units.Input() | units.TimeEmbedding() | units.TimeProjection():
            return 0
        case units.Residual() | units.Output():
            return unit.in_channels * unit.size**2
        case units.Projection() | units.Downsample() | units.Upsample():
            return unit.channels * unit.size**2
        case _:
            return unit.tokens * unit.channels


# The whole network --------------------------------------------------------------------------------

BYTES_FP32 = 4
# Bits a parameter by dtype. Scales of quantisation, some thousandths of the size, are not counted.
BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}


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
        return {
            "params": self.params,
            "macs": self.macs,
            "macs_by_kind": asdict(self.macs_by_kind),
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
        kinds = cost.macs
        total_params += count * cost.params
        conv += count * kinds.conv
        linear += count * kinds.linear
        attention += count * kinds.attention
    peak_elements = ForwardPass(resolved, bills).run()
    return Cost(total_params, Macs(conv, linear, attention), peak_elements * BYTES_FP32)


Place = int | Literal["middle", "ends"]
"""A part of a network: a stage by its number, the middle, or input, time embedding and output."""


class ForwardPass:
    """Finds the most elements alive at once, and where.

    Args:
        plan: The network.
        bills: Of its units, by the unit's id.
    """

    def __init__(self, plan: Plan, bills: Mapping[int, Bill]) -> None:
        self.plan = plan
        self.bills = bills
        self.held = plan.input.in_channels * plan.input.size**2 + plan.context[0] * plan.context[1]
        """What lives besides the running unit."""
        self.held += plan.time.text_dim + plan.time.ids + (plan.time.guidance_dim > 0)
        self.place: Place = "ends"
        self.starts: dict[Place, int] = {}
        """What is held where a place is entered on the way down."""
        self.reached: dict[tuple[Place, str], int] = {}
        """The most elements alive at once, by place and kind of unit."""
        self.size = 0  # elements of the current tensor, which may be a skip that is held already
        self.skips: list[tuple[int, int]] = []  # elements, and how many of them are let go with it
        self.is_skip = False
        # Equal blocks are one object: each is looked at once.
        self.transformer_peaks: dict[int, list[tuple[str, int]]] = {}

    def run(self) -> int:
        """Go through the network once; returns the most elements alive at once."""
        plan = self.plan
        self._unit(plan.time, 0)
        self.held += plan.time.width
        self._unit(plan.input, plan.input.out_channels * plan.input.size**2)
        for index, stage in enumerate(plan.stages):
            self._enter(index)
            self._keep(stage.keeps(0))
            for number, block in enumerate(stage.down, start=1):
                self._block(block)
                self._keep(stage.keeps(number))
            if stage.downsample:
                self._unit(stage.downsample, self.size // 4)
        self._enter("middle")
        for block in plan.middle:
            self._block(block)
        for index, stage in reversed(list(enumerate(plan.stages))):
            self.place = index
            for number, block in enumerate(stage.up, start=1):
                if block.skip:
                    self._concatenate()
                self._block(block, last=index == 0 and number == len(stage.up))
            if stage.upsample:
                self._unit(stage.upsample, self.size * 4)
        self.place = "ends"
        self._unit(plan.output, 0)
        return max(self.reached.values())

    def _enter(self, place: Place) -> None:
        self.place, self.starts[place] = place, self.held

    def _reach(self, kind: str, elements: int) -> None:
        key = (self.place, kind)
        self.reached[key] = max(self.reached.get(key, 0), self.held + elements)

    def _unit(self, unit: Unit, out: int) -> None:
        cost = self.bills[id(unit)]
        self._reach(unit.kind, cost.peak_held if self.is_skip else cost.peak)
        self.size, self.is_skip = out, False

    def _block(self, block: Block, last: bool = False) -> None:
        residual, released = block.residual, 0
        out = residual.out_channels * residual.size**2
        if last:  # the last residual block is the last that reads the time embedding
            released = self.plan.time.width
            x = 0 if self.is_skip else residual.in_channels * residual.size**2
            self._reach(residual.kind, peak_of(tape(residual), x, released) - released)
            self.size, self.is_skip = out, False
        else:
            self._unit(residual, out)
        if block.projection:
            if id(block) not in self.transformer_peaks:
                self.transformer_peaks[id(block)] = self._transformer_peaks(block.projection, block)
            for kind, elements in self.transformer_peaks[id(block)]:
                self._reach(kind, elements - released)
        self.held -= released

    def _transformer_peaks(
        self, projection: units.Projection, block: Block
    ) -> list[tuple[str, int]]:
        x = projection.channels * projection.size**2
        layers = {id(layer): layer for layer in chain.from_iterable(block.transformers)}
        # Around the layers: norm, projection and the copy to token order, two at a time beside the
        # input, which the residual connection keeps to the end.
        return [
            (projection.kind, 3 * x),
            *((layer.kind, x + self.bills[key].peak) for key, layer in layers.items()),
        ]

    def _keep(self, keep: bool) -> None:
        if keep:
            # The tensor that enters a flat stage is held already, as a skip of the stage before.
            held = 0 if self.is_skip else self.size
            self.skips.append((self.size, held))
            self.held += held
            self.is_skip = True

    def _concatenate(self) -> None:
        skip, held = self.skips.pop()
        # With a skip straight from the innermost block, the current tensor is that skip.
        current = 0 if self.is_skip else self.size
        joined = self.size + skip
        self._reach(units.Residual.kind, current + joined)
        self.held -= held
        self.size, self.is_skip = joined, False


# The breakdown ------------------------------------------------------------------------------------

Times = Callable[[Unit], float | None]  # milliseconds of a unit, None where they are not known
NO_STAGE = "input, time, output"


def unit_costs(config: UNetConfig, times: Times | None = None) -> list[dict[str, Any]]:
    """Every unit with its place, fields, parameters, MACs and, given ``times``, milliseconds; in
    execution order.
    """
    rows = []
    for place, unit in plan(config).placed():
        cost = bill(unit)
        row = {"place": place, **unit_fields(unit), "params": cost.params, "macs": cost.macs.total}
        rows.append(row | ({"ms": times(unit)} if times else {}))
    return rows


def stage_costs(config: UNetConfig, times: Times | None = None) -> list[dict[str, Any]]:
    """One row a stage, the middle, and what belongs to none (input, time embedding, output)."""
    rows: list[dict[str, Any]] = [
        {
            "stage": f"stages[{index}]",
            "channels": stage.channels,
            "size": config.sizes[index],
            "down": describe_side(stage.down),
            "up": describe_side(stage.up),
            "conv": config.conv_of(index),
        }
        for index, stage in enumerate(config.stages)
    ]
    if config.middle:
        rows.append({"stage": "middle", "down": describe_side(config.middle)})
    rows.append({"stage": NO_STAGE})
    by_name = {row["stage"]: row for row in rows}
    for cost in kind_costs(config, times):
        row = by_name[cost["stage"]]
        for name in ("params", "macs", "ms") if times else ("params", "macs"):
            row[name] = row.get(name, 0) + cost[name]
    return rows


def kind_costs(config: UNetConfig, times: Times | None = None) -> list[dict[str, Any]]:
    """One row for each kind of unit in each stage (named as in ``stage_costs``): how many ``units``
    there are, and what they cost together; in the order of their first one.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    names = ("params", "macs", "ms") if times else ("params", "macs")
    for cost in unit_costs(config, times):
        place = cost["place"].partition(".")[0]
        stage = {"stages": place, "middle": "middle"}.get(place.partition("[")[0], NO_STAGE)
        key = {"stage": stage, "kind": cost["kind"]}
        row = rows.setdefault((stage, cost["kind"]), key | dict.fromkeys(("units", *names), 0))
        row["units"] += 1
        for name in names:
            row[name] += cost[name] or 0
    return list(rows.values())


def describe_side(blocks: tuple[ResidualBlock, ...]) -> str:
    """Residual blocks and their transformer blocks in short: ``2 × (R + 3 [sa ca ff])``."""
    runs = [(text, len(list(run))) for text, run in groupby(map(_in_short, blocks))]
    return ", ".join(f"{count} × {text}" if count > 1 else text for text, count in runs)


def _in_short(block: ResidualBlock) -> str:
    transformers = [f"[{' '.join(layers)}]" for layers in block.transformers]
    if not transformers:
        return "R"
    if len(transformers) > 1 and len(set(transformers)) == 1:
        transformers = [str(len(transformers)), transformers[0]]
    return f"(R + {' '.join(transformers)})"
