"""A UNetConfig from and to the ``config.json`` of diffusers' ``UNet2DConditionModel``: SD 1.x, SD 2.x, SDXL and their cuts.

diffusers lists its blocks up from the lowest resolution; a stage here has its blocks down and up together. Everywhere in it a
transformer block is self-attention, cross-attention and a GEGLU feed-forward, after every residual block of a side or after none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.diffusers_depths import Depths, depth_settings, read_depths
from archsearch.unet.diffusers_limits import LAYERS, limits, projections, time_ids
from archsearch.unet.diffusers_settings import (
    CROSS_DOWN,
    CROSS_MIDDLE,
    CROSS_UP,
    FIXED,
    PLAIN_DOWN,
    PLAIN_MIDDLE,
    PLAIN_UP,
    Settings,
    per_stage,
    read_settings,
)

CLASS_NAME = "UNet2DConditionModel"
DIFFUSERS_VERSION = "0.35.0"
"""Written into files: the oldest version that this library works with, so that all of its versions read them."""


def from_diffusers(data: Mapping[str, Any], context_tokens: int = 77) -> UNetConfig:
    """Read the data of a ``config.json``.

    The number of heads becomes ``heads`` where all stages with attention have the same, else ``head_dim`` where that is the same,
    else the ``heads`` of each stage.

    Args:
        data: The file's keys and values. What is left out has diffusers' default.
        context_tokens: Length of the text context, of which diffusers' networks say nothing.

    Raises:
        InputError: A UNetConfig cannot express the network; one line for each setting in the way, with what is allowed.
    """
    settings = read_settings(data)
    _raise(_length_problems(settings))
    depths, problems = read_depths(settings)
    _raise(problems + _size_problems(settings) + _head_problems(settings, depths.attends))
    try:
        return UNetConfig.model_validate(_config(settings, depths) | {"context_tokens": context_tokens})
    except ValidationError as error:
        lines = [item["msg"].removeprefix("Value error, ") for item in error.errors()]
        places = [".".join(map(str, item["loc"])) for item in error.errors()]
        raise InputError(
            "\n".join(f"{place}: {line}" if place else line for place, line in zip(places, lines, strict=True))
        ) from error


def _raise(problems: list[str]) -> None:
    if problems:
        raise InputError("\n".join(problems))


def _length_problems(settings: Settings) -> list[str]:
    """Lists must have one item a stage."""
    stages = len(settings.block_out_channels)
    return [
        f"{key}: has {len(value)} items, but block_out_channels has {stages} stages."
        for key in (
            "down_block_types", "up_block_types", "layers_per_block", "cross_attention_dim", "attention_head_dim",
            "transformer_layers_per_block", "reverse_transformer_layers_per_block",
        )
        if isinstance(value := getattr(settings, key), list) and len(value) != stages
    ]  # fmt: skip


def _size_problems(settings: Settings) -> list[str]:
    problems = []
    if settings.sample_size is None:
        problems.append("sample_size: is not given; a UNetConfig needs the height and width of the sample.")
    elif isinstance(settings.sample_size, list) and (len(settings.sample_size) != 2 or len(set(settings.sample_size)) != 1):
        problems.append(f"sample_size: {settings.sample_size} is not square; allowed is a whole number, or two equal ones.")
    if isinstance(settings.cross_attention_dim, list) and len(set(settings.cross_attention_dim)) != 1:
        problems.append(f"cross_attention_dim: {settings.cross_attention_dim} differ; allowed is one width for all stages.")
    if settings.addition_embed_type == "text_time":
        width, id_dim = settings.projection_class_embeddings_input_dim, settings.addition_time_embed_dim
        for key, value in (("projection_class_embeddings_input_dim", width), ("addition_time_embed_dim", id_dim)):
            if value is None:
                problems.append(f"{key}: is not given; addition_embed_type text_time needs it.")
        if width and id_dim and width <= id_dim:
            problems.append(f"projection_class_embeddings_input_dim: {width} leaves no text beside a time id of {id_dim}.")
    return problems


def _head_problems(settings: Settings, attends: Sequence[bool]) -> list[str]:
    heads = per_stage(settings.attention_head_dim, settings)
    return [
        f"attention_head_dim: {number} heads do not divide the {width} channels of stage {index}."
        for index, (number, width) in enumerate(zip(heads, settings.block_out_channels, strict=True))
        if attends[index] and width % number
    ]


def _config(settings: Settings, depths: Depths) -> dict[str, Any]:
    widths = settings.block_out_channels
    network, by_stage = _attention(per_stage(settings.attention_head_dim, settings), widths, depths.attends)
    stages = [
        {"channels": width, "down": _blocks(down), "up": _blocks(up), "attention": attention}
        for width, down, up, attention in zip(widths, depths.down, depths.up, by_stage, strict=True)
    ]
    middle = {CROSS_MIDDLE: [depths.middle, 0], PLAIN_MIDDLE: [0], None: []}[settings.mid_block_type]
    return {
        "in_channels": settings.in_channels,
        "out_channels": settings.out_channels,
        "sample_size": _one(settings.sample_size),
        "context_dim": _one(settings.cross_attention_dim),
        "time_width": settings.time_embedding_dim,
        "added": _added(settings),
        "norm_groups": settings.norm_num_groups,
        "projection": "linear" if settings.use_linear_projection else "conv",
        "attention": network,
        "stages": stages,
        "middle": _blocks(middle),
    }


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _blocks(depths: list[int]) -> list[dict[str, Any]]:
    return [{"transformers": depth, "layers": LAYERS} if depth else {} for depth in depths]


def _attention(heads: list[int], widths: list[int], attends: list[bool]) -> tuple[dict[str, int], list[dict[str, int]]]:
    """The attention options of the network and of its stages."""
    used = [(number, width // number) for number, width, on in zip(heads, widths, attends, strict=True) if on]
    unset: list[dict[str, int]] = [{} for _ in heads]
    for name, values in zip(("heads", "head_dim"), zip(*used, strict=True), strict=False):
        if len(set(values)) == 1:
            return {name: values[0]}, unset
    return {}, [{"heads": number} if on else {} for number, on in zip(heads, attends, strict=True)]


def _added(settings: Settings) -> dict[str, int]:
    width, id_dim = settings.projection_class_embeddings_input_dim, settings.addition_time_embed_dim
    if settings.addition_embed_type is None or width is None or id_dim is None:
        return {}
    ids = time_ids(width, id_dim)
    return {"text_dim": width - ids * id_dim, "ids": ids, "id_dim": id_dim}


def to_diffusers(config: UNetConfig) -> dict[str, Any]:
    """Write ``config`` as the data of a ``config.json``. The length of the text context is not kept: it changes no weight.

    Raises:
        InputError: diffusers' UNet cannot express it; one line for each option in the way.
    """
    if problems := limits(config):
        raise InputError("\n".join([f"network {config.digest} cannot be a diffusers {CLASS_NAME}:", *problems]))
    stages = config.stages
    heads = [max(1, config.attention_of(index).heads_of(stage.channels)) for index, stage in enumerate(stages)]
    return {
        "_class_name": CLASS_NAME,
        "_diffusers_version": DIFFUSERS_VERSION,
        "sample_size": config.sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "down_block_types": [CROSS_DOWN if stage.down[0].transformers else PLAIN_DOWN for stage in stages],
        "mid_block_type": (None, PLAIN_MIDDLE, CROSS_MIDDLE)[len(config.middle)],
        "up_block_types": [CROSS_UP if stage.up[0].transformers else PLAIN_UP for stage in reversed(stages)],
        "block_out_channels": [stage.channels for stage in stages],
        "layers_per_block": _short([len(stage.down) for stage in stages]),
        **depth_settings(config),
        "attention_head_dim": _short(heads),
        "cross_attention_dim": config.context_dim,
        "norm_num_groups": config.norm_groups,
        "use_linear_projection": projections(config) == {"linear"},
        "time_embedding_dim": config.time_width,
        "addition_embed_type": "text_time" if config.added.width else None,
        "addition_time_embed_dim": config.added.id_dim if config.added.width else None,
        "projection_class_embeddings_input_dim": config.added.width or None,
    } | FIXED


def _short(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values
