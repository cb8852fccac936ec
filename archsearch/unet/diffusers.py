"""diffusers' configs of a UNet, in and out, and what of our knobs they can say."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from archsearch.errors import InputError, nearest
from archsearch.unet.config import INHERITED, AddedEmbedding, ResidualBlock, UNetConfig

Count = Annotated[int, Field(strict=True, ge=1)]
DepthCount = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]
CROSS_DOWN: Final = "CrossAttnDownBlock2D"
CROSS_UP: Final = "CrossAttnUpBlock2D"
CROSS_MIDDLE: Final = "UNetMidBlock2DCrossAttn"
PLAIN_DOWN: Final = "DownBlock2D"
PLAIN_UP: Final = "UpBlock2D"
PLAIN_MIDDLE: Final = "UNetMidBlock2D"


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
    "num_attention_heads": None,  # refused by diffusers itself, which takes attention_head_dim for it
    "dual_cross_attention": False,
    "class_embed_type": None,
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "class_embeddings_concat": False,
}
"""Settings that change the network, with the one value that a UNetConfig expresses: the default of
each.
"""

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
"""Settings that change nothing of the networks that are read: any value is."""

KNOWN = frozenset(Settings.model_fields) | frozenset(FIXED) | WITHOUT_EFFECT


def read_settings(data: Mapping[str, Any]) -> Settings:
    """Read the settings of a ``config.json``. Keys that begin with ``_`` say nothing of the
    network.

    Raises:
        InputError: A setting is unknown, or has a value that a UNetConfig cannot express; one line
            each.
    """
    problems = [
        f"{key}: {data[key]!r} cannot be expressed by a UNetConfig; allowed is {_json(value)}."
        for key, value in FIXED.items()
        if key in data and not _is(key, data[key], value)
    ]
    problems += [
        f"{key}: {value!r} is a setting that is not known.{nearest(key, KNOWN)}"
        for key, value in data.items()
        if not key.startswith("_") and key not in KNOWN and value is not None and value is not False
    ]
    try:
        settings = Settings.model_validate(dict(data))
    except ValidationError as error:
        wrong = dict.fromkeys(str(item["loc"][0]) for item in error.errors())
        allowed = {key: Settings.model_fields[key].description for key in wrong}
        problems = [
            f"{key}: {data[key]!r} cannot be expressed by a UNetConfig; allowed is {allowed[key]}."
            for key in wrong
        ] + problems
        raise InputError("\n".join(problems)) from error
    if problems:
        raise InputError("\n".join(problems))
    return settings


def _is(key: str, given: Any, value: Any) -> bool:
    """Whether ``given`` means ``value``, however it is written."""
    if value is False:
        return (
            given is None or given is False or (key == "only_cross_attention" and _all_false(given))
        )
    if key == "act_fn":
        return given in ("silu", "swish")  # two names of x · sigmoid(x)
    return bool(given == value)


def _all_false(given: Any) -> bool:
    return isinstance(given, list | tuple) and all(item is False for item in given)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def per_stage(value: Any, settings: Settings) -> list[Any]:
    """Return a setting that is one for all stages, or a list of one for each, as a list."""
    return value if isinstance(value, list) else [value] * len(settings.block_out_channels)


Depth = int | list[int]
KEY, UP_KEY = "transformer_layers_per_block", "reverse_transformer_layers_per_block"


@dataclass(frozen=True, slots=True)
class Depths:
    """Transformer blocks after each residual block, 0 for none; stages from the highest resolution
    to the lowest.
    """

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
    """Return the depths, and what is wrong with them. As in diffusers a list may be longer than
    there are residual blocks.
    """
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
        down=[
            of(f"{KEY}[{i}]", down[i], blocks[i], settings.down_block_types[i] == CROSS_DOWN)
            for i in range(last + 1)
        ],
        up=[
            of(f"{up_key}[{places[i]}]", up[i], blocks[i] + 1, cross_up[i] == CROSS_UP)
            for i in range(last + 1)
        ],
        middle=of(f"{KEY}[{last}]", down[last], 1, settings.mid_block_type == CROSS_MIDDLE)[0],
    ), problems


def _each(depth: Depth, blocks: int) -> tuple[list[int], str]:
    """One depth for each residual block, and what is wrong with them."""
    depths = [depth] * blocks if isinstance(depth, int) else depth[:blocks]
    if len(depths) < blocks:
        return [1] * blocks, f"{depth} is too short for {blocks} residual blocks."
    if 0 in depths:
        return (
            depths,
            f"{depth} leaves projections around no transformer block; allowed are 1 and more.",
        )
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
    """Return both settings, the second one null where the first says it all. A stage without
    transformer blocks has any number.
    """
    depths = depths_of(config)
    down = [
        _shortest(counts) if any(counts) else _free(depths, index)
        for index, counts in enumerate(depths.down)
    ]
    up = [_shortest(counts) if any(counts) else 1 for counts in depths.up]
    told = all(
        isinstance(one, int) and (two == one or not any(depths.up[index]))
        for index, (one, two) in enumerate(zip(down, up, strict=True))
    )
    same = all(depth == down[0] for depth in down) and isinstance(down[0], int)
    return {KEY: down[0] if same else down, UP_KEY: None if told else up[::-1]}


def _free(depths: Depths, stage: int) -> Depth:
    """What to say of a stage that has no transformer blocks down: what the middle or the way up
    needs.
    """
    if stage == len(depths.down) - 1 and depths.middle:
        return depths.middle
    up = _shortest(depths.up[stage])
    return up if isinstance(up, int) and up else 1


def _shortest(counts: list[int]) -> Depth:
    return counts[0] if len(set(counts)) == 1 else counts


LAYERS = ("sa", "ca", "ff")
USUAL_IDS = 6
SDXL_TEXT = 1280


def limits(config: UNetConfig) -> list[str]:
    """One line for each option that diffusers' UNet does not have, named by its path; none where it
    can express ``config``.
    """
    lines = [
        line
        for index in range(len(config.stages))
        for line in (*_sides(config, index), *_options(config, index))
    ]
    return [*lines, *_projections(config), *_middle(config), *_added_limits(config.added)]


def _sides(config: UNetConfig, index: int) -> Iterator[str]:
    stage = config.stages[index]
    if len(stage.up) != len(stage.down) + 1:
        blocks = (
            f"stages[{index}].up has {len(stage.up)} residual blocks for {len(stage.down)} down"
        )
        yield f"{blocks}: diffusers has one more up than down."
    for name, side in (("down", stage.down), ("up", stage.up)):
        yield from _layers(f"stages[{index}].{name}", side)
        if len({bool(block.transformers) for block in side}) > 1:
            yield (
                f"stages[{index}].{name}: diffusers has transformer blocks after every "
                "residual block of a side or after none."
            )


def _layers(place: str, blocks: tuple[ResidualBlock, ...]) -> Iterator[str]:
    others = {layers: None for block in blocks for layers in block.transformers if layers != LAYERS}
    for layers in others:
        yield (
            f"{place}: layers [{', '.join(layers)}]: diffusers' transformer blocks are "
            f"[{', '.join(LAYERS)}]."
        )


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
        *(
            (f"feed_forward.{name}", value, getattr(INHERITED["feed_forward"], name))
            for name, value in feed_forward
        ),
    )
    yield from (
        f"{place}.{name} {value}: diffusers has {only} only."
        for name, value, only in checks
        if value != only
    )


def _projections(config: UNetConfig) -> Iterator[str]:
    if len(found := projections(config)) > 1:
        yield f"projection {' and '.join(sorted(found))}: diffusers has one form in all stages."


def projections(config: UNetConfig) -> set[str]:
    """The forms of projection that occur: the network's where none does."""
    attends = depths_of(config).attends
    return {config.projection_of(index) for index, on in enumerate(attends) if on} or {
        config.option("projection")
    }


def _middle(config: UNetConfig) -> Iterator[str]:
    counts = [len(block.transformers) for block in config.middle]
    if counts not in ([], [0]) and (len(counts) != 2 or not counts[0] or counts[1]):
        yield (
            f"middle has transformer blocks {counts} after its residual blocks: diffusers has "
            "no middle, one residual "
            "block, or two with transformer blocks between."
        )
    yield from _layers("middle", config.middle)
    outer = depths_of(config).down[-1][0]
    if counts and counts[0] and outer and counts[0] != outer:
        yield (
            f"middle[0].transformers {counts[0]}: diffusers has the last stage's, {outer} "
            "after its first block down."
        )


def _added_limits(added: AddedEmbedding) -> Iterator[str]:
    if added.width and (ids := time_ids(added.width, added.id_dim)) != added.ids:
        yield (
            f"added.ids {added.ids}: a diffusers config holds the common width {added.width} of "
            "text and time ids only, of which "
            f"{ids} ids would be read."
        )


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


CLASS_NAME = "UNet2DConditionModel"
DIFFUSERS_VERSION = "0.35.0"
"""Written into files: the oldest version that this library works with, so that all of its versions
read them.
"""


def from_diffusers(data: Mapping[str, Any], context_tokens: int = 77) -> UNetConfig:
    """Read the data of a ``config.json``.

    The number of heads becomes ``heads`` where all stages with attention have the same, else
    ``head_dim`` where that is the same, else the ``heads`` of each stage.

    Args:
        data: The file's keys and values. What is left out has diffusers' default.
        context_tokens: Length of the text context, of which diffusers' networks say nothing.

    Raises:
        InputError: A UNetConfig cannot express the network; one line for each setting in the way,
            with what is allowed.
    """
    settings = read_settings(data)
    _raise(_length_problems(settings))
    depths, problems = read_depths(settings)
    _raise(problems + _size_problems(settings) + _head_problems(settings, depths.attends))
    try:
        return UNetConfig.model_validate(
            _config(settings, depths) | {"context_tokens": context_tokens}
        )
    except ValidationError as error:
        lines = [item["msg"].removeprefix("Value error, ") for item in error.errors()]
        places = [".".join(map(str, item["loc"])) for item in error.errors()]
        raise InputError(
            "\n".join(
                f"{place}: {line}" if place else line
                for place, line in zip(places, lines, strict=True)
            )
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
        problems.append(
            "sample_size: is not given; a UNetConfig needs the height and width of the sample."
        )
    elif isinstance(settings.sample_size, list) and (
        len(settings.sample_size) != 2 or len(set(settings.sample_size)) != 1
    ):
        problems.append(
            f"sample_size: {settings.sample_size} is not square; allowed is a whole number, or "
            "two equal ones."
        )
    if (
        isinstance(settings.cross_attention_dim, list)
        and len(set(settings.cross_attention_dim)) != 1
    ):
        problems.append(
            f"cross_attention_dim: {settings.cross_attention_dim} differ; allowed is one width "
            "for all stages."
        )
    if settings.addition_embed_type == "text_time":
        width, id_dim = (
            settings.projection_class_embeddings_input_dim,
            settings.addition_time_embed_dim,
        )
        for key, value in (
            ("projection_class_embeddings_input_dim", width),
            ("addition_time_embed_dim", id_dim),
        ):
            if value is None:
                problems.append(f"{key}: is not given; addition_embed_type text_time needs it.")
        if width and id_dim and width <= id_dim:
            problems.append(
                f"projection_class_embeddings_input_dim: {width} leaves no text beside a time "
                f"id of {id_dim}."
            )
    return problems


def _head_problems(settings: Settings, attends: Sequence[bool]) -> list[str]:
    heads = per_stage(settings.attention_head_dim, settings)
    return [
        f"attention_head_dim: {number} heads do not divide the {width} channels of stage {index}."
        for index, (number, width) in enumerate(
            zip(heads, settings.block_out_channels, strict=True)
        )
        if attends[index] and width % number
    ]


def _config(settings: Settings, depths: Depths) -> dict[str, Any]:
    widths = settings.block_out_channels
    network, by_stage = _attention(
        per_stage(settings.attention_head_dim, settings), widths, depths.attends
    )
    stages = [
        {"channels": width, "down": _blocks(down), "up": _blocks(up), "attention": attention}
        for width, down, up, attention in zip(widths, depths.down, depths.up, by_stage, strict=True)
    ]
    middle = {CROSS_MIDDLE: [depths.middle, 0], PLAIN_MIDDLE: [0], None: []}[
        settings.mid_block_type
    ]
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


def _attention(
    heads: list[int], widths: list[int], attends: list[bool]
) -> tuple[dict[str, int], list[dict[str, int]]]:
    """The attention options of the network and of its stages."""
    used = [
        (number, width // number)
        for number, width, on in zip(heads, widths, attends, strict=True)
        if on
    ]
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
    """Write ``config`` as the data of a ``config.json``. The length of the text context is not
    kept: it changes no weight.

    Raises:
        InputError: diffusers' UNet cannot express it; one line for each option in the way.
    """
    if problems := limits(config):
        raise InputError(
            "\n".join([f"network {config.digest} cannot be a diffusers {CLASS_NAME}:", *problems])
        )
    stages = config.stages
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
        "down_block_types": [
            CROSS_DOWN if stage.down[0].transformers else PLAIN_DOWN for stage in stages
        ],
        "mid_block_type": (None, PLAIN_MIDDLE, CROSS_MIDDLE)[len(config.middle)],
        "up_block_types": [
            CROSS_UP if stage.up[0].transformers else PLAIN_UP for stage in reversed(stages)
        ],
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
