"""diffusers' ``config.json`` of a ``UNet2DConditionModel``, read into a UNetConfig and written from
one.

A config.json has some fifty settings. ``Settings`` are those that a UNetConfig expresses, ``FIXED``
those of which it expresses one value, ``WITHOUT_EFFECT`` those that change nothing, ``OF_AVERAGE``
those that are another class's. Reading refuses every other value by its key; writing refuses, by
its path, every option that diffusers lacks.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from archsearch.errors import InputError, nearest
from archsearch.unet.config import INHERITED, ResidualBlock, UNetConfig

CLASS_NAME = "UNet2DConditionModel"
# Written into files: the oldest version that this library works with, so that all of its versions
# read them.
DIFFUSERS_VERSION = "0.35.0"

Count = Annotated[int, Field(strict=True, ge=1)]
DepthCount = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]
CROSS_DOWN: Final = "CrossAttnDownBlock2D"
CROSS_UP: Final = "CrossAttnUpBlock2D"
CROSS_MIDDLE: Final = "UNetMidBlock2DCrossAttn"
PLAIN_DOWN: Final = "DownBlock2D"
PLAIN_UP: Final = "UpBlock2D"
PLAIN_MIDDLE: Final = "UNetMidBlock2D"
DEPTHS: Final = "transformer_layers_per_block"
UP_DEPTHS: Final = "reverse_transformer_layers_per_block"
LAYERS = ("sa", "ca", "ff")  # diffusers' transformer block
USUAL_IDS = 6
SDXL_TEXT = 1280


class Settings(BaseModel):
    """What a UNetConfig expresses, one field a setting. A description says what is allowed, in
    documents and messages.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sample_size: Count | list[Count] | None = Field(
        None, description="a whole number, or two equal ones"
    )
    in_channels: Count = Field(4, description="a whole number from 1")
    out_channels: Count = Field(4, description="a whole number from 1")
    down_block_types: list[Literal["CrossAttnDownBlock2D", "DownBlock2D"]] = Field(
        [CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, PLAIN_DOWN],
        description=f"a list of {CROSS_DOWN} and {PLAIN_DOWN}",
    )
    mid_block_type: Literal["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"] | None = Field(
        CROSS_MIDDLE, description=f"{CROSS_MIDDLE}, {PLAIN_MIDDLE} or null"
    )
    up_block_types: list[Literal["CrossAttnUpBlock2D", "UpBlock2D"]] = Field(
        [PLAIN_UP, CROSS_UP, CROSS_UP, CROSS_UP], description=f"a list of {CROSS_UP} and {PLAIN_UP}"
    )
    block_out_channels: list[Count] = Field(
        [320, 640, 1280, 1280], min_length=1, description="a list of whole numbers, one a stage"
    )
    layers_per_block: Count | list[Count] = Field(
        2, description="a whole number from 1, or a list of them"
    )
    norm_num_groups: Count = Field(32, description="a whole number from 1")
    cross_attention_dim: Count | list[Count] = Field(
        1280, description="a whole number, or a list of equal ones"
    )
    transformer_layers_per_block: DepthCount | list[DepthCount | list[DepthCount]] = Field(
        1, description="a whole number, or a list of numbers or lists of them"
    )
    reverse_transformer_layers_per_block: list[DepthCount | list[DepthCount]] | None = Field(
        None, description="null, or a list of numbers or lists of them"
    )
    attention_head_dim: Count | list[Count] = Field(
        8, description="a whole number from 1, or a list of them"
    )
    """In spite of its name the number of heads: diffusers keeps the name for the sake of old files.
    """
    use_linear_projection: Flag | None = Field(False, description="true or false")
    addition_embed_type: Literal["text_time"] | None = Field(None, description="null or text_time")
    addition_time_embed_dim: Count | None = Field(None, description="null or a whole number")
    projection_class_embeddings_input_dim: Count | None = Field(
        None, description="null or a whole number"
    )
    time_embedding_dim: Count | None = Field(None, description="null or a whole number")
    time_cond_proj_dim: Annotated[int, Field(strict=True, ge=4, multiple_of=2)] | None = Field(
        None, description="null or an even number from 4"
    )

    def per_stage(self, key: str) -> list[Any]:
        """A setting that is one for all stages, or a list of one for each, as a list."""
        value = getattr(self, key)
        return value if isinstance(value, list) else [value] * len(self.block_out_channels)


# Settings that change the network, with the one value that a UNetConfig expresses: the default of
# each.
FIXED: dict[str, Any] = {
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "only_cross_attention": False,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    # Refused by diffusers itself, which takes attention_head_dim for it:
    "num_attention_heads": None,
    "dual_cross_attention": False,
    "class_embed_type": None,
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "class_embeddings_concat": False,
}

# Settings that change nothing of the networks that are read: any value is.
WITHOUT_EFFECT = frozenset(
    {
        "dropout",  # in training only
        "upcast_attention",  # of half precision only
        "addition_embed_type_num_heads",  # of addition_embed_type text, which is refused
        # Of block types that are refused:
        "resnet_skip_time_act",
        "resnet_out_scale_factor",
        "mid_block_only_cross_attention",
        "cross_attention_norm",
    }
)

# What diffusers' EMAModel writes beside a network's settings: how its weights were averaged in
# training. SDXL-inpainting ships with it.
OF_AVERAGE = frozenset(
    {
        "decay",
        "inv_gamma",
        "min_decay",
        "optimization_step",
        "power",
        "update_after_step",
        "use_ema_warmup",
    }
)

KNOWN = frozenset(Settings.model_fields) | frozenset(FIXED) | WITHOUT_EFFECT


# How a setting tells the transformer blocks of a stage: one number, or one a residual block.
Depth = int | list[int]


# Transformer blocks after each residual block, 0 for none; stages from the highest resolution to
# the lowest.
@dataclass(frozen=True, slots=True)
class _Depths:
    down: list[list[int]]
    up: list[list[int]]
    middle: int  # after the middle's first residual block

    @property
    def attends(self) -> list[bool]:
        # Whether a stage, or the middle with the last stage's options, has transformer blocks.
        stages = [any(down + up) for down, up in zip(self.down, self.up, strict=True)]
        return [*stages[:-1], stages[-1] or self.middle > 0]


def time_ids(width: int, id_dim: int) -> int:
    """How many time ids of ``id_dim`` sinusoids there are in an added embedding of ``width``,
    beside the pooled text.

    diffusers' config does not say. As many as leave the 1280 channels of SDXL's text encoder, if
    any number does: 6 in SDXL (2816), 5 in its refiner (2560). Else SDXL's 6. Else, where these
    leave no text, as many as do.
    """
    rest = width - SDXL_TEXT
    if rest > 0 and rest % id_dim == 0 and rest // id_dim <= 64:
        return rest // id_dim
    return min(USUAL_IDS, (width - 1) // id_dim)


# Reading ------------------------------------------------------------------------------------------


def from_diffusers(data: Mapping[str, Any], context_tokens: int = 77) -> UNetConfig:
    """Read the data of a ``config.json``.

    The number of heads becomes ``heads`` where all stages with attention have the same, else
    ``head_dim`` where that is the same, else the ``heads`` of each stage.

    Args:
        data: The file's keys and values. What is left out has diffusers' default; keys that begin
            with ``_`` say nothing of the network.
        context_tokens: Length of the text context, of which diffusers' networks say nothing.

    Raises:
        InputError: A UNetConfig cannot express the network; one line for each setting in the way,
            with what is allowed.
    """
    settings = _read_settings(data)
    _refuse(_wrong_lengths(settings))
    depths, problems = _read_depths(settings)
    _refuse([*problems, *_wrong_sizes(settings), *_wrong_heads(settings, depths)])
    try:
        return UNetConfig.model_validate(
            _config_data(settings, depths) | {"context_tokens": context_tokens}
        )
    except ValidationError as error:
        told = [
            (".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, "))
            for item in error.errors()
        ]
        raise InputError("\n".join(": ".join(filter(None, each)) for each in told)) from error


def _refuse(problems: Iterable[str]) -> None:
    if text := "\n".join(problems):
        raise InputError(text)


def _read_settings(data: Mapping[str, Any]) -> Settings:
    refused = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in FIXED.items()
        if key in data and not _means(key, data[key], value)
    }
    unknown = [
        f"{key}: {value!r} is a setting that is not known.{nearest(key, KNOWN)}"
        for key, value in data.items()
        if not key.startswith("_")
        and key not in KNOWN | OF_AVERAGE
        and value is not None
        and value is not False
    ]
    settings = Settings()
    try:
        settings = Settings.model_validate(dict(data))
    except ValidationError as error:
        wrong = dict.fromkeys(str(item["loc"][0]) for item in error.errors())
        refused = {key: str(Settings.model_fields[key].description) for key in wrong} | refused
    inexpressible = [
        f"{key}: {data[key]!r} cannot be expressed by a UNetConfig; allowed is {allowed}."
        for key, allowed in refused.items()
    ]
    _refuse(inexpressible + unknown)
    return settings


def _means(key: str, given: Any, value: Any) -> bool:
    if key == "act_fn":
        return given in ("silu", "swish")  # two names of x · sigmoid(x)
    if key == "only_cross_attention" and isinstance(given, list | tuple):
        return all(item is False for item in given)
    if value is False:
        return given is None or given is False
    return bool(given == value)


def _wrong_lengths(settings: Settings) -> Iterator[str]:
    stages = len(settings.block_out_channels)
    for key in (
        "down_block_types",
        "up_block_types",
        "layers_per_block",
        "cross_attention_dim",
        "attention_head_dim",
        DEPTHS,
        UP_DEPTHS,
    ):
        if isinstance(value := getattr(settings, key), list) and len(value) != stages:
            yield f"{key}: has {len(value)} items, but block_out_channels has {stages} stages."


def _read_depths(settings: Settings) -> tuple[_Depths, dict[str, None]]:
    # Return the depths, and what is wrong with them, each once. As in diffusers a list may be
    # longer than there are residual blocks.
    problems: dict[str, None] = {}
    last = len(settings.block_out_channels) - 1
    blocks, down = settings.per_stage("layers_per_block"), settings.per_stage(DEPTHS)
    up, up_places = down, [f"{DEPTHS}[{stage}]" for stage in range(last + 1)]
    if settings.reverse_transformer_layers_per_block is not None:
        up = settings.reverse_transformer_layers_per_block[::-1]
        up_places = [f"{UP_DEPTHS}[{last - stage}]" for stage in range(last + 1)]
    elif any(isinstance(depth, list) for depth in down):
        problems[f"{UP_DEPTHS}: is not given; a list in {DEPTHS} needs it."] = None

    def read(place: str, depth: Depth, count: int, cross: bool) -> list[int]:
        if not cross:
            return [0] * count
        depths = [depth] * count if isinstance(depth, int) else depth[:count]
        if len(depths) < count:
            problems[f"{place}: {depth} is too short for {count} residual blocks."] = None
        elif 0 in depths:
            problems[
                f"{place}: {depth} leaves projections around no transformer block; allowed are 1 "
                "and more."
            ] = None
        return depths

    return _Depths(
        down=[
            read(f"{DEPTHS}[{i}]", down[i], blocks[i], kind == CROSS_DOWN)
            for i, kind in enumerate(settings.down_block_types)
        ],
        up=[
            read(up_places[i], up[i], blocks[i] + 1, kind == CROSS_UP)
            for i, kind in enumerate(reversed(settings.up_block_types))
        ],
        middle=sum(read(f"{DEPTHS}[{last}]", down[-1], 1, settings.mid_block_type == CROSS_MIDDLE)),
    ), problems


def _wrong_sizes(settings: Settings) -> Iterator[str]:
    size, context = settings.sample_size, settings.cross_attention_dim
    if size is None:
        yield "sample_size: is not given; a UNetConfig needs the height and width of the sample."
    elif isinstance(size, list) and (len(size) != 2 or len(set(size)) != 1):
        yield (f"sample_size: {size} is not square; allowed is a whole number, or two equal ones.")
    if isinstance(context, list) and len(set(context)) != 1:
        yield f"cross_attention_dim: {context} differ; allowed is one width for all stages."
    if settings.addition_embed_type == "text_time":
        keys = ("projection_class_embeddings_input_dim", "addition_time_embed_dim")
        width, id_dim = (getattr(settings, key) for key in keys)
        for key, value in zip(keys, (width, id_dim), strict=True):
            if value is None:
                yield f"{key}: is not given; addition_embed_type text_time needs it."
        if width and id_dim and width <= id_dim:
            yield f"{keys[0]}: {width} leaves no text beside a time id of {id_dim}."


def _wrong_heads(settings: Settings, depths: _Depths) -> Iterator[str]:
    heads = settings.per_stage("attention_head_dim")
    for index, width in enumerate(settings.block_out_channels):
        if depths.attends[index] and width % heads[index]:
            yield (
                f"attention_head_dim: {heads[index]} heads do not divide the {width} channels of "
                f"stage {index}."
            )


def _config_data(settings: Settings, depths: _Depths) -> dict[str, Any]:
    widths = settings.block_out_channels
    network, by_stage = _attention(settings.per_stage("attention_head_dim"), widths, depths.attends)
    middle = {CROSS_MIDDLE: [depths.middle, 0], PLAIN_MIDDLE: [0], None: []}
    return {
        "in_channels": settings.in_channels,
        "out_channels": settings.out_channels,
        "sample_size": _one(settings.sample_size),
        "context_dim": _one(settings.cross_attention_dim),
        "time_width": settings.time_embedding_dim,
        "added": _added(settings),
        "guidance_dim": settings.time_cond_proj_dim,
        "norm_groups": settings.norm_num_groups,
        "projection": "linear" if settings.use_linear_projection else "conv",
        "attention": network,
        "stages": [
            {"channels": width, "down": _blocks(down), "up": _blocks(up), "attention": attention}
            for width, down, up, attention in zip(
                widths, depths.down, depths.up, by_stage, strict=True
            )
        ],
        "middle": _blocks(middle[settings.mid_block_type]),
    }


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _blocks(depths: list[int]) -> list[dict[str, Any]]:
    return [{"transformers": depth, "layers": LAYERS} if depth else {} for depth in depths]


def _attention(
    heads: list[int], widths: list[int], attends: list[bool]
) -> tuple[dict[str, int], list[dict[str, int]]]:
    used = [index for index, on in enumerate(attends) if on]
    for name, values in (
        ("heads", {heads[index] for index in used}),
        ("head_dim", {widths[index] // heads[index] for index in used}),
    ):
        if len(values) == 1:
            return {name: values.pop()}, [{}] * len(heads)
    return {}, [{"heads": number} if on else {} for number, on in zip(heads, attends, strict=True)]


def _added(settings: Settings) -> dict[str, int]:
    width, id_dim = settings.projection_class_embeddings_input_dim, settings.addition_time_embed_dim
    if settings.addition_embed_type is None or width is None or id_dim is None:
        return {}
    ids = time_ids(width, id_dim)
    return {"text_dim": width - ids * id_dim, "ids": ids, "id_dim": id_dim}


# Writing ------------------------------------------------------------------------------------------


def to_diffusers(config: UNetConfig) -> dict[str, Any]:
    """Write ``config`` as the data of a ``config.json``. The length of the text context is not
    kept: it changes no weight.

    Raises:
        InputError: diffusers' UNet cannot express it; one line for each option in the way.
    """
    depths = _depths_of(config)
    if problems := list(_limits(config, depths)):
        raise InputError(
            "\n".join([f"network {config.digest} cannot be a diffusers {CLASS_NAME}:", *problems])
        )
    stages, added = config.stages, config.added
    heads = [
        max(1, config.attention_of(index).heads_of(stage.channels))
        for index, stage in enumerate(stages)
    ]
    return {
        "_class_name": CLASS_NAME,
        "_diffusers_version": DIFFUSERS_VERSION,
        "sample_size": config.sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "down_block_types": [CROSS_DOWN if any(down) else PLAIN_DOWN for down in depths.down],
        "mid_block_type": (None, PLAIN_MIDDLE, CROSS_MIDDLE)[len(config.middle)],
        "up_block_types": [CROSS_UP if any(up) else PLAIN_UP for up in reversed(depths.up)],
        "block_out_channels": [stage.channels for stage in stages],
        "layers_per_block": _short([len(stage.down) for stage in stages]),
        **_depth_settings(depths),
        "attention_head_dim": _short(heads),
        "cross_attention_dim": config.context_dim,
        "norm_num_groups": config.norm_groups,
        "use_linear_projection": _projections(config, depths) == {"linear"},
        "time_embedding_dim": config.time_width,
        "time_cond_proj_dim": config.guidance_dim,
        "addition_embed_type": "text_time" if added.width else None,
        "addition_time_embed_dim": added.id_dim if added.width else None,
        "projection_class_embeddings_input_dim": added.width or None,
    } | FIXED


def _depths_of(config: UNetConfig) -> _Depths:
    def counts(blocks: tuple[ResidualBlock, ...]) -> list[int]:
        return [len(block.transformers) for block in blocks]

    return _Depths(
        down=[counts(stage.down) for stage in config.stages],
        up=[counts(stage.up) for stage in config.stages],
        middle=sum(counts(config.middle[:1])),
    )


def _short(values: list[int]) -> Depth:
    return values[0] if len(set(values)) == 1 else values


def _depth_settings(depths: _Depths) -> dict[str, Any]:
    # Both settings of depths, the second one null where the first says it all. A side of a stage
    # without transformer blocks may have any number there.
    up = [_short(counts) if any(counts) else 1 for counts in depths.up]
    down = [
        _short(counts) if any(counts) else other if isinstance(other, int) else 1
        for counts, other in zip(depths.down, up, strict=True)
    ]
    if depths.middle and not any(depths.down[-1]):
        down[-1] = depths.middle  # which diffusers reads for the middle as well
    told = all(
        isinstance(ours, int) and (theirs == ours or not any(counts))
        for ours, theirs, counts in zip(down, up, depths.up, strict=True)
    )
    same = isinstance(down[0], int) and all(depth == down[0] for depth in down)
    return {DEPTHS: down[0] if same else down, UP_DEPTHS: None if told else up[::-1]}


def _projections(config: UNetConfig, depths: _Depths) -> set[str]:
    # The forms of projection that occur: the network's where none does.
    used: set[str] = {config.projection_of(index) for index, on in enumerate(depths.attends) if on}
    return used or {config.option("projection")}


def _limits(config: UNetConfig, depths: _Depths) -> Iterator[str]:
    # Each named by its path.
    for index, stage in enumerate(config.stages):
        place = f"stages[{index}]"
        if len(stage.up) != len(stage.down) + 1:
            yield (
                f"{place}.up has {len(stage.up)} residual blocks for {len(stage.down)} down: "
                "diffusers has one more up than down."
            )
        for side, blocks in (("down", stage.down), ("up", stage.up)):
            yield from _other_layers(f"{place}.{side}", blocks)
            if len({bool(block.transformers) for block in blocks}) > 1:
                yield (
                    f"{place}.{side}: diffusers has transformer blocks after every residual block "
                    "of a side or after none."
                )
        if (conv := config.conv_of(index)) != "full":
            yield f"{place}.conv {conv}: diffusers has full convolutions only."
        if depths.attends[index]:
            yield from _other_options(config, index)
    if len(forms := _projections(config, depths)) > 1:
        yield f"projection {' and '.join(sorted(forms))}: diffusers has one form in all stages."
    middle, outer = [len(block.transformers) for block in config.middle], depths.down[-1][0]
    if middle not in ([], [0]) and (len(middle) != 2 or not middle[0] or middle[1]):
        yield (
            f"middle has transformer blocks {middle} after its residual blocks: diffusers has no "
            "middle, one residual block, or two with transformer blocks between."
        )
    yield from _other_layers("middle", config.middle)
    if depths.middle and outer and depths.middle != outer:
        yield (
            f"middle[0].transformers {depths.middle}: diffusers has the last stage's, {outer} "
            "after its first block down."
        )
    added = config.added
    if added.width and (ids := time_ids(added.width, added.id_dim)) != added.ids:
        yield (
            f"added.ids {added.ids}: a diffusers config holds the common width {added.width} of "
            f"text and time ids only, of which {ids} ids would be read."
        )


def _other_layers(place: str, blocks: tuple[ResidualBlock, ...]) -> Iterator[str]:
    for layers in dict.fromkeys(chain.from_iterable(block.transformers for block in blocks)):
        if layers != LAYERS:
            yield (
                f"{place}: layers [{', '.join(layers)}]: diffusers' transformer blocks are "
                f"[{', '.join(LAYERS)}]."
            )


def _other_options(config: UNetConfig, index: int) -> Iterator[str]:
    # Every option of a stage's transformer blocks has its default, but for the number of heads.
    attention, feed_forward = config.attention_of(index), config.feed_forward_of(index)
    heads = attention.heads_of(config.stages[index].channels)
    usual = dict(INHERITED["attention"]) | {"kv_heads": heads}
    checks = [
        (f"attention.{name}", (value or heads) if name == "kv_heads" else value, usual[name])
        for name, value in attention
        if name not in ("heads", "head_dim")
    ]
    checks += [
        (f"feed_forward.{name}", value, getattr(INHERITED["feed_forward"], name))
        for name, value in feed_forward
    ]
    for name, value, only in checks:
        if value != only:
            yield f"stages[{index}].{name} {value}: diffusers has {only} only."
