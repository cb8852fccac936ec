"""Spread of the quality objective between seeds of one architecture, beside its spread between architectures.

Trains a few architectures of the quickstart space under the quickstart's recipe, each with several seeds. Finished trainings are
kept in the output folder's store, so a second call goes on.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch

from archsearch.data.prepare import prepare
from archsearch.diffusion.device import pick_device
from archsearch.study.rundir import open_run
from archsearch.study.scoring import Scorer
from archsearch.study.setting import load_setting
from archsearch.unet.presets import preset

SHALLOW = {"inner_down_depth": 1, "inner_up_depth": 1, "middle_attention": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("studies/quickstart.yaml"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = load_setting(arguments.study)
    run = open_run(arguments.output, setting)
    scorer = Scorer(run, setting, prepare(setting.spec.data, setting.spec.proxy.latent), pick_device())
    lite = setting.space.locate(preset("mobilediffusion-lite"))
    assert lite is not None
    points = {
        "cheapest": lite | SHALLOW | {"outer_width": 128, "middle_width": 384, "inner_width": 512, "expansion": 3},
        "wide and shallow": lite | SHALLOW | {"inner_width": 640},
        "mobilediffusion-lite": lite,
    }
    scores: dict[str, list[float]] = {}
    for name, point in points.items():
        proxy = setting.proxy(setting.space.build(point))
        scores[name] = [scorer.score(proxy, seed).scores["val_loss"] for seed in range(arguments.seeds)]
        print(f"{name}: {scores[name]}", flush=True)
    means = [statistics.mean(values) for values in scores.values()]
    within = statistics.mean(statistics.variance(values) for values in scores.values()) ** 0.5
    between = statistics.stdev(means)
    print(
        json.dumps(
            {
                "val_loss": scores,
                "seed_deviation_by_architecture": {name: round(statistics.stdev(values), 5) for name, values in scores.items()},
                "seed_deviation": round(within, 5),
                "architecture_deviation": round(between, 5),
                "variance_ratio": round((between / within) ** 2, 1),
                "best_over_cheapest_in_seed_deviations": round((means[0] - min(means)) / within, 1),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
