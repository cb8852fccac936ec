"""UNetConfig: the architecture, frozen and validated, from which everything else is derived.

Layers, not flags: a side of a stage is a list of residual blocks, each followed by a list of transformer blocks, each a tuple
out of ``sa`` (self-attention), ``ca`` (cross-attention) and ``ff`` (feed-forward), in order. Options (convolution, attention,
feed-forward) have one value for the network and may be set again per stage. The defaults are Stable Diffusion 1.5's.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, field_serializer, model_serializer, model_validator

from archsearch.unet.options import (
    GATED,
    INHERITED,
    UNSET_ATTENTION,
    UNSET_FEED_FORWARD,
    Attention,
    Conv,
    FeedForward,
    Frozen,
    Projection,
    inherit,
    only_what_differs,
)
from archsearch.unet.parts import AddedEmbedding, ResidualBlock

SCHEMA_VERSION = 1


Channels = Annotated[int, Field(ge=8, le=8192, multiple_of=8)]


class Stage(Frozen):
    """One resolution of the network: its width, its residual blocks on the way down and up, and its options."""

    channels: Channels
    """Width of the stage."""
    down: Annotated[tuple[ResidualBlock, ...], Field(min_length=1, max_length=16)]
    up: Annotated[tuple[ResidualBlock, ...], Field(min_length=1, max_length=16)]
    conv: Conv | None = None
    """Convolutions of the residual blocks: full 3×3; separable, depthwise 3×3 and pointwise 1×1; or expanded, depthwise 3×3,
    pointwise 1×1 to twice the channels, SiLU, depthwise 3×3, pointwise 1×1 (SnapGen; the order of layers is reconstructed).
    None inherits."""
    projection: Projection | None = None
    """Projections into and out of the transformer blocks: 1×1 convolutions (SD 1.x) or linear layers (SD 2.x, SDXL), which
    compute the same but export differently. None inherits."""
    attention: Attention = UNSET_ATTENTION
    feed_forward: FeedForward = UNSET_FEED_FORWARD


class UNetConfig(Frozen):
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
    added: AddedEmbedding = AddedEmbedding()
    norm_groups: Annotated[int, Field(ge=1, le=256)] = 32
    conv: Conv | None = None
    projection: Projection | None = None
    attention: Attention = UNSET_ATTENTION
    feed_forward: FeedForward = UNSET_FEED_FORWARD
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=6)]
    """From the highest resolution to the lowest; each halves the size of the one before."""
    middle: Annotated[tuple[ResidualBlock, ...], Field(max_length=16)] = ()
    """Residual blocks between the ways down and up, with the width and options of the last stage. Empty: no middle block."""

    @model_validator(mode="after")
    def _check_and_canonicalise(self) -> Self:
        self._check_sizes()
        set_ = object.__setattr__
        for name, value in _canonical_options(self, INHERITED).items():
            set_(self, name, value)
        if self.time_width == 4 * self.stages[0].channels:
            set_(self, "time_width", None)
        network = {name: self.option(name) for name in INHERITED}
        set_(self, "stages", tuple(stage.model_copy(update=_canonical_options(stage, network)) for stage in self.stages))
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
            if layers & {"sa", "ca"}:
                _check_heads(f"stages[{index}]", stage.channels, self.attention_of(index))
            feed_forward = self.feed_forward_of(index)
            if "ff" in layers and feed_forward.activation in GATED and (feed_forward.expansion or 0) % 2:
                raise ValueError(
                    f"stages[{index}].feed_forward.expansion {feed_forward.expansion} cannot be halved, "
                    f"as the gated {feed_forward.activation} needs; take an even one"
                )

    def option(self, name: str) -> Any:
        """The network's value of an option that stages may set again, the default resolved."""
        return _inherited(getattr(self, name), INHERITED[name])

    def option_of(self, name: str, stage: int) -> Any:
        """A stage's value of an option, inheritance resolved."""
        return _inherited(getattr(self.stages[stage], name), self.option(name))

    def options(self) -> list[dict[str, Any]]:
        """Every option of every stage by name, inheritance resolved: cheaper than one at a time."""
        network = {name: self.option(name) for name in INHERITED}
        return [{name: _inherited(getattr(stage, name), value) for name, value in network.items()} for stage in self.stages]

    def conv_of(self, stage: int) -> Conv:
        """The convolution of a stage's residual blocks."""
        return cast(Conv, self.option_of("conv", stage))

    def projection_of(self, stage: int) -> Projection:
        """The projections around a stage's transformer blocks."""
        return cast(Projection, self.option_of("projection", stage))

    def attention_of(self, stage: int) -> Attention:
        """The attention options of a stage; either heads or head_dim is set."""
        return cast(Attention, self.option_of("attention", stage))

    def feed_forward_of(self, stage: int) -> FeedForward:
        """The feed-forward options of a stage."""
        return cast(FeedForward, self.option_of("feed_forward", stage))

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


def _inherited(own: Any, parent: Any) -> Any:
    if not isinstance(own, BaseModel):
        return own or parent
    return inherit(own, parent) if own.model_fields_set else parent


def _canonical_options(level: "UNetConfig | Stage", parent: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a network or stage without what its parent says already."""
    canonical: dict[str, Any] = {}
    for name in INHERITED:
        own = getattr(level, name)
        if isinstance(own, BaseModel):
            canonical[name] = only_what_differs(own, parent[name])
        else:
            canonical[name] = None if own == parent[name] else own
    return canonical


def _check_heads(where: str, channels: int, options: Attention) -> None:
    if channels % (options.heads or options.head_dim or 1):
        key, value = ("heads", options.heads) if options.heads else ("head_dim", options.head_dim)
        raise ValueError(f"{where}.channels {channels} is not a multiple of its attention.{key} {value}")
    heads = options.heads_of(channels)
    if heads % (options.kv_heads or heads):
        raise ValueError(
            f"{where}.attention.kv_heads {options.kv_heads} does not divide its {heads} heads; "
            f"allowed are {', '.join(str(n) for n in range(1, heads + 1) if heads % n == 0)}"
        )


def _without_empty(dumped: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Drop what equals the model's default: None, empty options, empty lists."""
    kept: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        value = dumped.get(field.alias or name, dumped.get(name))
        if name in ("schema_version",) or value is None or value == field.default:
            continue
        if name in ("attention", "feed_forward"):
            value = {k: v for k, v in value.items() if v is not None}
        elif name == "added":
            value = _without_empty(value, AddedEmbedding)
        elif name == "stages":
            value = [_without_empty(stage, Stage) for stage in value]
        if value not in ({}, []) or name in ("down", "up"):
            kept[name] = value
    return kept
