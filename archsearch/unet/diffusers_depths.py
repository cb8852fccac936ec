"""How many transformer blocks follow each residual block: diffusers' two settings from and to stages.

``transformer_layers_per_block`` has an item for each stage: a number, or a list with one for each residual block. It holds on the
way down, in the middle (the last item, or what begins it) and, unless ``reverse_transformer_layers_per_block`` is given, from the
lowest resolution to the highest, on the way up.
"""

from dataclasses import dataclass
from typing import Any

from archsearch.unet.config import UNetConfig
from archsearch.unet.diffusers_settings import CROSS_DOWN, CROSS_MIDDLE, CROSS_UP, Settings, per_stage
from archsearch.unet.parts import ResidualBlock

Depth = int | list[int]
KEY, UP_KEY = "transformer_layers_per_block", "reverse_transformer_layers_per_block"


@dataclass(frozen=True, slots=True)
class Depths:
    """Transformer blocks after each residual block, 0 for none; stages from the highest resolution to the lowest."""

    down: list[list[int]]
    up: list[list[int]]
    middle: int
    """After the middle's first residual block."""

    @property
    def attends(self) -> list[bool]:
        """Whether a stage, or the middle with the last stage's options, has transformer blocks."""
        stages = [any(down + up) for down, up in zip(self.down, self.up, strict=True)]
        return [*stages[:-1], stages[-1] or self.middle > 0]


def read_depths(settings: Settings) -> tuple[Depths, list[str]]:
    """Return the depths, and what is wrong with them. As in diffusers a list may be longer than there are residual blocks."""
    problems: list[str] = []
    blocks: list[int] = per_stage(settings.layers_per_block, settings)
    down: list[Depth] = per_stage(settings.transformer_layers_per_block, settings)
    up, up_key, last = down, KEY, len(down) - 1
    if settings.reverse_transformer_layers_per_block is not None:
        up, up_key = settings.reverse_transformer_layers_per_block[::-1], UP_KEY
    elif any(isinstance(depth, list) for depth in down):
        problems.append(f"{UP_KEY}: is not given; a list in {KEY} needs it.")

    def of(place: str, depth: Depth, count: int, cross: bool) -> list[int]:
        depths, problem = _each(depth, count) if cross else ([0] * count, "")
        if problem and f"{place}: {problem}" not in problems:
            problems.append(f"{place}: {problem}")
        return depths

    cross_up = settings.up_block_types[::-1]
    places = [index if up_key == KEY else last - index for index in range(last + 1)]
    return Depths(
        down=[of(f"{KEY}[{i}]", down[i], blocks[i], settings.down_block_types[i] == CROSS_DOWN) for i in range(last + 1)],
        up=[of(f"{up_key}[{places[i]}]", up[i], blocks[i] + 1, cross_up[i] == CROSS_UP) for i in range(last + 1)],
        middle=of(f"{KEY}[{last}]", down[last], 1, settings.mid_block_type == CROSS_MIDDLE)[0],
    ), problems


def _each(depth: Depth, blocks: int) -> tuple[list[int], str]:
    """One depth for each residual block, and what is wrong with them."""
    depths = [depth] * blocks if isinstance(depth, int) else depth[:blocks]
    if len(depths) < blocks:
        return [1] * blocks, f"{depth} is too short for {blocks} residual blocks."
    if 0 in depths:
        return depths, f"{depth} leaves projections around no transformer block; allowed are 1 and more."
    return depths, ""


def depths_of(config: UNetConfig) -> Depths:
    """Return the depths of ``config``."""
    return Depths(
        down=[_counts(stage.down) for stage in config.stages],
        up=[_counts(stage.up) for stage in config.stages],
        middle=sum(_counts(config.middle)[:1]),
    )


def _counts(blocks: tuple[ResidualBlock, ...]) -> list[int]:
    return [len(block.transformers) for block in blocks]


def depth_settings(config: UNetConfig) -> dict[str, Any]:
    """Return both settings, the second one null where the first says it all. A stage without transformer blocks has any number."""
    depths = depths_of(config)
    down = [_short(counts) if any(counts) else _free(depths, index) for index, counts in enumerate(depths.down)]
    up = [_short(counts) if any(counts) else 1 for counts in depths.up]
    told = all(
        isinstance(one, int) and (two == one or not any(depths.up[index]))
        for index, (one, two) in enumerate(zip(down, up, strict=True))
    )
    same = all(depth == down[0] for depth in down) and isinstance(down[0], int)
    return {KEY: down[0] if same else down, UP_KEY: None if told else up[::-1]}


def _free(depths: Depths, stage: int) -> Depth:
    """What to say of a stage that has no transformer blocks down: what the middle or the way up needs."""
    if stage == len(depths.down) - 1 and depths.middle:
        return depths.middle
    up = _short(depths.up[stage])
    return up if isinstance(up, int) and up else 1


def _short(counts: list[int]) -> Depth:
    return counts[0] if len(set(counts)) == 1 else counts
