"""Options of a network that its stages may set again, their defaults and how they are inherited.

The defaults are Stable Diffusion 1.5's. None inherits: a stage's from the network's, the network's from the default.
"""

from functools import lru_cache
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Conv = Literal["full", "separable", "expanded"]
Projection = Literal["conv", "linear"]
Activation = Literal["gelu", "geglu", "silu", "swiglu", "relu"]
GATED: frozenset[str] = frozenset({"geglu", "swiglu"})


class Frozen(BaseModel):
    """A part of an architecture: immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True)


class Attention(Frozen):
    """Options of self- and cross-attention. None inherits: a stage's from the network's, the network's from the default."""

    kv: Literal["separate", "shared", "shared_everywhere"] | None = None
    """One projection for keys and values: never (the default), in self-attention, in self- and cross-attention."""
    normalizer: Literal["softmax", "relu"] | None = None
    """softmax(QKᵀ/√d)·V (the default), or relu(QKᵀ/√d)/N·V with N the number of keys."""
    heads: Annotated[int, Field(ge=1, le=128)] | None = None
    """Number of heads (default 8). Excludes head_dim."""
    head_dim: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Channels a head; the number of heads follows from the width. Excludes heads."""
    kv_heads: Annotated[int, Field(ge=1, le=128)] | None = None
    """Heads of keys and values, each used by as many heads of queries as divide by it: 1 is multi-query attention, more are
    grouped-query attention. Default: as many as heads."""
    qk_norm: Literal["none", "rms"] | None = None
    """Norm of queries and keys, a head at a time: none (the default) or root mean square with a learned scale."""

    @model_validator(mode="after")
    def _heads_or_head_dim(self) -> Self:
        if self.heads is not None and self.head_dim is not None:
            raise ValueError(f"heads ({self.heads}) and head_dim ({self.head_dim}) exclude each other, set one")
        return self

    def heads_of(self, channels: int) -> int:
        """Number of heads over ``channels``; the options must be resolved, so that heads or head_dim is set."""
        return self.heads or channels // (self.head_dim or channels)


class FeedForward(Frozen):
    """Options of the feed-forward layer. None inherits."""

    expansion: Annotated[int, Field(ge=1, le=16)] | None = None
    """Width of the first projection over the channels (default 8); a gated activation counts both halves, as in SD's GEGLU."""
    activation: Activation | None = None
    """Default geglu. geglu and swiglu gate one half of the projection with the other."""


UNSET_ATTENTION, UNSET_FEED_FORWARD = Attention(), FeedForward()

INHERITED: dict[str, Any] = {
    "conv": "full",
    "projection": "conv",
    "attention": Attention(kv="separate", normalizer="softmax", heads=8, qk_norm="none"),
    "feed_forward": FeedForward(expansion=8, activation="geglu"),
}
"""Every option that a stage may set again, with its default: fields of the same names in the network and in the stage."""

OptionsT = TypeVar("OptionsT", Attention, FeedForward)


@lru_cache(maxsize=4096)
def inherit(options: OptionsT, parent: OptionsT) -> OptionsT:
    """Fill what ``options`` leaves open from ``parent``."""
    merged = dict(parent) | {name: value for name, value in options if value is not None}
    if isinstance(options, Attention):
        if options.head_dim is not None:
            merged["heads"] = None
        elif options.heads is not None:
            merged["head_dim"] = None
    return type(options).model_construct(**merged)  # both are validated already


def only_what_differs(options: OptionsT, parent: OptionsT) -> OptionsT:
    """Drop from ``options`` what ``parent`` says already, so that equal networks are equal configs."""
    inherited = dict(parent)
    return type(options).model_construct(**{k: v for k, v in options if v is not None and inherited[k] != v})
