"""What a search space spans: its size, the costs of its networks, how many proxies they become."""

import random
from typing import Any

from archsearch.cost.price import price
from archsearch.errors import InputError
from archsearch.search_space.proxy import ProxyShape, proxy_config
from archsearch.search_space.space import InvalidPointError, Space, label
from archsearch.unet.presets import PRESETS

DRAWS = 300
"""Points that are looked at; all of them where the space has no more."""
PROXY = (3, 384, 16)
"""Channels, context width and context tokens of the proxies that are counted."""
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
    points = space.points() if space.size <= DRAWS else (space.sample(rng) for _ in range(drawn))
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
