"""UNetConfig: the architecture, frozen and validated, from which everything else is derived.

Layers, not flags: a side of a stage is a list of residual blocks, each followed by a list of
transformer blocks, each a tuple out of ``sa`` (self-attention), ``ca`` (cross-attention), ``ff``
(feed-forward) and ``norm`` (what DreamLite has in place of self-attention), in order. Options
(convolution, attention, feed-forward) have one value for the network and may be set again per
stage: None inherits, a stage's from the network's, the network's from the default. The defaults are
Stable Diffusion 1.5's.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate, chain
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)

Layer = Literal["sa", "ca", "ff", "norm"]
Conv = Literal["full", "separable", "expanded", "inverted"]
ProjectionForm = Literal["conv", "linear"]
Activation = Literal["gelu", "geglu", "silu", "swiglu", "relu"]
GATED: frozenset[str] = frozenset({"geglu", "swiglu"})


class Frozen(BaseModel):
    """A part of an architecture: immutable, no unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True
    )


class AttentionOptions(Frozen):
    """Options of self- and cross-attention. None inherits: a stage's from the network's, the
    network's from the default.
    """

    kv: Literal["separate", "shared", "shared_everywhere"] | None = None
    """One projection for keys and values: never (the default), in self-attention, in self- and
    cross-attention.
    """
    normalizer: Literal["softmax", "relu", "linear", "linear_everywhere"] | None = None
    """softmax(QKᵀ/√d)·V (the default), or relu(QKᵀ/√d)/N·V with N the number of keys, or
    relu(Q)·(relu(K)ᵀV) over relu(Q)·Σrelu(K), whose cost grows with the number of tokens and not
    with its square: linear in self-attention alone, with softmax in cross-attention (SANA), or
    linear_everywhere.
    """
    heads: Annotated[int, Field(ge=1, le=128)] | None = None
    """Number of heads (default 8). Excludes head_dim."""
    head_dim: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Channels a head; the number of heads follows from the width. Excludes heads."""
    kv_heads: Annotated[int, Field(ge=1, le=128)] | None = None
    """Heads of keys and values, each used by as many heads of queries as divide by it: 1 is
    multi-query attention, more are grouped-query attention. Default: as many as heads."""
    qk_norm: Literal["none", "rms"] | None = None
    """Norm of queries and keys, a head at a time: none (the default) or root mean square with a
    learned scale.
    """
    kv_compression: Literal["none", "conv"] | None = None
    """Keys and values of self-attention: one a pixel (none, the default), or one for every 2×2
    pixels, by a depthwise 2×2 convolution of stride 2 that begins as their mean (SnapGen++'s global
    attention; that it is depthwise is reconstructed, after PixArt-Σ). The stage's size must be
    even.
    """

    @model_validator(mode="after")
    def _heads_or_head_dim(self) -> Self:
        if self.heads is not None and self.head_dim is not None:
            raise ValueError(
                f"heads ({self.heads}) and head_dim ({self.head_dim}) exclude each other, set one"
            )
        return self

    def heads_of(self, channels: int) -> int:
        """Number of heads over ``channels``; the options must be resolved, so that heads or
        head_dim is set.
        """
        return self.heads or channels // (self.head_dim or channels)


class FeedForwardOptions(Frozen):
    """Options of the feed-forward layer. None inherits."""

    expansion: Annotated[int, Field(ge=1, le=16)] | None = None
    """Width of the first projection over the channels (default 8); a gated activation counts both
    halves, as in SD's GEGLU.
    """
    activation: Activation | None = None
    """Default geglu. geglu and swiglu gate one half of the projection with the other."""


UNSET_ATTENTION, UNSET_FEED_FORWARD = AttentionOptions(), FeedForwardOptions()

# Every option that a stage may set again, with its default: fields of the same names in the network
# and in the stage.
INHERITED: dict[str, Any] = {
    "conv": "full",
    "projection": "conv",
    "attention": AttentionOptions(
        kv="separate", normalizer="softmax", heads=8, qk_norm="none", kv_compression="none"
    ),
    "feed_forward": FeedForwardOptions(expansion=8, activation="geglu"),
}


class ResidualBlock(Frozen):
    """A residual block and the transformer blocks after it.

    Written either as ``{transformers: 3, layers: [sa, ca, ff]}`` or, where the transformer blocks
    differ, as ``{transformers: [[sa, ca, ff], [ca]]}``. No layers means no transformer block.
    """

    # Keys of the first way of writing, beside the fields.
    short_form: ClassVar[tuple[str, ...]] = ("layers",)

    transformers: tuple[tuple[Layer, ...], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        rest = {key: value for key, value in data.items() if key not in ("transformers", "layers")}
        if "layers" not in data:
            count = data.get("transformers")
            if not isinstance(count, int):
                return data
            if count:
                raise ValueError(f"transformers: {count} needs layers, e.g. layers: [sa, ca, ff]")
            return rest
        count = data.get("transformers", 1)
        if isinstance(count, list | tuple):
            count = len(count)
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 64:
            raise ValueError(
                "transformers must be a number from 0 to 64 or a list of layer lists, but got "
                f"{count!r}"
            )
        return rest | {"transformers": [data["layers"]] * count if data["layers"] else []}

    @model_validator(mode="after")
    def _drop_empty(self) -> Self:
        for layers in self.transformers:
            if len(set(layers)) != len(layers):
                raise ValueError(
                    f"layers {list(layers)} repeats a layer; allowed are sa, ca, ff and norm, "
                    "each at most once"
                )
        object.__setattr__(
            self, "transformers", tuple(layers for layers in self.transformers if layers)
        )
        return self

    @model_serializer(mode="plain")
    def _compact(self) -> dict[str, Any]:
        if not self.transformers:
            return {}
        if len(set(self.transformers)) == 1:
            return {"transformers": len(self.transformers), "layers": list(self.transformers[0])}
        return {"transformers": [list(layers) for layers in self.transformers]}


class AddedEmbedding(Frozen):
    """SDXL's second embedding, added to the time embedding: a pooled text embedding beside
    sinusoids of some numbers.

    The numbers are SDXL's time ids: original size, crop and target size, six in all.
    """

    text_dim: Annotated[int, Field(ge=1, le=16384)] | None = None
    """Width of the pooled text embedding. None: the network has no added embedding."""
    ids: Annotated[int, Field(ge=1, le=64)] = 6
    """How many numbers."""
    id_dim: Annotated[int, Field(ge=2, le=4096, multiple_of=2)] = 256
    """Sinusoids of each."""

    @model_validator(mode="after")
    def _none_is_one(self) -> Self:
        # Without a text embedding there is nothing to say of the rest: equal networks are equal
        # configs.
        if self.text_dim is None:
            for name in ("ids", "id_dim"):
                object.__setattr__(self, name, type(self).model_fields[name].default)
        return self

    @property
    def width(self) -> int:
        """Width of the concatenation, 0 where there is none."""
        return 0 if self.text_dim is None else self.text_dim + self.ids * self.id_dim


class Stage(Frozen):
    """One resolution of the network: its width, its residual blocks on the way down and up, and its
    options.
    """

    channels: Annotated[int, Field(ge=8, le=8192, multiple_of=8)]
    """Width of the stage."""
    flat: bool = False
    """Whether it keeps the size of the stage before it: nothing halves it on the way down, nor
    doubles it on the way up. The trunk of a U-ViT or DiT is a row of such stages.
    """
    down: Annotated[tuple[ResidualBlock, ...], Field(min_length=1, max_length=16)]
    up: Annotated[tuple[ResidualBlock, ...], Field(min_length=1, max_length=16)]
    conv: Conv | None = None
    """Convolutions of the residual blocks: full 3×3; separable, depthwise 3×3 and pointwise 1×1;
    expanded, depthwise 3×3, pointwise 1×1 to twice the channels, SiLU, depthwise 3×3, pointwise 1×1
    (SnapGen; the order of layers is reconstructed); or inverted, separable ones without bias, with
    twice the block's channels between the first and the second (DreamLite). None inherits."""
    projection: ProjectionForm | None = None
    """Projections into and out of the transformer blocks: 1×1 convolutions (SD 1.x) or linear
    layers (SD 2.x, SDXL), which compute the same but export differently. None inherits."""
    attention: AttentionOptions = UNSET_ATTENTION
    feed_forward: FeedForwardOptions = UNSET_FEED_FORWARD


class UNetConfig(Frozen):
    """A text-to-image UNet. Construction refuses what cannot be built.

    What is left out and what is spelled out as the default, or as inherited, are the same config
    with the same digest. Two ways to say one thing (8 heads of 40 channels, or a head dimension of
    40) are two configs.

    Shapes at batch 1: the sample is (in_channels, sample_size, sample_size), the context
    (context_tokens, context_dim).
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
    guidance_dim: Annotated[int, Field(ge=4, le=4096, multiple_of=2)] | None = None
    """Sinusoids of the guidance weight, a further input of the network, projected and added to
    those of the timestep: one pass then gives what classifier-free guidance needs two for, once it
    is distilled (Meng et al. 2023; ``time_cond_proj_dim`` in diffusers). None: there is no such
    input.
    """
    norm_groups: Annotated[int, Field(ge=1, le=256)] = 32
    conv: Conv | None = None
    projection: ProjectionForm | None = None
    attention: AttentionOptions = UNSET_ATTENTION
    feed_forward: FeedForwardOptions = UNSET_FEED_FORWARD
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=6)]
    """From the highest resolution to the lowest; each that is not flat halves the size of the one
    before."""
    middle: Annotated[tuple[ResidualBlock, ...], Field(max_length=16)] = ()
    """Residual blocks between the ways down and up, with the width and options of the last stage.
    Empty: no middle block.
    """

    @model_validator(mode="after")
    def _check_and_canonicalise(self) -> Self:
        self._check_sizes()
        canonical: dict[str, Any] = _canonical_options(self, INHERITED)
        if self.time_width == 4 * self.stages[0].channels:
            canonical["time_width"] = None
        for name, value in canonical.items():
            object.__setattr__(self, name, value)
        network = {name: self.option(name) for name in INHERITED}
        stages = [
            stage.model_copy(update=_canonical_options(stage, network)) for stage in self.stages
        ]
        object.__setattr__(self, "stages", tuple(stages))
        self._check_options()
        return self

    def _check_sizes(self) -> None:
        if self.stages[0].flat:
            raise ValueError("stages[0].flat true: there is no stage before it; take false")
        halvings = sum(not stage.flat for stage in self.stages[1:])
        if self.sample_size % 2**halvings:
            raise ValueError(
                f"sample_size {self.sample_size} does not halve evenly {halvings} times, as its "
                f"{len(self.stages)} stages need; allowed are multiples of {2**halvings}"
            )
        for index, stage in enumerate(self.stages):
            if stage.channels % self.norm_groups:
                raise ValueError(
                    f"stages[{index}].channels {stage.channels} is not a multiple of "
                    f"norm_groups {self.norm_groups}"
                )
            entering = self.stages[max(index - 1, 0)].channels
            if self.sizes[index] == 1 and self.norm_groups in (stage.channels, entering):
                raise ValueError(
                    f"stages[{index}] has a size of 1×1, where norm_groups {self.norm_groups} "
                    f"over {min(stage.channels, entering)} channels leave single values to "
                    "normalise; take more channels, fewer groups or a larger sample_size"
                )

    def _check_options(self) -> None:
        for index, (stage, options) in enumerate(zip(self.stages, self.options(), strict=True)):
            blocks = stage.down + stage.up + (self.middle if stage is self.stages[-1] else ())
            layers = set(chain.from_iterable(chain.from_iterable(b.transformers for b in blocks)))
            if layers & {"sa", "ca"}:
                _check_heads(f"stages[{index}]", stage.channels, options["attention"])
            size = self.sizes[index]
            if "sa" in layers and options["attention"].kv_compression == "conv" and size % 2:
                raise ValueError(
                    f"stages[{index}] has a size of {size}×{size}, of which its "
                    "attention.kv_compression conv cannot take 2×2 pixels at a time"
                )
            ff = options["feed_forward"]
            if "ff" in layers and ff.activation in GATED and ff.expansion % 2:
                raise ValueError(
                    f"stages[{index}].feed_forward.expansion {ff.expansion} cannot be halved, as "
                    f"the gated {ff.activation} needs; take an even one"
                )

    @property
    def sizes(self) -> list[int]:
        """Height and width of every stage."""
        halvings = accumulate(int(not stage.flat) for stage in self.stages[1:])
        return [self.sample_size // 2**count for count in (0, *halvings)]

    def option(self, name: str) -> Any:
        """The network's value of an option that stages may set again, the default resolved."""
        return _inherited(getattr(self, name), INHERITED[name])

    def option_of(self, name: str, stage: int) -> Any:
        """A stage's value of an option, inheritance resolved."""
        return _inherited(getattr(self.stages[stage], name), self.option(name))

    def options(self) -> list[dict[str, Any]]:
        """Every option of every stage by name, inheritance resolved: cheaper than one at a time."""
        network = {name: self.option(name) for name in INHERITED}
        return [
            {name: _inherited(getattr(stage, name), value) for name, value in network.items()}
            for stage in self.stages
        ]

    def conv_of(self, stage: int) -> Conv:
        """The convolution of a stage's residual blocks."""
        return cast(Conv, self.option_of("conv", stage))

    def projection_of(self, stage: int) -> ProjectionForm:
        """The projections around a stage's transformer blocks."""
        return cast(ProjectionForm, self.option_of("projection", stage))

    def attention_of(self, stage: int) -> AttentionOptions:
        """The attention options of a stage; either heads or head_dim is set."""
        return cast(AttentionOptions, self.option_of("attention", stage))

    def feed_forward_of(self, stage: int) -> FeedForwardOptions:
        """The feed-forward options of a stage."""
        return cast(FeedForwardOptions, self.option_of("feed_forward", stage))

    def to_dict(self) -> dict[str, Any]:
        """Canonical form: defaults left out, so that a knob added later does not rename old
        networks.
        """
        return {"schema": 1} | self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def to_json(self) -> str:
        """Canonical JSON, one line, keys sorted."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON: the architecture's name in
        tables and stores.
        """
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def _inherited(own: Any, parent: Any) -> Any:
    if not isinstance(own, BaseModel):
        return own or parent
    return _merged(own, parent) if own.model_fields_set else parent


@lru_cache(maxsize=4096)
def _merged(own: Any, parent: Any) -> Any:
    merged = dict(parent) | {name: value for name, value in own if value is not None}
    if merged.get("heads") and merged.get("head_dim"):  # the parent's gives way
        merged["head_dim" if own.heads else "heads"] = None
    return type(own).model_construct(**merged)  # both are validated already


def _canonical_options(level: "UNetConfig | Stage", parent: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _unless_inherited(getattr(level, name), parent[name]) for name in INHERITED}


def _unless_inherited(own: Any, parent: Any) -> Any:
    if not isinstance(own, BaseModel):
        return None if own == parent else own
    said = dict(parent)
    return type(own).model_construct(
        **{name: value for name, value in own if value is not None and said[name] != value}
    )


def _check_heads(where: str, channels: int, options: AttentionOptions) -> None:
    if channels % (options.heads or options.head_dim or 1):
        key, value = ("heads", options.heads) if options.heads else ("head_dim", options.head_dim)
        raise ValueError(
            f"{where}.channels {channels} is not a multiple of its attention.{key} {value}"
        )
    heads = options.heads_of(channels)
    if heads % (options.kv_heads or heads):
        raise ValueError(
            f"{where}.attention.kv_heads {options.kv_heads} does not divide its {heads} heads; "
            f"allowed are {', '.join(str(n) for n in range(1, heads + 1) if heads % n == 0)}"
        )
