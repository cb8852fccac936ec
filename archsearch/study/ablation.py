"""Which knobs can the proxy see? Each one turned alone, around one network, against the spread between seeds."""

import statistics
from collections.abc import Sequence
from typing import Any

from archsearch.cost.price import price
from archsearch.errors import InputError, nearest
from archsearch.space.format import label
from archsearch.space.space import InvalidPointError, Point
from archsearch.study.apart import pooled_deviation
from archsearch.study.grid import Cell, Grid
from archsearch.study.scores import score_of
from archsearch.study.scoring import Scorer
from archsearch.study.setting import Setting
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import plan

SEEN = 1.96
"""Standard errors of the difference from which a knob counts as seen: 95 % where nothing but seeds varies."""

LARGE = 100
"""From here on a score is shown with one decimal place, not four."""


def centre(setting: Setting, around: str | None) -> tuple[str, Point]:
    """The point that knobs are turned around: a preset of the space, by default the first, else the space's base.

    Raises:
        InputError: The preset does not lie in the space, or its base does not.
    """
    presets = setting.presets()
    if around is not None and around not in presets:
        raise InputError(
            f"--around: '{around}' does not lie in space '{setting.space.name}'.{nearest(around, presets)} "
            f"Allowed are: {', '.join(presets) or 'none'}."
        )
    if presets:
        name = around or next(iter(presets))
        return name, presets[name]
    base = setting.space.locate(setting.space.base)
    if base is None:
        raise InputError(
            f"space '{setting.space.name}': neither a preset nor its base lies in it, so there is nothing to turn around."
        )
    return "base", base


def variants(setting: Setting, name: str, point: Point) -> dict[str, UNetConfig]:
    """The network at ``point``, and those that differ from it in one dimension, by what differs; impossible ones are left out."""
    found = {name: setting.space.build(point)}
    for neighbour in setting.space.neighbours(point):
        try:
            config = setting.space.build(neighbour)
        except InvalidPointError:
            continue
        differing = next(key for key in neighbour if label(neighbour[key]) != label(point.get(key)))
        found[f"{differing} {label(neighbour[differing])}"] = config
    return found


def cells_for(networks: dict[str, UNetConfig], seeds: int, budget: int, sampled: Sequence[str]) -> tuple[Cell, ...]:
    """Every network with every seed; all networks with one seed before the next, so that a stop leaves a whole comparison."""
    return tuple(
        Cell(name, config, seed, (budget,), tuple(sampled), keep=True) for seed in range(seeds) for name, config in networks.items()
    )


def summarise(grid: Grid, scorer: Scorer, budget: int, names: Sequence[str]) -> dict[str, Any]:
    """Effect of each variant on each score against the first network, in standard errors of the seeds, as plain data."""
    values: dict[str, list[dict[str, float]]] = {}
    configs: dict[str, UNetConfig] = {}
    for cell in grid.cells:
        configs[cell.name] = cell.config
        known = grid.scores(scorer, cell)
        values.setdefault(cell.name, [])
        if budget in known:
            values[cell.name].append(known[budget])
    first = next(iter(values))
    same = {name: scorer.setting.proxy(config).digest for name, config in configs.items()}
    rows = []
    for name in values:
        costs = price(plan(configs[name]))
        effects = {score: _effect(values, first, name, score) for score in names}
        rows.append(
            {"network": name, "macs": costs.macs, "params": costs.params, "seeds": len(values[name]), "effects": effects}
            | ({"same_proxy": True} if name != first and same[name] == same[first] else {})
        )
    return {
        "schema": 1,
        "around": first,
        "samples": budget * scorer.setting.spec.proxy.samples,
        "seed_deviation": {score: _pooled(values, score) for score in names},
        "directions": {score: score_of(score).direction for score in names},
        "rows": rows,
    }


def _effect(values: dict[str, list[dict[str, float]]], first: str, name: str, score: str) -> dict[str, Any]:
    ours = [scores[score] for scores in values[name] if score in scores]
    theirs = [scores[score] for scores in values[first] if score in scores]
    if not ours or not theirs:
        return {"mean": None}
    difference = statistics.mean(ours) - statistics.mean(theirs)
    deviation = _pooled(values, score)
    error = deviation * (1 / len(ours) + 1 / len(theirs)) ** 0.5 if deviation else None
    found: dict[str, Any] = {"mean": statistics.mean(ours), "difference": difference}
    if error and name != first:
        found |= {"standard_errors": difference / error, "seen": abs(difference / error) > SEEN}
    return found


def _pooled(values: dict[str, list[dict[str, float]]], score: str) -> float | None:
    """Standard deviation between the seeds of a network, pooled over all of them."""
    groups = [[scores[score] for scores in each if score in scores] for each in values.values()]
    return pooled_deviation(*(group for group in groups if group))


def markdown(found: dict[str, Any]) -> str:
    """The effects as a table: difference to the first network, in brackets its size in standard errors, bold where seen."""
    scores = list(found["seed_deviation"])
    lines = [
        "| network | GMACs | " + " | ".join(scores) + " |",
        "|---|---|" + "---|" * len(scores),
    ]
    for row in found["rows"]:
        cells = [_cell(row["effects"][score], row["network"] == found["around"]) for score in scores]
        lines.append(f"| {row['network']} | {row['macs'] / 1e9:.1f} | " + " | ".join(cells) + " |")
    deviations = [f"{found['seed_deviation'][score]:.4g}" if found["seed_deviation"][score] else "–" for score in scores]
    lines.append("| *standard deviation between seeds* | | " + " | ".join(deviations) + " |")
    return "\n".join(lines) + "\n"


def _cell(effect: dict[str, Any], is_first: bool) -> str:
    if effect["mean"] is None:
        return "–"
    digits = 4 if abs(effect["mean"]) < LARGE else 1
    if is_first or "standard_errors" not in effect:
        return f"{effect['mean']:.{digits}f}"
    text = f"{effect['difference']:+.{digits}f} ({effect['standard_errors']:+.1f})"
    return f"**{text}**" if effect["seen"] else text
