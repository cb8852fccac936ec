"""From a UNetConfig to its units in execution order: every shape and option resolved, nothing
built.

Skip connections: every stage offers its entering tensor and the output of each of its residual
blocks on the way down. The blocks on the way up take them, latest first, one each. With as many
blocks up as down plus one this is Stable Diffusion's rule; with fewer the earliest skips are not
used (nor kept), with more the surplus blocks take none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from archsearch.unet import units
from archsearch.unet.config import Layer, ResidualBlock, UNetConfig

# The transformer blocks of a residual block, as its configuration names their layers.
Transformers = tuple[tuple[Layer, ...], ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A residual block with what follows it. ``skip`` is the width concatenated to its input first,
    0 for none.
    """

    residual: units.Residual
    projection: units.Projection | None
    transformers: tuple[tuple[units.TransformerLayer, ...], ...]
    skip: int = 0


@dataclass(frozen=True, slots=True)
class StagePlan:
    """The blocks of one resolution. ``skips`` says how many of its tensors, counted from the
    latest, are kept for the way up.
    """

    down: tuple[Block, ...]
    downsample: units.Downsample | None
    up: tuple[Block, ...]
    upsample: units.Upsample | None
    skips: int

    def keeps(self, index: int) -> bool:
        """Whether tensor ``index`` of the way down (0: entering the stage, i: after block i) is
        kept for the way up.
        """
        return index > len(self.down) - self.skips


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole network, resolved."""

    input: units.Input
    time: units.TimeEmbedding
    stages: tuple[StagePlan, ...]
    middle: tuple[Block, ...]
    output: units.Output
    context: tuple[int, int]  # tokens and width of the text context

    def blocks(self) -> Iterator[Block]:
        """Every block, in no particular order. Equal blocks are one object."""
        for stage in self.stages:
            yield from stage.down
            yield from stage.up
        yield from self.middle

    def tally(self) -> list[tuple[units.Unit, int]]:
        """Every unit and how often it occurs, in no particular order; cheaper than ``placed``.
        Equal units may be listed apart.
        """
        tally: list[tuple[units.Unit, int]] = [(self.input, 1), (self.time, 1), (self.output, 1)]
        for stage in self.stages:
            tally += [(sampler, 1) for sampler in (stage.downsample, stage.upsample) if sampler]
        blocks: dict[int, tuple[Block, int]] = {}
        for block in self.blocks():
            blocks[id(block)] = (block, blocks.get(id(block), (block, 0))[1] + 1)
        layers: dict[int, tuple[units.TransformerLayer, int]] = {}
        for block, count in blocks.values():
            tally.append((block.residual, count))
            if block.projection:
                tally.append((block.projection, count))
            for layer in chain.from_iterable(block.transformers):
                layers[id(layer)] = (layer, layers.get(id(layer), (layer, 0))[1] + count)
        return [*tally, *layers.values()]

    def placed(self) -> Iterator[tuple[str, units.Unit]]:
        """Every unit with the path of its place, in execution order."""
        yield "time", self.time
        yield "input", self.input
        for index, stage in enumerate(self.stages):
            for number, block in enumerate(stage.down):
                yield from _placed(f"stages[{index}].down[{number}]", block)
            if stage.downsample:
                yield f"stages[{index}].downsample", stage.downsample
        for number, block in enumerate(self.middle):
            yield from _placed(f"middle[{number}]", block)
        for index, stage in reversed(list(enumerate(self.stages))):
            for number, block in enumerate(stage.up):
                yield from _placed(f"stages[{index}].up[{number}]", block)
            if stage.upsample:
                yield f"stages[{index}].upsample", stage.upsample
        yield "output", self.output


def _placed(path: str, block: Block) -> Iterator[tuple[str, units.Unit]]:
    yield f"{path}.residual", block.residual
    if block.projection:
        yield f"{path}.projection", block.projection
    for number, layers in enumerate(block.transformers):
        for layer in layers:
            yield f"{path}.transformers[{number}].{layer.kind}", layer


def plan(config: UNetConfig) -> Plan:
    """Resolve ``config`` into its units."""
    return _Planner(config).plan()


class _Planner:
    def __init__(self, config: UNetConfig) -> None:
        self.config = config
        self.widths = [stage.channels for stage in config.stages]
        self.sizes = config.sizes
        self.time_width = config.time_width or 4 * self.widths[0]
        self.options = config.options()
        self.projections = [
            units.Projection(width, size, config.norm_groups, options["projection"])
            for width, size, options in zip(self.widths, self.sizes, self.options, strict=True)
        ]
        self.layers = [self._layers(index) for index in range(len(config.stages))]
        self.blocks: dict[tuple[Transformers, int, int, int], Block] = {}

    def plan(self) -> Plan:
        config, last = self.config, len(self.config.stages) - 1
        added = config.added
        return Plan(
            input=units.Input(config.in_channels, self.widths[0], self.sizes[0]),
            time=units.TimeEmbedding(
                self.widths[0],
                self.time_width,
                *((added.text_dim, added.ids, added.id_dim) if added.text_dim else (0, 0, 0)),
                guidance_dim=config.guidance_dim or 0,
            ),
            stages=tuple(self._stage(index) for index in range(last + 1)),
            middle=tuple(self._block(block, last, self.widths[last]) for block in config.middle),
            output=units.Output(
                self.widths[0], config.out_channels, self.sizes[0], config.norm_groups
            ),
            context=(config.context_tokens, config.context_dim),
        )

    def _stage(self, index: int) -> StagePlan:
        stage, width, size = self.config.stages[index], self.widths[index], self.sizes[index]
        last = index == len(self.widths) - 1
        entering = self.widths[max(index - 1, 0)]
        offered = [entering] + [width] * len(stage.down)
        taken = offered[::-1][: len(stage.up)] + [0] * (len(stage.up) - len(offered))
        down = tuple(
            self._block(block, index, entering if number == 0 else width)
            for number, block in enumerate(stage.down)
        )
        below = width if last else self.widths[index + 1]
        halved = not last and not self.config.stages[index + 1].flat
        up = tuple(
            self._block(block, index, below if number == 0 else width, taken[number])
            for number, block in enumerate(stage.up)
        )
        return StagePlan(
            down=down,
            downsample=units.Downsample(width, size) if halved else None,
            up=up,
            upsample=None if index == 0 or stage.flat else units.Upsample(width, size),
            skips=min(len(stage.up), len(offered)),
        )

    def _block(self, block: ResidualBlock, stage: int, in_channels: int, skip: int = 0) -> Block:
        # Equal ones are one object, so that each is priced once.
        key = (block.transformers, stage, in_channels, skip)
        if key not in self.blocks:
            layers = self.layers[stage]
            self.blocks[key] = Block(
                residual=units.Residual(
                    in_channels + skip,
                    self.widths[stage],
                    self.sizes[stage],
                    self.options[stage]["conv"],
                    self.time_width,
                    self.config.norm_groups,
                ),
                projection=self.projections[stage] if block.transformers else None,
                transformers=tuple(
                    [tuple([layers[name] for name in names]) for names in block.transformers]
                ),
                skip=skip,
            )
        return self.blocks[key]

    def _layers(self, stage: int) -> dict[str, units.TransformerLayer]:
        config, width, tokens = self.config, self.widths[stage], self.sizes[stage] ** 2
        attention, feed_forward = (
            self.options[stage]["attention"],
            self.options[stage]["feed_forward"],
        )
        heads, kv = attention.heads_of(width), attention.kv
        # Of self- and of cross-attention.
        to_self, to_text = {
            "linear": ("linear", "softmax"),
            "linear_everywhere": ("linear", "linear"),
        }.get(attention.normalizer, 2 * (attention.normalizer,))
        rest = (0 if attention.kv_heads == heads else attention.kv_heads or 0, attention.qk_norm)
        context = (config.context_dim, config.context_tokens)
        return {
            "sa": units.SelfAttention(
                width, tokens, heads, kv != "separate", to_self, *rest, attention.kv_compression
            ),
            "ca": units.CrossAttention(
                width, tokens, heads, kv == "shared_everywhere", to_text, *context, *rest
            ),
            "ff": units.FeedForward(width, tokens, feed_forward.expansion, feed_forward.activation),
            "norm": units.Norm(width, tokens),
        }
