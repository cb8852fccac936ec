"""The settings of diffusers' ``config.json``: those of a ``UNet2DConditionModel``, and those of a
``DreamLiteUNetModel``, which has all of them and five more.

There are some fifty. The fields of the two classes are those that a UNetConfig expresses, ``FIXED``
those of which it expresses one value, ``WITHOUT_EFFECT`` those that change nothing, ``OF_AVERAGE``
those that are another class's.
"""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from archsearch.unet.config import Layer

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
Layers = tuple[Layer, ...]
LAYERS: Final[Layers] = ("sa", "ca", "ff")  # diffusers' transformer block
NO_SELF_ATTENTION: Final[Layers] = ("norm", "ca", "ff")  # DreamLite's other one
BLOCK_TYPES = ("down_block_types", "mid_block_type", "up_block_types")
USUAL_IDS = 6
SDXL_TEXT = 1280


class Settings(BaseModel):
    """What a UNetConfig expresses, one field a setting. A description says what is allowed, in
    documents and messages.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    class_name: ClassVar[str] = "UNet2DConditionModel"
    # What each setting of block types may name, with the layers of the transformer blocks there.
    block_layers: ClassVar[dict[str, dict[str | None, Layers]]] = {
        "down_block_types": {CROSS_DOWN: LAYERS, PLAIN_DOWN: ()},
        "mid_block_type": {CROSS_MIDDLE: LAYERS, PLAIN_MIDDLE: (), None: ()},
        "up_block_types": {CROSS_UP: LAYERS, PLAIN_UP: ()},
    }

    sample_size: Count | list[Count] | None = Field(
        None, description="a whole number, or two equal ones"
    )
    in_channels: Count = Field(4, description="a whole number from 1")
    out_channels: Count = Field(4, description="a whole number from 1")
    down_block_types: list[str] = Field(
        [CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, PLAIN_DOWN],
        description=f"a list of {CROSS_DOWN} and {PLAIN_DOWN}",
    )
    mid_block_type: str | None = Field(
        CROSS_MIDDLE, description=f"{CROSS_MIDDLE}, {PLAIN_MIDDLE} or null"
    )
    up_block_types: list[str] = Field(
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

    @field_validator(*BLOCK_TYPES)
    @classmethod
    def _types_are_known(cls, value: Any, info: ValidationInfo) -> Any:
        known = cls.block_layers[str(info.field_name)]
        if unknown := [name for name in _listed(value) if name not in known]:
            raise ValueError(f"{unknown[0]} is none of them")
        return value

    def layers_of(self, key: str) -> list[Layers]:
        """The layers of the transformer blocks that a setting of block types stands for."""
        return [self.block_layers[key][name] for name in _listed(getattr(self, key))]

    def per_stage(self, key: str) -> list[Any]:
        """A setting that is one for all stages, or a list of one for each, as a list."""
        value = getattr(self, key)
        return value if isinstance(value, list) else [value] * len(self.block_out_channels)

    @classmethod
    def known(cls) -> frozenset[str]:
        """The names of all settings."""
        return frozenset(cls.model_fields) | frozenset(FIXED) | WITHOUT_EFFECT


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class DreamLiteSettings(Settings):
    """DreamLite's settings (arXiv 2603.28713), with its class's defaults.

    Blocks without self-attention put the norm before it in the place of their input. Names of
    blocks of the other class stand for DreamLite's, as they do there.
    """

    class_name: ClassVar[str] = "DreamLiteUNetModel"
    block_layers: ClassVar[dict[str, dict[str | None, Layers]]] = {
        "down_block_types": {
            "DreamLiteCrossAttnDownBlock2D": LAYERS,
            "DreamLiteCrossAttnNoSelfAttnDownBlock2D": NO_SELF_ATTENTION,
            "DreamLiteDownBlock2D": (),
            CROSS_DOWN: LAYERS,
            "CrossAttnDownRemoveSelfAttnBlock2D": NO_SELF_ATTENTION,
            PLAIN_DOWN: (),
        },
        "mid_block_type": {
            "DreamLiteUNetMidBlock2DCrossAttn": LAYERS,
            CROSS_MIDDLE: LAYERS,
            None: (),
        },
        "up_block_types": {
            "DreamLiteCrossAttnUpBlock2D": LAYERS,
            "DreamLiteCrossAttnNoSelfAttnUpBlock2D": NO_SELF_ATTENTION,
            "DreamLiteUpBlock2D": (),
            CROSS_UP: LAYERS,
            "CrossAttnUpRemoveSelfAttnBlock2D": NO_SELF_ATTENTION,
            "CrossAttnUpRemoveSelfAttnBlock2DV1": NO_SELF_ATTENTION,
            PLAIN_UP: (),
        },
    }

    down_block_types: list[str] = Field(
        [
            "DreamLiteCrossAttnNoSelfAttnDownBlock2D",
            "DreamLiteCrossAttnNoSelfAttnDownBlock2D",
            "DreamLiteCrossAttnDownBlock2D",
        ],
        description="a list of DreamLiteCrossAttnDownBlock2D, "
        "DreamLiteCrossAttnNoSelfAttnDownBlock2D and DreamLiteDownBlock2D",
    )
    mid_block_type: str | None = Field(
        "DreamLiteUNetMidBlock2DCrossAttn",
        description="DreamLiteUNetMidBlock2DCrossAttn or null",
    )
    up_block_types: list[str] = Field(
        [
            "DreamLiteCrossAttnUpBlock2D",
            "DreamLiteCrossAttnNoSelfAttnUpBlock2D",
            "DreamLiteUpBlock2D",
        ],
        description="a list of DreamLiteCrossAttnUpBlock2D, DreamLiteCrossAttnNoSelfAttnUpBlock2D "
        "and DreamLiteUpBlock2D",
    )
    block_out_channels: list[Count] = Field(
        [320, 640, 1280], min_length=1, description="a list of whole numbers, one a stage"
    )
    cross_attention_dim: Count | list[Count] = Field(
        2048, description="a whole number, or a list of equal ones"
    )
    attention_head_dim: Count | list[Count] = Field(
        64, description="a whole number from 1, or a list of them"
    )
    qk_norm: Literal["rms_norm"] | None = Field("rms_norm", description="rms_norm or null")
    use_sep_conv: Flag = Field(True, description="true or false")
    ff_mult: Annotated[int, Field(strict=True, ge=1, le=8)] = Field(
        6, description="a whole number from 1 to 8"
    )
    num_kv_heads: Count | None = Field(1, description="null or a whole number from 1")
    num_mid_layers: Literal[1] = Field(1, description="1")


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

SETTINGS: dict[str, type[Settings]] = {
    each.class_name: each for each in (Settings, DreamLiteSettings)
}
