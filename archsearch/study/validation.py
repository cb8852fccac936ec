"""What the scores of a proxy can be trusted with: agreement of rankings, effects of knobs."""

import random
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from scipy import stats

from archsearch.cost.price import price
from archsearch.errors import InputError, nearest
from archsearch.search_space.space import InvalidPointError, Point, label
from archsearch.study.grid import Cell, Grid
from archsearch.study.results import pooled_deviation
from archsearch.study.setting import STEPS, InfeasibleError, Setting
from archsearch.study.spec import score_of
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import plan

THIRDS = 3
RESAMPLES = 500


@dataclass(frozen=True)
class Correlation:
    """Agreement of two rankings: 1 where they are the same, 0 where neither tells of the other."""

    tau: float
    """Kendall's τ-b."""
    spearman: float
    low: float
    """Lower end of τ's 95 % bootstrap interval, networks resampled."""
    high: float
    count: int
    """Networks."""


def correlate(x: Sequence[float], y: Sequence[float], seed: int = 0) -> Correlation | None:
    """Compare two rankings of the same networks; None where either ranks nothing (fewer than 3
    networks, or all equal).
    """
    tau, spearman = _tau(x, y), float("nan")
    if tau is None:
        return None
    spearman = float(stats.spearmanr(x, y).statistic)
    rng = random.Random(seed)
    drawn = []
    for _ in range(RESAMPLES):
        rows = [rng.randrange(len(x)) for _ in x]
        found = _tau([x[row] for row in rows], [y[row] for row in rows])
        if found is not None:
            drawn.append(found)
    drawn.sort()
    low, high = drawn[int(0.025 * len(drawn))], drawn[min(len(drawn) - 1, int(0.975 * len(drawn)))]
    return Correlation(tau, spearman, low, high, len(x))


def _tau(x: Sequence[float], y: Sequence[float]) -> float | None:
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return float(stats.kendalltau(x, y).statistic)


def within_thirds(x: Sequence[float], y: Sequence[float], size: Sequence[float]) -> float | None:
    """Mean τ inside thirds of the networks by ``size``, weighted by their pairs: what is left where
    size tells little.

    None where no third ranks anything.
    """
    order = sorted(range(len(size)), key=lambda row: size[row])
    total, pairs = 0.0, 0
    for part in range(THIRDS):
        rows = order[part * len(order) // THIRDS : (part + 1) * len(order) // THIRDS]
        tau = _tau([x[row] for row in rows], [y[row] for row in rows])
        if tau is not None:
            weight = len(rows) * (len(rows) - 1) // 2
            total, pairs = total + weight * tau, pairs + weight
    return total / pairs if pairs else None


@dataclass(frozen=True)
class Spread:
    """Spread of a score between networks and between seeds of one network."""

    between: float
    """Variance of the networks' means over their seeds."""
    within: float
    """Mean variance between the seeds of a network."""

    @property
    def ratio(self) -> float:
        """Between over within; where it is 1, the score tells seeds and networks apart equally
        well.
        """
        return self.between / self.within if self.within else float("inf")


def spread(by_network: Mapping[str, Sequence[float]]) -> Spread | None:
    """Variances of a score, given its values over the seeds of each network; None with fewer than
    two of either.
    """
    several = [values for values in by_network.values() if len(values) > 1]
    if len(several) < 2:
        return None
    between = statistics.variance(statistics.mean(values) for values in several)
    return Spread(between, statistics.mean(statistics.variance(values) for values in several))


SCORES = ("val_loss", "val_loss_fine", "val_loss_middle", "val_loss_coarse")
CONTROLS = ("params", "macs")
MAX_DRAWS = 2_000


def draw_networks(setting: Setting, count: int, seed: int) -> list[UNetConfig]:
    """Random networks of the space that are within the limits; no two have one proxy.

    Raises:
        InputError: The space does not hold so many.
    """
    rng = random.Random(seed)
    found: dict[str, UNetConfig] = {}
    for _ in range(MAX_DRAWS):
        if len(found) == count:
            return list(found.values())
        point, network = setting.space.sample_valid(rng)
        with suppress(InfeasibleError):
            setting.candidate(point)
            found.setdefault(setting.proxy(network).digest, network)
    raise InputError(
        f"space '{setting.space.name}': holds only {len(found)} networks with proxies of their "
        f"own, but {count} are asked for."
    )


def validation_cells(
    networks: Sequence[UNetConfig], seeds: int, budgets: Sequence[int], deep: int, deep_seeds: int
) -> tuple[Cell, ...]:
    """The first ``deep`` networks through all budgets with ``deep_seeds`` seeds; every network with
    ``seeds`` seeds at the first.

    In such an order that a stop leaves a comparison: the deep networks with one seed, then what is
    short, then their other seeds.
    """
    deep_cells = [
        Cell(f"network {i}", networks[i], seed, tuple(budgets))
        for seed in range(deep_seeds)
        for i in range(deep)
    ]
    short = [
        Cell(f"network {i}", config, seed, tuple(budgets[:1]))
        for seed in range(seeds)
        for i, config in enumerate(networks)
        if i >= deep or seed >= deep_seeds
    ]
    return (*deep_cells[:deep], *short, *deep_cells[deep:])


def summarise_validation(grid: Grid) -> dict[str, Any]:
    """What the trained cells say, as plain data: nothing is left out because it is not finished,
    the counts say what there is.
    """
    known: dict[
        str, dict[int, dict[int, dict[str, float]]]
    ] = {}  # network → seed → budget → scores
    configs: dict[str, UNetConfig] = {}
    for cell in grid.cells:
        configs[cell.name] = cell.network
        known.setdefault(cell.name, {})[cell.seed] = grid.scores(cell)
    budgets = sorted({budget for cell in grid.cells for budget in cell.budgets})
    costs = {name: price(plan(config)) for name, config in configs.items()}
    size = {
        "params": {n: c.params for n, c in costs.items()},
        "macs": {n: c.macs for n, c in costs.items()},
    }
    return {
        "schema": 1,
        "samples": {budget: budget * grid.store.setting.spec.proxy.samples for budget in budgets},
        "trainings": {
            budget: sum(budget in seeds for by_seed in known.values() for seeds in by_seed.values())
            for budget in budgets
        },
        "seconds": {budget: _seconds(known, budget) for budget in budgets},
        "scores": {score: _of_score(score, known, budgets, size) for score in SCORES},
        "networks": {
            name: {
                "digest": configs[name].digest,
                "params": size["params"][name],
                "macs": size["macs"][name],
                "val_loss": {
                    budget: [
                        scores[budget]["val_loss"]
                        for _, scores in sorted(by_seed.items())
                        if budget in scores
                    ]
                    for budget in budgets
                },
            }
            for name, by_seed in known.items()
        },
    }


def _seconds(known: dict[str, dict[int, dict[int, dict[str, float]]]], budget: int) -> float | None:
    values = [
        scores[budget]["seconds"]
        for by_seed in known.values()
        for scores in by_seed.values()
        if budget in scores
    ]
    return round(mean(values), 1) if values else None


def _of_score(
    score: str,
    known: dict[str, dict[int, dict[int, dict[str, float]]]],
    budgets: Sequence[int],
    size: dict[str, dict[str, int]],
) -> dict[str, Any]:
    by_seed = {
        budget: {
            name: values
            for name, seeds in known.items()
            if (values := [scores[budget][score] for scores in seeds.values() if budget in scores])
        }
        for budget in budgets
    }
    spreads = {budget: found for budget in budgets if (found := spread(by_seed[budget]))}
    last = budgets[-1]
    rows = []
    for budget in budgets[:-1]:
        names = [name for name in by_seed[budget] if name in by_seed[last]]
        low, high = ([mean(by_seed[b][name]) for name in names] for b in (budget, last))
        rows.append(
            _row(f"{budget} × and {last} ×", low, high, [size["macs"][name] for name in names])
        )
    names = list(by_seed[last])
    high = [mean(by_seed[last][name]) for name in names]
    for control in CONTROLS:  # larger is better: the more of it, the lower the loss should be
        guess = [-float(size[control][name]) for name in names]
        rows.append(
            _row(f"{control} and {last} ×", guess, high, [size["macs"][name] for name in names])
        )
    return {
        "spread": {
            budget: asdict(found) | {"ratio": found.ratio} for budget, found in spreads.items()
        },
        "agreement": rows,
    }


def _row(what: str, x: list[float], y: list[float], macs: list[int]) -> dict[str, Any]:
    found = correlate(x, y)
    inside = within_thirds(x, y, [float(value) for value in macs])
    return {"rankings": what, "networks": len(x), "tau_within_macs_thirds": inside} | (
        asdict(found) if found else {}
    )


SEEN = 1.96
"""Standard errors of the difference from which a knob counts as seen: 95 % where nothing but seeds
varies.
"""

LARGE = 100
"""From here on a score is shown with one decimal place, not four."""


def centre(setting: Setting, around: str | None) -> tuple[str, Point]:
    """The point that knobs are turned around: a preset of the space, by default the first, else the
    space's base.

    Raises:
        InputError: The preset does not lie in the space, or its base does not.
    """
    presets = setting.presets()
    if around is not None and around not in presets:
        raise InputError(
            f"--around: '{around}' does not lie in space "
            f"'{setting.space.name}'.{nearest(around, presets)} "
            f"Allowed are: {', '.join(presets) or 'none'}."
        )
    name = around or next(iter(presets), "base")
    point = presets[name] if presets else setting.space.locate(setting.space.base)
    if point is None:
        raise InputError(
            f"space '{setting.space.name}': neither a preset nor its base lies in it, so there "
            "is nothing to turn around."
        )
    return name, {key: value for key, value in point.items() if key != STEPS}


def variants(setting: Setting, name: str, point: Point) -> dict[str, UNetConfig]:
    """The network at ``point``, and those that differ from it in one dimension, by what differs;
    impossible ones are left out.
    """
    found = {name: setting.space.build(point)}
    for neighbour in setting.space.neighbours(point):
        try:
            config = setting.space.build(neighbour)
        except InvalidPointError:
            continue
        differing = next(key for key in neighbour if label(neighbour[key]) != label(point.get(key)))
        found[f"{differing} {label(neighbour[differing])}"] = config
    return found


def ablation_cells(
    networks: dict[str, UNetConfig], seeds: int, budget: int, metrics: Sequence[str]
) -> tuple[Cell, ...]:
    """Every network with every seed; all networks with one seed before the next, so that a stop
    leaves a whole comparison.
    """
    return tuple(
        Cell(name, config, seed, (budget,), tuple(metrics))
        for seed in range(seeds)
        for name, config in networks.items()
    )


def summarise_ablation(grid: Grid, budget: int, names: Sequence[str]) -> dict[str, Any]:
    """Effect of each variant on each score against the first network, in standard errors of the
    seeds, as plain data.
    """
    values: dict[str, list[dict[str, float]]] = {}
    configs: dict[str, UNetConfig] = {}
    for cell in grid.cells:
        configs[cell.name] = cell.network
        known = grid.scores(cell)
        values.setdefault(cell.name, [])
        if budget in known:
            values[cell.name].append(known[budget])
    first = next(iter(values))
    same = {name: grid.store.setting.proxy(config).digest for name, config in configs.items()}
    rows = []
    for name in values:
        costs = price(plan(configs[name]))
        effects = {score: _effect(values, first, name, score) for score in names}
        rows.append(
            {
                "network": name,
                "macs": costs.macs,
                "params": costs.params,
                "seeds": len(values[name]),
                "effects": effects,
            }
            | ({"same_proxy": True} if name != first and same[name] == same[first] else {})
        )
    return {
        "schema": 1,
        "around": first,
        "samples": budget * grid.store.setting.spec.proxy.samples,
        "seed_deviation": {score: _pooled(values, score) for score in names},
        "directions": {score: score_of(score).direction for score in names},
        "rows": rows,
    }


def _effect(
    values: dict[str, list[dict[str, float]]], first: str, name: str, score: str
) -> dict[str, Any]:
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
    """The effects as a table: difference to the first network, in brackets its size in standard
    errors, bold where seen.
    """
    scores = list(found["seed_deviation"])
    lines = [
        "| network | GMACs | " + " | ".join(scores) + " |",
        "|---|---|" + "---|" * len(scores),
    ]
    for row in found["rows"]:
        cells = [
            _cell(row["effects"][score], row["network"] == found["around"]) for score in scores
        ]
        lines.append(f"| {row['network']} | {row['macs'] / 1e9:.1f} | " + " | ".join(cells) + " |")
    deviations = [
        f"{found['seed_deviation'][score]:.4g}" if found["seed_deviation"][score] else "–"
        for score in scores
    ]
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
