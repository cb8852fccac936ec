"""Can the proxy be believed? Random networks of the space at rising budgets and seeds, and what their rankings have in common."""

import random
from collections.abc import Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any

from archsearch.cost.price import price
from archsearch.errors import InputError
from archsearch.latency.predict import MissingEntryError
from archsearch.study.agreement import correlate, spread, within_thirds
from archsearch.study.devices import OutsideFamilyError
from archsearch.study.grid import Cell, Grid
from archsearch.study.scoring import Scorer
from archsearch.study.setting import Setting
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import plan

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
        _, config = setting.space.sample_valid(rng)
        try:
            if setting.broken_limits(setting.costs(config, min(setting.spec.sampling.searched, default=None))):
                continue
        except (MissingEntryError, OutsideFamilyError):
            continue
        found.setdefault(setting.proxy(config).digest, config)
    raise InputError(
        f"space '{setting.space.name}': holds only {len(found)} networks with proxies of their own, but {count} are asked for."
    )


def cells_for(networks: Sequence[UNetConfig], seeds: int, budgets: Sequence[int], deep: int, deep_seeds: int) -> tuple[Cell, ...]:
    """The first ``deep`` networks through all budgets with ``deep_seeds`` seeds; every network with ``seeds`` seeds at the first.

    In such an order that a stop leaves a comparison: the deep networks with one seed, then what is short, then their other seeds.
    """
    deep_cells = [Cell(f"network {i}", networks[i], seed, tuple(budgets)) for seed in range(deep_seeds) for i in range(deep)]
    short = [
        Cell(f"network {i}", config, seed, tuple(budgets[:1]))
        for seed in range(seeds)
        for i, config in enumerate(networks)
        if i >= deep or seed >= deep_seeds
    ]
    return (*deep_cells[:deep], *short, *deep_cells[deep:])


def summarise(grid: Grid, scorer: Scorer) -> dict[str, Any]:
    """What the trained cells say, as plain data: nothing is left out because it is not finished, the counts say what there is."""
    known: dict[str, dict[int, dict[int, dict[str, float]]]] = {}  # network → seed → budget → scores
    configs: dict[str, UNetConfig] = {}
    for cell in grid.cells:
        configs[cell.name] = cell.config
        known.setdefault(cell.name, {})[cell.seed] = grid.scores(scorer, cell)
    budgets = sorted({budget for cell in grid.cells for budget in cell.budgets})
    costs = {name: price(plan(config)) for name, config in configs.items()}
    size = {"params": {n: c.params for n, c in costs.items()}, "macs": {n: c.macs for n, c in costs.items()}}
    return {
        "schema": 1,
        "samples": {budget: budget * scorer.setting.spec.proxy.samples for budget in budgets},
        "trainings": {
            budget: sum(budget in seeds for by_seed in known.values() for seeds in by_seed.values()) for budget in budgets
        },
        "seconds": {budget: _seconds(known, budget) for budget in budgets},
        "scores": {score: _of_score(score, known, budgets, size) for score in SCORES},
        "networks": {
            name: {
                "digest": configs[name].digest,
                "params": size["params"][name],
                "macs": size["macs"][name],
                "val_loss": {
                    budget: [scores[budget]["val_loss"] for _, scores in sorted(by_seed.items()) if budget in scores]
                    for budget in budgets
                },
            }
            for name, by_seed in known.items()
        },
    }


def _seconds(known: dict[str, dict[int, dict[int, dict[str, float]]]], budget: int) -> float | None:
    values = [scores[budget]["seconds"] for by_seed in known.values() for scores in by_seed.values() if budget in scores]
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
        rows.append(_row(f"{budget} × and {last} ×", low, high, [size["macs"][name] for name in names]))
    names = list(by_seed[last])
    high = [mean(by_seed[last][name]) for name in names]
    for control in CONTROLS:  # larger is better: the more of it, the lower the loss should be
        guess = [-float(size[control][name]) for name in names]
        rows.append(_row(f"{control} and {last} ×", guess, high, [size["macs"][name] for name in names]))
    return {
        "spread": {budget: asdict(found) | {"ratio": found.ratio} for budget, found in spreads.items()},
        "agreement": rows,
    }


def _row(what: str, x: list[float], y: list[float], macs: list[int]) -> dict[str, Any]:
    found = correlate(x, y)
    inside = within_thirds(x, y, [float(value) for value in macs])
    return {"rankings": what, "networks": len(x), "tau_within_macs_thirds": inside} | (asdict(found) if found else {})
