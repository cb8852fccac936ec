"""From which scale on does a proxy see the capacity of the inner stages?

Sixteen networks of MobileDiffusion-Lite's outer shape, with a middle stage of 384 channels, whose
inner stages differ: four widths, one or three transformers after each residual block, full or
separable convolutions. Each is trained from scratch for rising budgets as a study trains its
candidates, and what each of the three does to the held-out loss (of all noise, and by thirds of it)
is estimated by least squares, with intervals of 95 %: of twice the inner width, of three
transformers in place of one, and of full convolutions in place of separable ones. A negative number
is a gain. The design is balanced, so that the three do not mix. With ``--seeds 2`` seeds are part
of what is left over.

Run it on the quickstart's own data, on more data, on wider or larger proxies, and compare:

    python benchmarks/scales.py --output runs/scales/own
    python benchmarks/scales.py --output runs/scales/styles \\
        --set 'data.source=[twemoji, iconify]' --set data.path=icon-sets
    python benchmarks/scales.py --output runs/scales/wide --set proxy.width=0.2

Trainings are kept in ``--output`` and not done again. One thread; processor time.
"""

import argparse
import itertools
import json
import random
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from archsearch import Study, arch
from archsearch.benchmark.table import LOSSES, STUDY
from archsearch.unet.config import UNetConfig

WIDTHS, DEPTHS, CONVOLUTIONS = (512, 640, 864, 1024), (1, 3), ("separable", "full")
EFFECTS = ("twice the inner width", "three transformers", "full convolutions")


def networks(study: Study) -> list[tuple[tuple[float, float, float], UNetConfig]]:
    """The sixteen, each with its row of the design, in an order that mixes them."""
    space = study.setting.space
    lite = space.locate(arch("mobilediffusion-lite"))
    assert lite is not None
    found = []
    for width, depth, conv in itertools.product(WIDTHS, DEPTHS, CONVOLUTIONS):
        inner = {
            "middle_width": 384,
            "inner_width": width,
            "inner_down_depth": depth,
            "inner_up_depth": depth,
            "inner_conv": conv,
        }
        row = (log2(width), float(depth > 1), float(conv == "full"))
        found.append((row, space.build(lite | inner)))
    random.Random(0).shuffle(found)
    return found


def effects(rows: list[tuple[float, ...]], losses: list[float]) -> dict[str, Any]:
    """What each part of the design does to a loss, with intervals of 95 %."""
    design = np.column_stack([np.ones(len(rows)), np.array(rows)])
    values, left = np.array(losses), len(rows) - design.shape[1]
    found, *_ = np.linalg.lstsq(design, values, rcond=None)
    variance = float(((values - design @ found) ** 2).sum()) / left
    errors = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    half = float(stats.t.ppf(0.975, left)) * errors
    named = zip(EFFECTS, found[1:], half[1:], strict=True)
    return {
        name: [round(float(x), 4) for x in (each, each - h, each + h)] for name, each, h in named
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--budgets", default="2160,4320,8640")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    always = ["proxy.precision=auto", "limits={}"]
    study = Study(STUDY, arguments.output, [*always, *arguments.settings])
    store, chosen = study.prepare(), networks(study)
    for budget in map(int, arguments.budgets.split(",")):
        rows, params, seconds = [], [], []
        losses: dict[str, list[float]] = {name: [] for name in LOSSES}
        for seed, (row, network) in itertools.product(range(arguments.seeds), chosen):
            record = store.score(network, budget, seed)
            rows.append(row)
            params.append(study.setting.priced(network).scores["params"])
            seconds.append(record.details["train_seconds"])
            for name in LOSSES:
                losses[name].append(record.scores[name])
        print(
            json.dumps(
                {
                    "budget": budget,
                    "trainings": len(rows),
                    "params": [min(params), max(params)],
                    "seconds": round(sum(seconds) / len(seconds), 1),
                    "tau with parameters": {
                        name: round(float(stats.kendalltau(params, losses[name])[0]), 2)
                        for name in LOSSES
                    },
                    "effects": {name: effects(rows, losses[name]) for name in LOSSES},
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
