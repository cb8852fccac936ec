"""A network laid out to be drawn: where the box of every unit lies, and what is said of it and of
its stage in words. ``diagram.py`` draws it.

Every stage is a row, the way down on the left of an axis, the way up on its right, both read from
left to right; the middle block lies below. The transformer blocks after a residual block stand
beside it, one a line, read from top to bottom: a deep stage is a high one.
"""

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from archsearch.cost.price import describe_side, kind_costs, price
from archsearch.unet import units
from archsearch.unet.config import INHERITED, UNetConfig
from archsearch.unet.plan import Block, Plan, plan
from archsearch.unet.units import Unit

Latency = Mapping[Unit, float]  # milliseconds of every unit of a network
Part = tuple[str, Block | Unit]  # what stands in a row, with its place in the plan

# Pixels: residual blocks are square, layers of transformer blocks PITCH apart and at most COLUMN
# under each other.
RESIDUAL, LAYER, SAMPLER, RAIL = 28, (18, 13), 20, 4
GAP, PITCH, COLUMN = 8, 15, 10
LABEL, LINE, CENTRE = 136, 12, 28
LETTER = 5.6  # width of a letter of the common size, on the safe side

CONVOLUTIONS = {
    "full": "full convolutions",
    "separable": "separable convolutions",
    "expanded": "expanded separable convolutions",
    "inverted": "inverted separable convolutions",
}
ACTIVATIONS = {
    "gelu": "GELU",
    "geglu": "GEGLU",
    "silu": "SiLU",
    "swiglu": "SwiGLU",
    "relu": "ReLU",
}
# Every option in words.
OPTIONS: dict[str, Callable[[Any], str]] = {
    "conv": CONVOLUTIONS.__getitem__,
    "projection": {
        "conv": "1×1-convolution projections",
        "linear": "linear projections",
    }.__getitem__,
    "kv": {
        "separate": "separate keys and values",
        "shared": "keys and values shared in self-attention",
        "shared_everywhere": "keys and values shared in all attention",
    }.__getitem__,
    "normalizer": {
        "softmax": "softmax attention",
        "relu": "ReLU attention",
        "linear": "linear self-attention, softmax cross-attention",
        "linear_everywhere": "linear attention",
    }.__getitem__,
    "heads": "{} heads".format,
    "head_dim": "heads of {} channels".format,
    "kv_heads": "{} heads of keys and values".format,
    "qk_norm": {
        "none": "queries and keys not normalised",
        "rms": "queries and keys normalised",
    }.__getitem__,
    "kv_compression": {
        "none": "keys and values not compressed",
        "conv": "keys and values of self-attention compressed",
    }.__getitem__,
    "expansion": "feed-forward expanded {} times".format,
    "activation": lambda name: f"{ACTIVATIONS[name]} in the feed-forward",
}

# What a network need not say that it does not do.
UNSAID: frozenset[tuple[str, Any]] = frozenset({("qk_norm", "none"), ("kv_compression", "none")})


def wrapped(text: str, width: int) -> list[str]:
    """Lines of text that fit into so many pixels."""
    return textwrap.wrap(text, int(width / LETTER), break_on_hyphens=False)


def percent(share: float) -> str:
    """A share in words."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def shape_of(unit: Unit) -> str:
    """Shapes and options of a unit in words, as far as its stage does not say them."""
    match unit:
        case units.Residual():
            size = f"{unit.size} × {unit.size}"
            widths = f"{unit.in_channels} to {unit.out_channels} channels"
            return f"{widths} at {size}, {CONVOLUTIONS[unit.conv]}"
        case units.SelfAttention() | units.CrossAttention():
            kv = ", keys and values shared" if unit.shared_kv else ""
            if isinstance(unit, units.SelfAttention) and unit.kv_compression == "conv":
                kv += ", keys and values compressed"
            return f"{unit.heads} heads, {unit.normalizer}{kv}"
        case units.FeedForward():
            return f"{ACTIVATIONS[unit.activation]}, expanded {unit.expansion} times"
        case units.Norm():
            return "in place of self-attention"
        case units.Input() | units.Output():
            return (
                f"{unit.in_channels} to {unit.out_channels} channels at {unit.size} × {unit.size}"
            )
        case units.TimeEmbedding() | units.TimeProjection():
            return f"{unit.channels} to {unit.width} channels"
        case _:
            return f"{unit.channels} channels at {unit.size} × {unit.size}"


class Box(NamedTuple):
    """The box of a unit: its place in the plan, its corner and its size in pixels."""

    place: str
    unit: Unit
    x: int
    y: int
    width: int
    height: int


class Side:
    """One way of a stage: boxes in a row, from x = 0 and y = 0 on."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.boxes: list[Box] = []
        # From where to where each part reaches.
        self.spans: dict[str, tuple[int, int]] = {}
        self.width = 0
        for place, part in parts:
            start = self.width + (GAP if self.spans else 0)
            if isinstance(part, Block):
                self.width = self._block(place, part, start)
            else:
                self.boxes.append(Box(place, part, start, 0, SAMPLER, RESIDUAL))
                self.width = start + SAMPLER
            self.spans[place] = (start, self.width)
        self.height = max((box.y + box.height for box in self.boxes), default=0)

    def _block(self, place: str, block: Block, x: int) -> int:
        # The residual block, the projections as a rail, the transformer blocks; returns where they
        # end. A single line of them stands on the level of the lines between blocks.
        self.boxes.append(Box(f"{place}.residual", block.residual, x, 0, RESIDUAL, RESIDUAL))
        x += RESIDUAL
        if not block.projection:
            return x
        height = PITCH * (min(len(block.transformers), COLUMN) - 1) + LAYER[1]
        top = max(0, (RESIDUAL - height) // 2)
        self.boxes.append(Box(f"{place}.projection", block.projection, x + 2, top, RAIL, height))
        x += 2 + RAIL
        for start in range(0, len(block.transformers), COLUMN):
            column = block.transformers[start : start + COLUMN]
            x += 3 if start else 0  # between columns
            for line, layers in enumerate(column):
                for position, layer in enumerate(layers):
                    where = f"{place}.transformers[{start + line}].{layer.kind}"
                    left = x + 2 + position * (LAYER[0] + 1)
                    self.boxes.append(Box(where, layer, left, top + line * PITCH, *LAYER))
            x += 1 + max(map(len, column)) * (LAYER[0] + 1)
        return x


@dataclass(frozen=True)
class Row:
    """A stage, or the middle, whose blocks are all in ``left``.

    Attributes:
        stage: Its path.
        label: What is said of it.
        left: The way down.
        right: The way up.
        skips: Skip connections, the innermost first: after how many blocks of the way down each
            begins, and at which block of the way up it ends.
        flat: Whether it has no boxes that halve and double the size.
    """

    stage: str
    label: list[str]
    left: Side
    right: Side
    skips: list[tuple[int, int]]
    flat: bool = False

    @property
    def height(self) -> int:
        """Of boxes and label, without the skip connections above them."""
        return max(self.left.height, self.right.height, LINE * len(self.label))

    def starts(self, axis: int) -> tuple[int, int]:
        """Where its two sides begin."""
        if self.stage == "middle":
            return axis - self.left.width // 2, axis
        return axis - CENTRE // 2 - self.left.width, axis + CENTRE // 2


class Network:
    """A network laid out: ``rows``, ``shares`` of the latency by place, and words.

    Args:
        config: The network.
        name: What it is called; what cannot be shown of that is replaced.
        latency: Milliseconds of every unit, or None, or nothing.
        changes: What is to be said of units by their place: removed, added, changed.
        before: A network whose widths are told where they differ.
    """

    def __init__(
        self,
        config: UNetConfig,
        name: str,
        latency: Latency | None = None,
        changes: Mapping[str, str] | None = None,
        before: UNetConfig | None = None,
    ) -> None:
        self.config, self.before, self.changes = config, before, changes or {}
        self.name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
        resolved = plan(config)
        self.units = dict(resolved.placed())
        times = {place: latency[unit] for place, unit in self.units.items()} if latency else {}
        total = sum(times.values())
        self.shares = {place: ms / total for place, ms in times.items()}
        self.of_stage: dict[str, float] = {}
        self.of_kind: dict[str, float] = {}
        for row in kind_costs(config, latency.__getitem__) if latency else []:
            for shares, key in ((self.of_stage, row["stage"]), (self.of_kind, row["kind"])):
                shares[key] = shares.get(key, 0) + row["ms"] / total
        self.rows = [self._row(index, resolved) for index in range(len(config.stages))]
        if resolved.middle:
            self.rows.append(self._middle(resolved))
        # How far it reaches on both sides of the axis, the lines around it included.
        self.left = GAP + max(-row.starts(0)[0] for row in self.rows)
        ends = [
            (row.starts(0)[1], row.right.width)
            if row.right.boxes
            else (row.starts(0)[0], row.left.width)
            for row in self.rows
        ]
        self.right = GAP + max(start + width for start, width in ends)

    def _row(self, index: int, resolved: Plan) -> Row:
        stage, where = resolved.stages[index], f"stages[{index}]"
        down, up = _numbered(f"{where}.down", stage.down), _numbered(f"{where}.up", stage.up)
        if index == 0:
            down = [("time", resolved.time), ("input", resolved.input), *down]
            up.append(("output", resolved.output))
        if stage.downsample:
            down.append((f"{where}.downsample", stage.downsample))
        if stage.upsample:
            up.append((f"{where}.upsample", stage.upsample))
        taken = [number for number, block in enumerate(stage.up) if block.skip]
        skips = [(len(stage.down) - number, number) for number in taken]
        flat = self.config.stages[index].flat
        return Row(where, self.label(index), Side(down), Side(up), skips, flat)

    def _middle(self, resolved: Plan) -> Row:
        label = ["Middle", *self.label(len(self.config.stages) - 1)[:2], *self._share("middle")]
        return Row("middle", label, Side(_numbered("middle", resolved.middle)), Side([]), [])

    def label(self, index: int) -> list[str]:
        """What is said of a stage, in lines: resolution, width, options of its own, latency."""
        config, before = self.config, self.before
        size, channels = config.sizes[index], config.stages[index].channels
        lines = [f"{size} × {size}", f"{channels} channels"]
        if before and index < len(before.stages):
            was = before.stages[index].channels
            lines[1] += f" (were {was})" if was != channels else ""
        stage = config.stages[index]
        for words in _in_words({name: getattr(stage, name) for name in INHERITED}):
            lines += wrapped(words, LABEL)
        return lines + self._share(f"stages[{index}]")

    def _share(self, stage: str) -> list[str]:
        return [f"{percent(self.of_stage[stage])} of the latency"] if self.shares else []

    @property
    def size(self) -> str:
        """Parameters and multiply-accumulates in words."""
        cost = price(self.config)
        return f"{cost.params / 1e6:,.1f} M parameters, {cost.macs / 1e9:,.1f} GMACs (counted)"

    @property
    def options(self) -> str:
        """The options of the whole network in words."""
        given = {name: self.config.option(name) for name in INHERITED}
        return "; ".join(_in_words(given, left_out=UNSAID))

    def describe(self) -> str:
        """What the picture shows, for those who do not see it."""
        told = [f"{self.name}, {self.size}: {self.options}."]
        for index, stage in enumerate(self.config.stages):
            down, up = describe_side(stage.down), describe_side(stage.up)
            label = ", ".join(self.label(index))
            told.append(f"Stage {index}: {label}; way down {down}; way up {up}.")
        if self.config.middle:
            share = "".join(f", {words}" for words in self._share("middle"))
            told.append(f"Middle: {describe_side(self.config.middle)}{share}.")
        for word in ("removed", "added", "changed"):
            kinds = [
                unit.kind for place, unit in self.units.items() if self.changes.get(place) == word
            ]
            counts = [f"{count} × {kind}" for kind, count in Counter(kinds).items()]
            told += [f"{word.capitalize()}: {', '.join(counts)}."] if counts else []
        return " ".join(told)


def _numbered(where: str, blocks: Sequence[Block]) -> list[Part]:
    return [(f"{where}[{number}]", block) for number, block in enumerate(blocks)]


def _in_words(
    level: Mapping[str, Any], left_out: frozenset[tuple[str, Any]] = frozenset()
) -> list[str]:
    # The options that are set, those of a group one by one.
    flat = {"conv": level["conv"], "projection": level["projection"]}
    flat |= dict(level["attention"]) | dict(level["feed_forward"])
    return [
        OPTIONS[name](value)
        for name, value in flat.items()
        if value is not None and (name, value) not in left_out
    ]
