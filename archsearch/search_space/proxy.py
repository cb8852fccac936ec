"""From the architecture that will run on the phone to the small one that trains here.

The proxy keeps stages, blocks and options. Widths are multiplied and rounded (half up) to a
multiple of 8, at least 8; there are 8 norm groups, which divide every such width; attention keeps
the number of heads as far as each has 8 channels or more and they divide the width, and takes the
largest smaller number otherwise; heads of keys and values likewise, as far as they divide those of
queries. Resolution and text context are the proxy's own; an added embedding (SDXL) is left out,
since its inputs are.
"""

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig

NORM_GROUPS = 8
MIN_HEAD_CHANNELS = 8


class ProxyShape(BaseModel):
    """How much smaller than the deployed network its proxy is."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    width: Annotated[float, Field(gt=0, le=1)] = 0.0625
    """Factor on all widths."""
    sample_size: Annotated[int, Field(ge=8, le=128)] = 32
    """Height and width of the proxy's sample."""


def scale_width(channels: int, factor: float) -> int:
    """Scale a width and round it, half up, to a multiple of 8, at least 8."""
    return max(8, math.floor(channels * factor / 8 + 0.5) * 8)


def proxy_heads(heads: int, channels: int) -> int:
    """Largest number of heads up to ``heads`` that divides ``channels`` and leaves 8 channels a
    head.
    """
    return next(
        n
        for n in range(min(heads, max(1, channels // MIN_HEAD_CHANNELS)), 0, -1)
        if channels % n == 0
    )


def proxy_config(
    config: UNetConfig, shape: ProxyShape, channels: int, context_dim: int, context_tokens: int
) -> UNetConfig:
    """Shrink ``config`` to the network that is trained for its score.

    Args:
        config: Architecture at deployment scale.
        shape: Factor and resolution.
        channels: Channels of the proxy's sample (3 for pixels).
        context_dim: Width of the text encoder at hand.
        context_tokens: Number of its tokens.

    Raises:
        InputError: The resolution does not halve as often as the stages need.
    """
    tree: dict[str, Any] = {
        name: value for name, value in config.to_dict().items() if name != "added"
    }
    tree |= {
        "in_channels": channels,
        "out_channels": channels,
        "sample_size": shape.sample_size,
        "context_dim": context_dim,
        "context_tokens": context_tokens,
        "norm_groups": NORM_GROUPS,
        "time_width": scale_width(config.time_width or 4 * config.stages[0].channels, shape.width),
    }
    for index, stage in enumerate(tree["stages"]):
        width = scale_width(stage["channels"], shape.width)
        attention = config.attention_of(index)
        heads = proxy_heads(attention.heads_of(stage["channels"]), width)
        stage["channels"] = width
        options = {k: v for k, v in stage.get("attention", {}).items() if k != "head_dim"}
        stage["attention"] = options | {"heads": heads}
        if attention.kv_heads:
            stage["attention"]["kv_heads"] = next(
                n for n in range(min(attention.kv_heads, heads), 0, -1) if heads % n == 0
            )
    if "attention" in tree:
        tree["attention"] = {
            k: v for k, v in tree["attention"].items() if k not in ("heads", "head_dim")
        }
    try:
        return UNetConfig.model_validate(tree)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(
            f"proxy of width {shape.width} and sample_size {shape.sample_size}: {message}."
        ) from error
