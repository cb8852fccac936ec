"""From the architecture that will run on the phone to the small one that trains here.

The proxy keeps stages, blocks and options. Widths are multiplied and rounded (half up) to a
multiple of 8, at least 8; there are 8 norm groups, which divide every such width; attention keeps
the number of heads as far as each has 8 channels or more and they divide the width, and takes the
largest smaller number otherwise; heads of keys and values likewise, as far as they divide those of
queries. Resolution and text context are the proxy's own; an added embedding (SDXL) is left out,
since its inputs are, and so is the guidance weight, which a network takes from its distillation on.
"""

import math
import random
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from archsearch.cost.price import price
from archsearch.errors import InputError
from archsearch.search_space.space import InvalidPointError, Space, label
from archsearch.unet.config import UNetConfig
from archsearch.unet.presets import PRESETS

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
        name: value
        for name, value in config.to_dict().items()
        if name not in ("added", "guidance_dim")
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


DRAWS = 300  # points that are looked at; all of them where the space has no more
PROXY = (3, 384, 16)  # channels, context width and context tokens of the proxies that are counted
COSTS = ("params", "macs", "peak_activation_bytes")


def summarise(space: Space, proxy_width: float, seed: int = 0) -> dict[str, Any]:
    """Summarise a space as plain data, as ``space show --json`` prints it.

    Args:
        space: The space.
        proxy_width: Factor of the proxies that are counted.
        seed: Of the random points.

    Raises:
        InputError: None of the points is a valid architecture.
    """
    rng = random.Random(seed)
    drawn = min(DRAWS, space.size)
    points = space.points() if space.size <= DRAWS else (space.draw(rng) for _ in range(drawn))
    configs = []
    for point in points:
        try:
            configs.append(space.build(point))
        except InvalidPointError:
            continue
    if not configs:
        raise InputError(f"space '{space.name}': none of {drawn} points is a valid architecture.")
    costs = [price(config) for config in configs]
    ordered = {name: sorted(getattr(cost, name) for cost in costs) for name in COSTS}
    shape = ProxyShape(width=proxy_width)
    base = space.file.base
    return {
        "name": space.name,
        "base": base if isinstance(base, str) else "an architecture of its own",
        "size": space.size,
        "dimensions": {
            name: [label(value) for value in dim.values] for name, dim in space.dimensions.items()
        },
        "rules": list(space.file.rules),
        "drawn": drawn,
        "valid": len(configs),
        "costs": {name: [v[0], v[len(v) // 2], v[-1]] for name, v in ordered.items()},
        "distinct": len({config.digest for config in configs}),
        "distinct_proxies": len({proxy_config(config, shape, *PROXY).digest for config in configs}),
        "presets": [name for name, make in PRESETS.items() if space.locate(make()) is not None],
    }
