"""What the scores of a proxy can be trusted with: agreement of rankings, effects of knobs."""

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import Any

from archsearch.cost.price import price
from archsearch.errors import InputError
from archsearch.study.agreement import correlate, within_thirds
from archsearch.study.beliefs import Beliefs
from archsearch.study.grid import Cell, Grid
from archsearch.study.setting import InfeasibleError, Setting
from archsearch.study.spec import score_of
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import plan


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
        point, network = setting.space.draw_valid(rng)
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


REPEATED = 4
"""One of so many networks of an ablation is trained with a second seed: that tells the noise."""


def ablation_cells(
    networks: Sequence[UNetConfig], budget: int, metrics: Sequence[str]
) -> tuple[Cell, ...]:
    """Every network once, then some again with a second seed, so that a stop leaves a design."""
    named = [(f"network {i}", network) for i, network in enumerate(networks)]
    again = named[: len(named) // REPEATED]
    return tuple(
        Cell(name, network, seed, (budget,), tuple(metrics))
        for seed, each in enumerate((named, again))
        for name, network in each
    )


def summarise_ablation(grid: Grid, budget: int, names: Sequence[str]) -> dict[str, Any]:
    """The effect of every choice of every knob on each score, from all trained cells, as plain
    data.

    Raises:
        InputError: Nothing was trained to its end.
    """
    store = grid.store
    records = [r for cell in grid.cells for r in grid.records(cell).values() if r.counts]
    if not records:
        raise InputError(f"{store.run.path}: no training of the ablation has ended with a score.")
    samples = budget * store.setting.spec.proxy.samples
    spec = store.setting.spec
    longest = spec.model_copy(update={"proxy": spec.proxy.model_copy(update={"samples": samples})})
    setting = replace(store.setting, spec=longest)
    beliefs = Beliefs(setting, store, (), [record.key for record in records], names)
    table = beliefs.effects()
    return {
        "schema": 2,
        "samples": samples,
        "networks": len({record.proxy for record in records}),
        "trainings": len(records),
        "noise": {name: model.deviations()["noise"] for name, model in beliefs.models.items()},
        "directions": {name: score_of(name).direction for name in beliefs.models},
        "effects": table.astype(object).where(table.notna(), None).to_dict("records"),
    }


def markdown(found: dict[str, Any]) -> str:
    """The effects as a table: difference to the reference choice with half its interval of 95 %,
    bold where the interval does not hold zero.
    """
    scores = list(found["noise"])
    lines = [
        "| knob | choice | latency | params | " + " | ".join(scores) + " |",
        "|---|---|---|---|" + "---|" * len(scores),
    ]
    for row in found["effects"]:
        ratios = (row.get(f"{cost} ratio") for cost in ("latency_ms", "params"))
        saved = ["–" if ratio is None else f"× {ratio:.2f}" for ratio in ratios]
        cells = [effect_cell(row, score) for score in scores]
        choice = f"{row['choice']} (for {row['reference']})"
        lines.append("| " + " | ".join([row["knob"], choice, *saved, *cells]) + " |")
    noises = [f"{found['noise'][score]:.2g}" for score in scores]
    lines.append("| *noise between seeds* | | | | " + " | ".join(noises) + " |")
    return "\n".join(lines) + "\n"


def effect_cell(row: dict[str, Any], score: str) -> str:
    """An effect in a table."""
    low, high = row[f"{score} low"], row[f"{score} high"]
    half = (high - low) / 2
    digits = max(0, 2 - math.floor(math.log10(half))) if half > 0 else 4
    text = f"{row[score]:+.{min(digits, 6)}f} ± {half:.{min(digits, 6)}f}"
    return f"**{text}**" if low > 0 or high < 0 else text
