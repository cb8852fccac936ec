"""``archsearch space``: look at a search space and draw from it."""

import random
from typing import Annotated, Any

import typer

from archsearch.cli.app import JsonOption, console, group, print_json, print_table, say
from archsearch.cost.price import price
from archsearch.errors import InputError
from archsearch.search_space.proxy import ProxyShape, proxy_config
from archsearch.search_space.space import InvalidPointError, Space, label, load_space
from archsearch.unet.presets import PRESETS

space_app = group("space", "Look at a search space and draw from it.")
SpaceArgument = Annotated[str, typer.Argument(help="A search space, by name or path.")]

DRAWS = 300
PROXY = (3, 384, 16)  # channels, context width and tokens of the proxies that are counted


@space_app.command()
def show(
    space: SpaceArgument,
    proxy_width: Annotated[
        float, typer.Option(help="Factor of the proxies that are counted.")
    ] = 0.0625,
    as_json: JsonOption = False,
) -> None:
    """Show a space: its dimensions, its size, the costs it spans, and how many proxies its
    architectures become.
    """
    loaded = load_space(space)
    summary = _summary(loaded, proxy_width)
    if as_json:
        return print_json(summary)
    print_table(
        f"{loaded.name}: {loaded.size:,} points around {summary['base']}",
        ["dimension", "path", "values", "when"],
        [
            (name, ", ".join(d.paths), "  ".join(str(label(v)) for v in d.values), d.when or "")
            for name, d in loaded.dimensions.items()
        ],
    )
    for rule in loaded.file.rules:
        say(f"rule: {rule}")
    print_table(
        f"{summary['valid']} of {summary['drawn']} random points are valid; counted at "
        "deployment scale",
        ["", "least", "median", "most"],
        [(name, *spread) for name, spread in summary["costs"].items()],
    )
    console.print(
        f"{summary['distinct']} distinct architectures become {summary['distinct_proxies']} "
        f"proxies at width {proxy_width}; "
        f"presets inside: {', '.join(summary['presets']) or 'none'}",
        highlight=False,
    )


def _summary(space: Space, proxy_width: float) -> dict[str, Any]:
    rng = random.Random(0)
    configs, drawn = [], min(DRAWS, space.size)
    for point in (
        space.points() if space.size <= DRAWS else (space.sample(rng) for _ in range(drawn))
    ):
        try:
            configs.append(space.build(point))
        except InvalidPointError:
            continue
    if not configs:
        raise InputError(f"space '{space.name}': none of {drawn} points is a valid architecture.")
    costs = [price(config) for config in configs]
    spread = {}
    for name in ("params", "macs", "peak_activation_bytes"):
        values = sorted(getattr(cost, name) for cost in costs)
        spread[name] = [values[0], values[len(values) // 2], values[-1]]
    shape = ProxyShape(width=proxy_width)
    return {
        "name": space.name,
        "base": space.file.base
        if isinstance(space.file.base, str)
        else "an architecture of its own",
        "size": space.size,
        "dimensions": {
            name: [label(value) for value in dim.values] for name, dim in space.dimensions.items()
        },
        "rules": list(space.file.rules),
        "drawn": drawn,
        "valid": len(configs),
        "costs": spread,
        "distinct": len({config.digest for config in configs}),
        "distinct_proxies": len({proxy_config(config, shape, *PROXY).digest for config in configs}),
        "presets": [name for name, make in PRESETS.items() if space.locate(make()) is not None],
    }


@space_app.command()
def sample(
    space: SpaceArgument,
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Draw random valid architectures."""
    loaded = load_space(space)
    rng = random.Random(seed)
    drawn = [loaded.sample_valid(rng) for _ in range(n)]
    if as_json:
        return print_json(
            [
                {"point": point, "digest": config.digest, "config": config.to_dict()}
                | price(config).to_dict()
                for point, config in drawn
            ]
        )
    columns = ["digest", *loaded.dimensions, "params (M)", "GMACs"]
    rows = []
    for point, config in drawn:
        cost = price(config)
        rows.append(
            [
                config.digest,
                *(str(label(point.get(name))) for name in loaded.dimensions),
                cost.params / 1e6,
                cost.macs / 1e9,
            ]
        )
    return print_table(None, columns, rows)
