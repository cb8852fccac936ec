"""Which cheap score ranks networks as a long training does?

The truth is MobileDiffusion-Bench: the held-out loss after the longest budget that every recorded
network has, mean over its seeds. Compared are shorter trainings from scratch, by their loss and by
its thirds of least, middle and most noise, each alone and pooled by our model of scores, weights
inherited from parents (as they are, and finetuned), zero-cost scores, and parameters, MACs and
latency. Kendall's τ and Spearman's ρ, τ with a 95 % bootstrap interval over networks, τ within
thirds of equal MACs, and what a network costs, as a share of what the truth took. The ceiling is
the τ of two seeds of one training, over the networks that have several.

Trainings are kept in ``--keep`` and not done again. One thread; processor time.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from archsearch import Study
from archsearch.benchmark.table import BUDGETS, FILE, LATENCY, LOSSES, STUDY, Benchmark, load
from archsearch.benchmark.zero_cost import ZERO_COST
from archsearch.study.agreement import correlate, within_thirds
from archsearch.study.parent import load_parent
from archsearch.study.surrogate import Measurement, Surrogate
from archsearch.unet.config import UNetConfig

SIGNS = {"naswot": -1, "synflow": -1}
"""Of zero-cost scores of which more is expected to be better; of a gradient's norm less."""


def networks(table: Benchmark) -> dict[str, UNetConfig]:
    """Every recorded network that has the longest budget, by digest."""
    truth = table.mean()
    space = table.space
    return {
        str(digest): space.build(space.point(dict(table.designs[str(digest)].point)))
        for digest in truth.index
    }


def ceiling(table: Benchmark) -> dict[str, Any]:
    """τ between the seeds of the truth, mean over pairs of seeds."""
    rows = table.rows[table.rows["budget"] == BUDGETS[-1]]
    by_seed = rows.pivot_table(index="digest", columns="seed", values="val_loss")
    found = []
    for one, other in itertools.combinations(by_seed.columns, 2):
        both = by_seed[[one, other]].dropna()
        if len(both) >= 8:
            known = correlate(both[one].tolist(), both[other].tolist())
            found.append(known.tau if known else float("nan"))
    return {"pairs": len(found), "tau": sum(found) / len(found) if found else None}


def pooled(table: Benchmark, score: str, budget: int) -> dict[str, float]:
    """What our model believes of each network from trainings of up to ``budget`` pictures."""
    measured = table.measurements(score, budget)
    measured = [Measurement(m.design, m.value, m.budget, m.training) for m in measured]
    model = Surrogate(table.space.dimensions, measured, budget)
    names = list(table.designs)
    means = model.posterior([table.designs[name] for name in names]).mean.tolist()
    return dict(zip(names, means, strict=True))


def inherited(
    parent: Path, budgets: list[int], distill: float, chosen: dict[str, UNetConfig], keep: Path
) -> Iterator[tuple[int, dict[str, dict[str, float]], float]]:
    """For each budget the losses, by name, of networks that start from a parent and are finetuned
    as the quickstart finetunes its candidates, and seconds a network.
    """
    overrides: dict[str, Any] = {
        "proxy.init": "parent",
        "proxy.parent": str(parent.resolve()),
        "proxy.samples": budgets[-1],
        "proxy.distill": distill,
    }
    name = f"{load_parent(parent).digest}-{budgets[-1]}-{distill:g}"
    store = Study("quickstart", keep / name, overrides).prepare()
    losses: dict[int, dict[str, dict[str, float]]] = {
        budget: {name: {} for name in LOSSES} for budget in budgets
    }
    seconds = dict.fromkeys(budgets, 0.0)
    for digest, network in chosen.items():
        for budget in budgets:
            record = store.score(network, budget)
            for name in LOSSES:
                losses[budget][name][digest] = record.scores[name]
            seconds[budget] += record.details["train_seconds"] + record.details["scoring_seconds"]
        store.files.drop(record.name)
    for budget in budgets:
        yield budget, losses[budget], seconds[budget] / len(chosen)


def judged(scores: dict[str, float], truth: "pd.Series[float]", macs: "pd.Series[float]") -> Any:
    names = [str(digest) for digest in truth.index if str(digest) in scores]
    x, y = [scores[name] for name in names], [float(truth[name]) for name in names]
    found = correlate(x, y)
    assert found is not None
    return {
        "networks": found.count,
        "tau": round(found.tau, 3),
        "low": round(found.low, 3),
        "high": round(found.high, 3),
        "spearman": round(found.spearman, 3),
        "within_thirds": round(within_thirds(x, y, [float(macs[n]) for n in names]) or 0.0, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, default=FILE)
    parser.add_argument("--parent", type=Path, action="append", default=[])
    parser.add_argument("--finetune", default="0,540,1080")
    parser.add_argument("--distill", default="0")
    parser.add_argument("--keep", type=Path, default=Path("runs/who_ranks"))
    parser.add_argument("--zero-cost", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = load(arguments.table)
    chosen, truth, macs = networks(table), table.mean(), table.networks["macs"]
    took = table.rows[table.rows["budget"] == BUDGETS[-1]].groupby("digest")["seconds"].mean()
    cost = float(took.mean())
    found: dict[str, Any] = {"networks": len(chosen), "ceiling": ceiling(table), "scores": {}}

    def add(name: str, scores: dict[str, float], seconds: float) -> None:
        found["scores"][name] = judged(scores, truth, macs) | {"share": round(seconds / cost, 4)}
        print(name, json.dumps(found["scores"][name]), flush=True)

    for budget in BUDGETS[:-1]:
        rows = table.rows[(table.rows["budget"] == budget) & (table.rows["seed"] == 0)]
        seconds = float(rows["seconds"].mean())
        for score in LOSSES:
            taken = dict(zip(rows["digest"], rows[score], strict=True))
            add(f"scratch {budget}, {score}", taken, seconds)
            add(f"scratch {budget}, {score}, pooled", pooled(table, score, budget), seconds)
    # Seed 0 alone against the others: neither has seen the other's trainings.
    alone = Benchmark(table.rows[table.rows["seed"] == 0], table.path)
    others = Benchmark(table.rows[table.rows["seed"] > 0], table.path).mean()
    found["other_seeds"] = {
        f"scratch {budget}, {score}, pooled": judged(pooled(alone, score, budget), others, macs)
        for budget in BUDGETS
        for score in LOSSES
    }
    for name in ("params", "macs", f"{LATENCY}cpu-onnxruntime-fp32"):
        column = table.networks[name]
        add(name, {str(d): -float(column[d]) for d in truth.index}, 0.0)
    if arguments.zero_cost:
        study = Study(STUDY, arguments.keep / "zero-cost")
        store = study.prepare()
        for name, score in ZERO_COST.items():
            started, scores = time.process_time(), {}
            for digest, network in chosen.items():
                config = study.setting.proxy(network)
                sign = SIGNS.get(name, 1)
                scores[digest] = sign * score(config, store.data, study.spec.proxy.recipe)
            add(name, scores, (time.process_time() - started) / len(chosen))
    for parent in arguments.parent:
        how = load_parent(parent).about.get("how", "")
        budgets = sorted(map(int, arguments.finetune.split(",")))
        for distill in map(float, arguments.distill.split(",")):
            finetuned = [budget for budget in budgets if budget]
            untrained = [0] if 0 in budgets and not distill else []
            for run in filter(None, (untrained, finetuned)):  # a study each
                for budget, losses, seconds in inherited(
                    parent, run, distill, chosen, arguments.keep
                ):
                    name = f"{how} parent, {budget} pictures, distilled {distill:g}"
                    for score in LOSSES:
                        add(f"{name}, {score}", losses[score], seconds)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
