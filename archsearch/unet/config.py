"""UNetConfig: the architecture, frozen and validated, from which everything else is derived.

Layers, not flags: a side of a stage is a list of residual blocks, each followed by a list of transformer blocks, each a tuple
out of ``sa`` (self-attention), ``ca`` (cross-attention) and ``ff`` (feed-forward), in order. Options (convolution, attention,
feed-forward) have one value for the network and may be set again per stage. The defaults are Stable Diffusion 1.5's.
"""

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_serializer,
    model_validator,
)

SCHEMA_VERSION = 1

Layer = Literal["sa", "ca", "ff"]
Conv = Literal["full", "separable"]
Activation = Literal["gelu", "geglu", "silu", "swiglu", "relu"]
GATED: frozenset[str] = frozenset({"geglu", "swiglu"})

Channels = Annotated[int, Field(ge=8, le=8192, multiple_of=8)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True)


class Attention(_Frozen):
    """Options of self- and cross-attention. None inherits: a stage's from the network's, the network's from the default."""

    kv: Literal["separate", "shared", "shared_everywhere"] | None = None
    """One projection for keys and values: never (the default), in self-attention, in self- and cross-attention."""
    normalizer: Literal["softmax", "relu"] | None = None
    """softmax(QKᵀ/√d)·V (the default), or relu(QKᵀ/√d)/N·V with N the number of keys."""
    heads: Annotated[int, Field(ge=1, le=128)] | None = None
    """Number of heads (default 8). Excludes head_dim."""
    head_dim: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Channels a head; the number of heads follows from the width. Excludes heads."""

    @model_validator(mode="after")
    def _heads_or_head_dim(self) -> Self:
        if self.heads is not None and self.head_dim is not None:
            raise ValueError(f"heads ({self.heads}) and head_dim ({self.head_dim}) exclude each other, set one")
        return self


class FeedForward(_Frozen):
    """Options of the feed-forward layer. None inherits."""

    expansion: Annotated[int, Field(ge=1, le=16)] | None = None
    """Width of the first projection over the channels (default 8); a gated activation counts both halves, as in SD's GEGLU."""
    activation: Activation | None = None
    """Default geglu. geglu and swiglu gate one half of the projection with the other."""


class ResidualBlock(_Frozen):
    """A residual block and the transformer blocks after it.

    Written either as ``{transformers: 3, layers: [sa, ca, ff]}`` or, where the transformer blocks differ, as
    ``{transformers: [[sa, ca, ff], [ca]]}``. No layers means no transformer block.
    """

    short_form: ClassVar[tuple[str, ...]] = ("layers",)
    """Keys of the first way of writing, beside the fields."""

    transformers: tuple[tuple[Layer, ...], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "layers" not in data:
            if isinstance(data, dict) and isinstance(data.get("transformers"), int) and data["transformers"] != 0:
                raise ValueError(f"transformers: {data['transformers']} needs layers, e.g. layers: [sa, ca, ff]")
            if isinstance(data, dict) and data.get("transformers") == 0:
                return {k: v for k, v in data.items() if k != "transformers"}
            return data
        rest = {k: v for k, v in data.items() if k != "layers"}
        count = rest.get("transformers", 1)
        if isinstance(count, list | tuple):
            count = len(count)
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 64:
            raise ValueError(f"transformers must be a number from 0 to 64 or a list of layer lists, but got {count!r}")
        return {**rest, "transformers": [data["layers"]] * count if data["layers"] else []}

    @model_validator(mode="after")
    def _drop_empty(self) -> Self:
        for layers in self.transformers:
            if len(set(layers)) != len(layers):
                raise ValueError(f"layers {list(layers)} repeats a layer; allowed are sa, ca and ff, each at most once")
        object.__setattr__(self, "transformers", tuple(layers for layers in self.transformers if layers))
        return self

    @model_serializer(mode="plain")
    def _compact(self) -> dict[str, Any]:
        if not self.transformers:
            return {}
        if len(set(self.transformers)) == 1:
            return {"transformers": len(self.transformers), "layers": list(self.transformers[0])}
        return {"transformers": [list(layers) for layers in self.transformers]}


class Stage(_Frozen):
    """One resolution of the network: its width, its residual blocks on the way down and up, and its options."""

    channels: Channels
    """Width of the stage."""
    down: Annotated[tuple[ResidualBlock, ...], Field(min_length=1, max_length=16)]
    up: Annotated[tuple[ResidualBlock, ...], Field(min_length=1, max_length=16)]
    conv: Conv | None = None
    """Convolutions of the residual blocks: full 3×3, or depthwise 3×3 and pointwise 1×1. None inherits."""
    attention: Attention = Attention()
    feed_forward: FeedForward = FeedForward()


DEFAULT_CONV: Conv = "full"
DEFAULT_ATTENTION = Attention(kv="separate", normalizer="softmax", heads=8)
DEFAULT_FEED_FORWARD = FeedForward(expansion=8, activation="geglu")

OptionsT = TypeVar("OptionsT", Attention, FeedForward)


def inherit(options: OptionsT, parent: OptionsT) -> OptionsT:
    """Fill what ``options`` leaves open from ``parent``."""
    merged = dict(parent) | {name: value for name, value in options if value is not None}
    if isinstance(options, Attention):
        if options.head_dim is not None:
            merged["heads"] = None
        elif options.heads is not None:
            merged["head_dim"] = None
    return type(options).model_construct(**merged)  # both are validated already


def _only_what_differs(options: OptionsT, parent: OptionsT) -> OptionsT:
    """Drop from ``options`` what ``parent`` says already, so that equal networks are equal configs."""
    inherited = dict(parent)
    return type(options).model_construct(**{k: v for k, v in options if v is not None and inherited[k] != v})


class UNetConfig(_Frozen):
    """A text-to-image UNet. Construction refuses what cannot be built.

    What is left out and what is spelled out as the default, or as inherited, are the same config with the same digest. Two ways to
    say one thing (8 heads of 40 channels, or a head dimension of 40) are two configs.

    Shapes at batch 1: the sample is (in_channels, sample_size, sample_size), the context (context_tokens, context_dim).
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    in_channels: Annotated[int, Field(ge=1, le=256)] = 4
    out_channels: Annotated[int, Field(ge=1, le=256)] = 4
    sample_size: Annotated[int, Field(ge=4, le=512)] = 64
    """Height and width of the (latent) sample."""
    context_dim: Annotated[int, Field(ge=1, le=16384)] = 768
    context_tokens: Annotated[int, Field(ge=1, le=1024)] = 77
    time_width: Annotated[int, Field(ge=8, le=16384)] | None = None
    """Width of the time embedding. None: four times the first stage's."""
    norm_groups: Annotated[int, Field(ge=1, le=256)] = 32
    conv: Conv | None = None
    attention: Attention = Attention()
    feed_forward: FeedForward = FeedForward()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=6)]
    """From the highest resolution to the lowest; each halves the size of the one before."""
    middle: Annotated[tuple[ResidualBlock, ...], Field(max_length=16)] = ()
    """Residual blocks between the ways down and up, with the width and options of the last stage. Empty: no middle block."""

    @model_validator(mode="after")
    def _check_and_canonicalise(self) -> Self:
        self._check_sizes()
        set_ = object.__setattr__
        set_(self, "conv", None if self.conv == DEFAULT_CONV else self.conv)
        set_(self, "attention", _only_what_differs(self.attention, DEFAULT_ATTENTION))
        set_(self, "feed_forward", _only_what_differs(self.feed_forward, DEFAULT_FEED_FORWARD))
        if self.time_width == 4 * self.stages[0].channels:
            set_(self, "time_width", None)
        conv = self.conv or DEFAULT_CONV
        attention, feed_forward = inherit(self.attention, DEFAULT_ATTENTION), inherit(self.feed_forward, DEFAULT_FEED_FORWARD)
        set_(
            self,
            "stages",
            tuple(
                stage.model_copy(
                    update={
                        "conv": None if stage.conv == conv else stage.conv,
                        "attention": _only_what_differs(stage.attention, attention),
                        "feed_forward": _only_what_differs(stage.feed_forward, feed_forward),
                    }
                )
                for stage in self.stages
            ),
        )
        self._check_options()
        return self

    def _check_sizes(self) -> None:
        halvings = 2 ** (len(self.stages) - 1)
        if self.sample_size % halvings:
            raise ValueError(
                f"sample_size {self.sample_size} does not halve evenly {len(self.stages) - 1} times, "
                f"as its {len(self.stages)} stages need; allowed are multiples of {halvings}"
            )
        for index, stage in enumerate(self.stages):
            if stage.channels % self.norm_groups:
                raise ValueError(f"stages[{index}].channels {stage.channels} is not a multiple of norm_groups {self.norm_groups}")
            entering = self.stages[max(index - 1, 0)].channels
            if self.sample_size // 2**index == 1 and self.norm_groups in (stage.channels, entering):
                raise ValueError(
                    f"stages[{index}] has a size of 1×1, where norm_groups {self.norm_groups} over {min(stage.channels, entering)} "
                    f"channels leave single values to normalise; take more channels, fewer groups or a larger sample_size"
                )

    def _check_options(self) -> None:
        for index, stage in enumerate(self.stages):
            blocks = stage.down + stage.up + (self.middle if index == len(self.stages) - 1 else ())
            layers = {layer for block in blocks for transformer in block.transformers for layer in transformer}
            options = self.attention_of(index)
            if layers & {"sa", "ca"} and stage.channels % (options.heads or options.head_dim or 1):
                key, value = ("heads", options.heads) if options.heads else ("head_dim", options.head_dim)
                raise ValueError(f"stages[{index}].channels {stage.channels} is not a multiple of its attention.{key} {value}")
            feed_forward = self.feed_forward_of(index)
            if "ff" in layers and feed_forward.activation in GATED and (feed_forward.expansion or 0) % 2:
                raise ValueError(
                    f"stages[{index}].feed_forward.expansion {feed_forward.expansion} cannot be halved, "
                    f"as the gated {feed_forward.activation} needs; take an even one"
                )

    def conv_of(self, stage: int) -> Conv:
        """The convolution of a stage's residual blocks, inheritance resolved."""
        return self.stages[stage].conv or self.conv or DEFAULT_CONV

    def attention_of(self, stage: int) -> Attention:
        """The attention options of a stage, inheritance resolved; either heads or head_dim is set."""
        return inherit(self.stages[stage].attention, inherit(self.attention, DEFAULT_ATTENTION))

    def feed_forward_of(self, stage: int) -> FeedForward:
        """The feed-forward options of a stage, inheritance resolved."""
        return inherit(self.stages[stage].feed_forward, inherit(self.feed_forward, DEFAULT_FEED_FORWARD))

    @field_serializer("middle")
    def _middle(self, middle: tuple[ResidualBlock, ...]) -> list[Any]:
        return [block.model_dump() for block in middle]

    @model_serializer(mode="wrap")
    def _canonical(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"schema": SCHEMA_VERSION} | _without_empty(handler(self), type(self))

    def to_dict(self) -> dict[str, Any]:
        """Canonical form: defaults left out, so that a knob added later does not rename old networks."""
        dumped: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        return dumped

    def to_json(self) -> str:
        """Canonical JSON, one line, keys sorted."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON: the architecture's name in tables and stores."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def _without_empty(dumped: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Drop what equals the model's default: None, empty options, empty lists."""
    kept: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        value = dumped.get(field.alias or name, dumped.get(name))
        if name in ("schema_version",) or value is None or value == field.default:
            continue
        if name in ("attention", "feed_forward"):
            value = {k: v for k, v in value.items() if v is not None}
        elif name == "stages":
            value = [_without_empty(stage, Stage) for stage in value]
        if value not in ({}, []) or name in ("down", "up"):
            kept[name] = value
    return kept
