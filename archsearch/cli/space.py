"""``archsearch space``: look at a search space and draw from it."""

import random
from typing import Annotated

import typer

from archsearch.cli.app import JsonOption, group, print_json, print_table, say
from archsearch.cost.price import price
from archsearch.search_space.proxy import summarise
from archsearch.search_space.space import Point, label, load_space

space_app = group("space", "Look at a search space and draw from it.")
SpaceArgument = Annotated[str, typer.Argument(help="A search space, by name or path.")]


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
    summary = summarise(loaded, proxy_width)
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
    say(
        f"{summary['distinct']} distinct architectures become {summary['distinct_proxies']} "
        f"proxies at width {proxy_width}; "
        f"presets inside: {', '.join(summary['presets']) or 'none'}"
    )


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
    drawn = [loaded.draw_valid(rng) for _ in range(n)]
    if as_json:
        return print_json(
            [
                {"point": point, "digest": config.digest, "config": config.to_dict()}
                | price(config).to_dict()
                for point, config in drawn
            ]
        )
    rows = []
    for point, config in drawn:
        cost, labels = price(config), [_shown(point, name) for name in loaded.dimensions]
        rows.append([config.digest, *labels, cost.params / 1e6, cost.macs / 1e9])
    return print_table(None, ["digest", *loaded.dimensions, "params (M)", "GMACs"], rows)


def _shown(point: Point, name: str) -> str:
    """The value of a dimension; one that its condition has switched off has none."""
    if name not in point:
        return "–"
    return "null" if point[name] is None else str(label(point[name]))
