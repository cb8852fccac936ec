"""What of a UNetConfig diffusers' ``UNet2DConditionModel`` cannot express."""

from collections.abc import Iterator
from typing import Any

from archsearch.unet.config import UNetConfig
from archsearch.unet.diffusers_depths import depths_of
from archsearch.unet.options import INHERITED
from archsearch.unet.parts import AddedEmbedding, ResidualBlock

LAYERS = ("sa", "ca", "ff")
USUAL_IDS = 6
SDXL_TEXT = 1280


def limits(config: UNetConfig) -> list[str]:
    """One line for each option that diffusers' UNet does not have, named by its path; none where it can express ``config``."""
    lines = [line for index in range(len(config.stages)) for line in (*_sides(config, index), *_options(config, index))]
    return [*lines, *_projections(config), *_middle(config), *_added(config.added)]


def _sides(config: UNetConfig, index: int) -> Iterator[str]:
    stage = config.stages[index]
    if len(stage.up) != len(stage.down) + 1:
        blocks = f"stages[{index}].up has {len(stage.up)} residual blocks for {len(stage.down)} down"
        yield f"{blocks}: diffusers has one more up than down."
    for name, side in (("down", stage.down), ("up", stage.up)):
        yield from _layers(f"stages[{index}].{name}", side)
        if len({bool(block.transformers) for block in side}) > 1:
            yield f"stages[{index}].{name}: diffusers has transformer blocks after every residual block of a side or after none."


def _layers(place: str, blocks: tuple[ResidualBlock, ...]) -> Iterator[str]:
    others = {layers: None for block in blocks for layers in block.transformers if layers != LAYERS}
    for layers in others:
        yield f"{place}: layers [{', '.join(layers)}]: diffusers' transformer blocks are [{', '.join(LAYERS)}]."


def _options(config: UNetConfig, index: int) -> Iterator[str]:
    """Options of a stage, as far as it has what they are options of."""
    place = f"stages[{index}]"
    if (conv := config.conv_of(index)) != "full":
        yield f"{place}.conv {conv}: diffusers has full convolutions only."
    if not depths_of(config).attends[index]:
        return
    attention, feed_forward = config.attention_of(index), config.feed_forward_of(index)
    heads = attention.heads_of(config.stages[index].channels)
    checks: tuple[tuple[str, Any, Any], ...] = (
        *(
            (f"attention.{name}", getattr(attention, name), getattr(INHERITED["attention"], name))
            for name in ("kv", "normalizer", "qk_norm")
        ),
        ("attention.kv_heads", attention.kv_heads or heads, heads),
        *((f"feed_forward.{name}", value, getattr(INHERITED["feed_forward"], name)) for name, value in feed_forward),
    )
    yield from (f"{place}.{name} {value}: diffusers has {only} only." for name, value, only in checks if value != only)


def _projections(config: UNetConfig) -> Iterator[str]:
    if len(found := projections(config)) > 1:
        yield f"projection {' and '.join(sorted(found))}: diffusers has one form in all stages."


def projections(config: UNetConfig) -> set[str]:
    """The forms of projection that occur: the network's where none does."""
    attends = depths_of(config).attends
    return {config.projection_of(index) for index, on in enumerate(attends) if on} or {config.option("projection")}


def _middle(config: UNetConfig) -> Iterator[str]:
    counts = [len(block.transformers) for block in config.middle]
    if counts not in ([], [0]) and (len(counts) != 2 or not counts[0] or counts[1]):
        yield (
            f"middle has transformer blocks {counts} after its residual blocks: diffusers has no middle, one residual "
            "block, or two with transformer blocks between."
        )
    yield from _layers("middle", config.middle)
    outer = depths_of(config).down[-1][0]
    if counts and counts[0] and outer and counts[0] != outer:
        yield f"middle[0].transformers {counts[0]}: diffusers has the last stage's, {outer} after its first block down."


def _added(added: AddedEmbedding) -> Iterator[str]:
    if added.width and (ids := time_ids(added.width, added.id_dim)) != added.ids:
        yield (
            f"added.ids {added.ids}: a diffusers config holds the common width {added.width} of text and time ids only, of which "
            f"{ids} ids would be read."
        )


def time_ids(width: int, id_dim: int) -> int:
    """How many time ids of ``id_dim`` sinusoids there are in an added embedding of ``width``, beside the pooled text.

    diffusers' config does not say. As many as leave the 1280 channels of SDXL's text encoder, if any number does: 6 in SDXL (2816),
    5 in its refiner (2560). Else SDXL's 6. Else, where these leave no text, as many as do.
    """
    rest = width - SDXL_TEXT
    if rest > 0 and rest % id_dim == 0 and rest // id_dim <= 64:
        return rest // id_dim
    return min(USUAL_IDS, (width - 1) // id_dim)
