"""The additive units a UNet is made of: what is built, priced and measured, each with the shapes
and options that decide its cost.

A unit is where four folders meet: ``unet/plan.py`` makes it of a configuration, ``unet/model.py``
builds a module from it, ``cost`` prices it, ``latency`` measures it and looks it up by its fields.
Sizes are heights (= widths) of square feature maps.

The options of attention and feed-forward stand in a unit resolved, as plain fields: two
configurations that compute the same, such as 8 heads of 40 channels and a head dimension of 40,
have equal units, and the entry of a latency table is the unit field by field.

A field with a default came after the first tables: an entry that does not name it means the
default, and files leave it out where it has it.
"""

from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Input:
    """3×3 convolution from the sample to the first stage."""

    kind: ClassVar[str] = "input"
    in_channels: int
    out_channels: int
    size: int


@dataclass(frozen=True, slots=True)
class TimeEmbedding:
    """Sinusoids of the timestep (``channels`` of them) through two linear layers of ``width``, SiLU
    after each.

    With ``text_dim`` the pooled text embedding, beside ``id_dim`` sinusoids of each of ``ids``
    numbers, goes through two linear layers of its own and is added before the last SiLU (SDXL).
    """

    kind: ClassVar[str] = "time"
    channels: int
    width: int
    text_dim: int = 0
    ids: int = 0
    id_dim: int = 0

    @property
    def added(self) -> int:
        """Width of the text embedding and the sinusoids together, 0 where there are none."""
        return self.text_dim + self.ids * self.id_dim


@dataclass(frozen=True, slots=True)
class Residual:
    """Residual block: norm, SiLU, convolution, plus time; norm, SiLU, convolution; plus the
    (projected) input.

    ``in_channels`` counts the skip connection concatenated before. With a ``time_width`` of 0 the
    time comes projected: so latency tables measure it, beside a ``TimeProjection``, lest every
    width of the time embedding be measured with every block.
    """

    kind: ClassVar[str] = "residual"
    in_channels: int
    out_channels: int
    size: int
    conv: str
    time_width: int
    norm_groups: int

    @property
    def inner_channels(self) -> int:
        """Channels between the two convolutions, to which the time is added."""
        return 2 * self.out_channels if self.conv == "inverted" else self.out_channels


@dataclass(frozen=True, slots=True)
class TimeProjection:
    """Linear layer from the time embedding of ``width`` to the inner ``channels`` of a residual
    block; in plans a part of that block.
    """

    kind: ClassVar[str] = "time_projection"
    width: int
    channels: int


@dataclass(frozen=True, slots=True)
class Projection:
    """What frames a list of transformer blocks: norm, projection in, projection out, plus the
    input.

    The projections are 1×1 convolutions (``conv``) or linear layers over the tokens (``linear``).
    """

    kind: ClassVar[str] = "projection"
    channels: int
    size: int
    norm_groups: int
    form: str = "conv"


@dataclass(frozen=True, slots=True)
class SelfAttention:
    """Layer norm, self-attention over ``tokens``, plus the input.

    ``kv_heads`` heads of keys and values where there are fewer of them than of queries, 0 where
    not.
    """

    kind: ClassVar[str] = "self_attention"
    channels: int
    tokens: int
    heads: int
    shared_kv: bool
    normalizer: str
    kv_heads: int = 0
    qk_norm: str = "none"
    kv_compression: str = "none"

    @property
    def keys(self) -> int:
        """Number of keys, and of values."""
        return self.tokens // 4 if self.kv_compression == "conv" else self.tokens


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """Layer norm, attention from ``tokens`` to the text context, plus the input; ``kv_heads`` as in
    self-attention.
    """

    kind: ClassVar[str] = "cross_attention"
    channels: int
    tokens: int
    heads: int
    shared_kv: bool
    normalizer: str
    context_dim: int
    context_tokens: int
    kv_heads: int = 0
    qk_norm: str = "none"

    @property
    def keys(self) -> int:
        """Number of keys, and of values."""
        return self.context_tokens


@dataclass(frozen=True, slots=True)
class FeedForward:
    """Layer norm, linear to ``expansion`` × channels, activation, linear back, plus the input."""

    kind: ClassVar[str] = "feed_forward"
    channels: int
    tokens: int
    expansion: int
    activation: str


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer norm, which takes the place of its input: what DreamLite has where it leaves out
    self-attention."""

    kind: ClassVar[str] = "norm"
    channels: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Downsample:
    """3×3 convolution of stride 2; ``size`` is the input's."""

    kind: ClassVar[str] = "downsample"
    channels: int
    size: int


@dataclass(frozen=True, slots=True)
class Upsample:
    """Nearest neighbour × 2, then a 3×3 convolution; ``size`` is the input's."""

    kind: ClassVar[str] = "upsample"
    channels: int
    size: int


@dataclass(frozen=True, slots=True)
class Output:
    """Norm, SiLU, 3×3 convolution from the first stage to the prediction."""

    kind: ClassVar[str] = "output"
    in_channels: int
    out_channels: int
    size: int
    norm_groups: int


TransformerLayer = SelfAttention | CrossAttention | FeedForward | Norm
Unit = (
    Input
    | TimeEmbedding
    | TimeProjection
    | Residual
    | Projection
    | TransformerLayer
    | Downsample
    | Upsample
    | Output
)

UNIT_TYPES: dict[str, type[Unit]] = {
    unit.kind: unit
    for unit in (
        Input, TimeEmbedding, TimeProjection, Residual, Projection,
        SelfAttention, CrossAttention, FeedForward, Norm, Downsample, Upsample, Output,
    )
}  # fmt: skip


def unit_fields(unit: Unit) -> dict[str, Any]:
    """Kind and fields of a unit as plain data: the key of its latency entry. Fields that have their
    default are left out.
    """
    return dict(_unit_fields(unit))


@lru_cache(maxsize=4096)
def _unit_fields(unit: Unit) -> tuple[tuple[str, Any], ...]:
    left_out = {field.name: field.default for field in fields(unit) if field.default is not MISSING}
    given = ((field.name, getattr(unit, field.name)) for field in fields(unit))
    kept = ((name, value) for name, value in given if left_out.get(name, MISSING) != value)
    return (("kind", unit.kind), *kept)
