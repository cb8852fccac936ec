"""The settings of diffusers' ``UNet2DConditionModel``: which a UNetConfig expresses, which have one value, which say nothing.

Together they are all settings of its constructor in diffusers 0.42, which a test compares. A setting that a ``config.json`` leaves
out has the constructor's default, written down here so that reading a file does not import diffusers.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from archsearch.errors import InputError, nearest

Count = Annotated[int, Field(strict=True, ge=1)]
Depth = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]
CROSS_DOWN: Final = "CrossAttnDownBlock2D"
CROSS_UP: Final = "CrossAttnUpBlock2D"
CROSS_MIDDLE: Final = "UNetMidBlock2DCrossAttn"
PLAIN_DOWN: Final = "DownBlock2D"
PLAIN_UP: Final = "UpBlock2D"
PLAIN_MIDDLE: Final = "UNetMidBlock2D"


class Settings(BaseModel):
    """What a UNetConfig expresses, one field a setting. A description says what is allowed, in documents and messages."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sample_size: Count | list[Count] | None = Field(None, description="a whole number, or two equal ones")
    in_channels: Count = Field(4, description="a whole number from 1")
    out_channels: Count = Field(4, description="a whole number from 1")
    down_block_types: list[Literal["CrossAttnDownBlock2D", "DownBlock2D"]] = Field(
        [CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, PLAIN_DOWN], description=f"a list of {CROSS_DOWN} and {PLAIN_DOWN}"
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
    layers_per_block: Count | list[Count] = Field(2, description="a whole number from 1, or a list of them")
    norm_num_groups: Count = Field(32, description="a whole number from 1")
    cross_attention_dim: Count | list[Count] = Field(1280, description="a whole number, or a list of equal ones")
    transformer_layers_per_block: Depth | list[Depth | list[Depth]] = Field(
        1, description="a whole number, or a list of numbers or lists of them"
    )
    reverse_transformer_layers_per_block: list[Depth | list[Depth]] | None = Field(
        None, description="null, or a list of numbers or lists of them"
    )
    attention_head_dim: Count | list[Count] = Field(8, description="a whole number from 1, or a list of them")
    """In spite of its name the number of heads: diffusers keeps the name for the sake of old files."""
    use_linear_projection: Flag | None = Field(False, description="true or false")
    addition_embed_type: Literal["text_time"] | None = Field(None, description="null or text_time")
    addition_time_embed_dim: Count | None = Field(None, description="null or a whole number")
    projection_class_embeddings_input_dim: Count | None = Field(None, description="null or a whole number")
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
"""Settings that change the network, with the one value that a UNetConfig expresses: the default of each."""

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
    """Read the settings of a ``config.json``. Keys that begin with ``_`` say nothing of the network.

    Raises:
        InputError: A setting is unknown, or has a value that a UNetConfig cannot express; one line each.
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
            f"{key}: {data[key]!r} cannot be expressed by a UNetConfig; allowed is {allowed[key]}." for key in wrong
        ] + problems
        raise InputError("\n".join(problems)) from error
    if problems:
        raise InputError("\n".join(problems))
    return settings


def _is(key: str, given: Any, value: Any) -> bool:
    """Whether ``given`` means ``value``, however it is written."""
    if value is False:
        return given is None or given is False or (key == "only_cross_attention" and _all_false(given))
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
