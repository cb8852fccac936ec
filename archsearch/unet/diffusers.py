"""diffusers' ``config.json`` of a ``UNet2DConditionModel`` or a ``DreamLiteUNetModel``, read into a
UNetConfig and written from one.

Reading refuses by its key every value that a UNetConfig does not express (``diffusers_settings``);
writing refuses, by its path, every option that diffusers lacks.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pydantic import ValidationError

from archsearch.errors import InputError, check_known, nearest
from archsearch.unet.config import INHERITED, ResidualBlock, UNetConfig
from archsearch.unet.diffusers_settings import (
    DEPTHS,
    DIFFUSERS_VERSION,
    FIXED,
    LAYERS,
    NO_SELF_ATTENTION,
    OF_AVERAGE,
    SDXL_TEXT,
    SETTINGS,
    UP_DEPTHS,
    USUAL_IDS,
    DreamLiteSettings,
    Layers,
    Settings,
)

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
    """Read the data of a ``config.json``; one without ``_class_name`` is a
    ``UNet2DConditionModel``'s.

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
    name = data.get("_class_name", Settings.class_name)
    check_known(name, SETTINGS, f"_class_name: {name!r} is not read")
    kind = SETTINGS[name]
    known = kind.known()
    unknown = [
        f"{key}: {value!r} is a setting that is not known.{nearest(key, known)}"
        for key, value in data.items()
        if not key.startswith("_")
        and key not in known | OF_AVERAGE
        and value is not None
        and value is not False
    ]
    settings = kind()
    try:
        settings = kind.model_validate(dict(data))
    except ValidationError as error:
        wrong = dict.fromkeys(str(item["loc"][0]) for item in error.errors())
        refused = {key: str(kind.model_fields[key].description) for key in wrong} | refused
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

    def read(place: str, depth: Depth, count: int, layers: Layers) -> list[int]:
        if not layers:
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
            read(f"{DEPTHS}[{i}]", down[i], blocks[i], layers)
            for i, layers in enumerate(settings.layers_of("down_block_types"))
        ],
        up=[
            read(up_places[i], up[i], blocks[i] + 1, layers)
            for i, layers in enumerate(reversed(settings.layers_of("up_block_types")))
        ],
        middle=sum(read(f"{DEPTHS}[{last}]", down[-1], 1, settings.layers_of("mid_block_type")[0])),
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
    down_layers, up_layers = map(settings.layers_of, ("down_block_types", "up_block_types"))
    middle = [] if settings.mid_block_type is None else [depths.middle, 0] if depths.middle else [0]
    dreamlite = _dreamlite_options(settings) if isinstance(settings, DreamLiteSettings) else {}
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
        **dreamlite,
        "attention": network | dreamlite.get("attention", {}),
        "stages": [
            {
                "channels": width,
                "down": _blocks(depths.down[index], down_layers[index]),
                "up": _blocks(depths.up[index], up_layers[-1 - index]),
                "attention": by_stage[index],
            }
            for index, width in enumerate(widths)
        ],
        "middle": _blocks(middle, LAYERS),
    }


def _dreamlite_options(settings: DreamLiteSettings) -> dict[str, Any]:
    return {
        "conv": "inverted" if settings.use_sep_conv else "full",
        "attention": {
            "kv_heads": settings.num_kv_heads,
            "qk_norm": "rms" if settings.qk_norm else "none",
        },
        "feed_forward": {"expansion": 2 * settings.ff_mult},  # the gated halves counted both
    }


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _blocks(depths: list[int], layers: Layers) -> list[dict[str, Any]]:
    return [{"transformers": depth, "layers": layers} if depth else {} for depth in depths]


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

    The class is ``UNet2DConditionModel`` where that can express it, else ``DreamLiteUNetModel``.

    Raises:
        InputError: Neither can express it; one line for each option in the way, of DreamLite's
            where the network has what only DreamLite has.
    """
    depths, problems = _depths_of(config), {}
    for kind in (Settings, DreamLiteSettings):
        problems[kind] = list(_limits(config, depths, kind is DreamLiteSettings))
        if not problems[kind]:
            return _written(config, depths, kind)
    kind = DreamLiteSettings if _is_like_dreamlite(config) else Settings
    head = f"network {config.digest} cannot be a diffusers {kind.class_name}:"
    raise InputError("\n".join([head, *problems[kind]]))


def _is_like_dreamlite(config: UNetConfig) -> bool:
    blocks = chain(config.middle, *(stage.down + stage.up for stage in config.stages))
    layers = chain.from_iterable(block.transformers for block in blocks)
    convs = {config.conv_of(index) for index in range(len(config.stages))}
    return "inverted" in convs or any("norm" in each for each in layers)


def _written(config: UNetConfig, depths: _Depths, kind: type[Settings]) -> dict[str, Any]:
    def block_type(key: str, blocks: tuple[ResidualBlock, ...]) -> str | None:
        layers = next(chain.from_iterable(block.transformers for block in blocks), ())
        return next(name for name, each in kind.block_layers[key].items() if each == layers)

    stages, added = config.stages, config.added
    heads = [
        max(1, config.attention_of(index).heads_of(stage.channels))
        for index, stage in enumerate(stages)
    ]
    return {
        "_class_name": kind.class_name,
        "_diffusers_version": DIFFUSERS_VERSION,
        "sample_size": config.sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "down_block_types": [block_type("down_block_types", stage.down) for stage in stages],
        "mid_block_type": block_type("mid_block_type", config.middle) if config.middle else None,
        "up_block_types": [block_type("up_block_types", stage.up) for stage in reversed(stages)],
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
        **(_dreamlite_settings(config, depths) if kind is DreamLiteSettings else {}),
    } | FIXED


def _dreamlite_settings(config: UNetConfig, depths: _Depths) -> dict[str, Any]:
    # Every stage with transformer blocks has the same, which _limits has seen to.
    used = [index for index, on in enumerate(depths.attends) if on] or [0]
    attention, feed_forward = config.attention_of(used[0]), config.feed_forward_of(used[0])
    return {
        "qk_norm": "rms_norm" if attention.qk_norm == "rms" else None,
        "use_sep_conv": config.conv_of(0) == "inverted",
        "ff_mult": (feed_forward.expansion or 2) // 2,
        "num_kv_heads": next(iter(_kv_heads(config, used))),
        "num_mid_layers": 1,
    }


def _kv_heads(config: UNetConfig, stages: Iterable[int]) -> set[int | None]:
    # Heads of keys and values in these stages; None alone where every head of queries has its own.
    options = {index: config.attention_of(index) for index in stages}
    heads = {index: each.heads_of(config.stages[index].channels) for index, each in options.items()}
    if all(each.kv_heads in (None, heads[index]) for index, each in options.items()):
        return {None}
    return {each.kv_heads or heads[index] for index, each in options.items()}


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


def _limits(config: UNetConfig, depths: _Depths, dreamlite: bool) -> Iterator[str]:
    # Each named by its path.
    kinds = (LAYERS, NO_SELF_ATTENTION) if dreamlite else (LAYERS,)
    for index, stage in enumerate(config.stages):
        place = f"stages[{index}]"
        if stage.flat:
            yield f"{place}.flat true: diffusers halves the size between all stages."
        if len(stage.up) != len(stage.down) + 1:
            yield (
                f"{place}.up has {len(stage.up)} residual blocks for {len(stage.down)} down: "
                "diffusers has one more up than down."
            )
        for side, blocks in (("down", stage.down), ("up", stage.up)):
            yield from _other_layers(f"{place}.{side}", blocks, kinds)
            if len({bool(block.transformers) for block in blocks}) > 1:
                yield (
                    f"{place}.{side}: diffusers has transformer blocks after every residual block "
                    "of a side or after none."
                )
        if not dreamlite and (conv := config.conv_of(index)) != "full":
            yield f"{place}.conv {conv}: diffusers has full convolutions only."
        if depths.attends[index]:
            yield from _other_options(config, index, dreamlite)
    if dreamlite:
        yield from _dreamlite_limits(config, depths)
    if len(forms := _projections(config, depths)) > 1:
        yield f"projection {' and '.join(sorted(forms))}: diffusers has one form in all stages."
    middle, outer = [len(block.transformers) for block in config.middle], depths.down[-1][0]
    if middle not in ([], [0]) and (len(middle) != 2 or not middle[0] or middle[1]):
        yield (
            f"middle has transformer blocks {middle} after its residual blocks: diffusers has no "
            "middle, one residual block, or two with transformer blocks between."
        )
    yield from _other_layers("middle", config.middle, (LAYERS,))
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


def _dreamlite_limits(config: UNetConfig, depths: _Depths) -> Iterator[str]:
    # What is one value for the whole network there.
    used = [index for index, on in enumerate(depths.attends) if on]
    values: dict[str, set[Any]] = {
        "conv": {config.conv_of(index) for index in range(len(config.stages))},
        "attention.kv_heads": _kv_heads(config, used),
        "attention.qk_norm": {config.attention_of(index).qk_norm for index in used},
        "feed_forward.expansion": {config.feed_forward_of(index).expansion for index in used},
    }
    for name, found in values.items():
        if len(found) > 1:
            told = " and ".join(sorted(map(str, found)))
            yield f"{name} {told}: DreamLite has one value in all stages."
    if other := values["conv"] - {"full", "inverted"}:
        yield f"conv {other.pop()}: DreamLite has full or inverted convolutions."
    if config.middle and not depths.middle:
        yield "middle has no transformer blocks: DreamLite has them in its middle."


def _other_layers(
    place: str, blocks: tuple[ResidualBlock, ...], kinds: tuple[Layers, ...]
) -> Iterator[str]:
    found = list(dict.fromkeys(chain.from_iterable(block.transformers for block in blocks)))
    allowed = " or ".join(f"[{', '.join(each)}]" for each in kinds)
    for layers in found:
        if layers not in kinds:
            yield (
                f"{place}: layers [{', '.join(layers)}]: diffusers' transformer blocks are "
                f"{allowed}."
            )
    if len(found) > 1 and set(found) <= set(kinds):
        yield f"{place}: diffusers has transformer blocks of one kind on a side."


def _other_options(config: UNetConfig, index: int, dreamlite: bool) -> Iterator[str]:
    # Every option of a stage's transformer blocks has its default, but for the number of heads,
    # and for those of which DreamLite has any value.
    free = ("kv_heads", "qk_norm", "expansion") if dreamlite else ()
    attention, feed_forward = config.attention_of(index), config.feed_forward_of(index)
    heads = attention.heads_of(config.stages[index].channels)
    usual = dict(INHERITED["attention"]) | {"kv_heads": heads}
    checks = [
        (f"attention.{name}", (value or heads) if name == "kv_heads" else value, usual[name])
        for name, value in attention
        if name not in ("heads", "head_dim", *free)
    ]
    checks += [
        (f"feed_forward.{name}", value, getattr(INHERITED["feed_forward"], name))
        for name, value in feed_forward
        if name not in free
    ]
    for name, value, only in checks:
        if value != only:
            yield f"stages[{index}].{name} {value}: diffusers has {only} only."
