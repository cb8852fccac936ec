"""The figures of docs/metrics.md: what noise scores, how long scores take, how wide a Fréchet
distance's interval is.

python benchmarks/metric_figures.py --what noise|speed|jackknife [--pictures 30000]
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable

import torch

from archsearch.data.prepare import prepare
from archsearch.data.spec import DataSpec
from archsearch.metrics.base import jackknife, resamples
from archsearch.metrics.distances import GramMatrices, frechet_distance, influence
from archsearch.metrics.evaluate import build_metrics, evaluate
from archsearch.metrics.networks import Networks
from archsearch.metrics.registry import METRICS
from archsearch.metrics.spec import MetricSettings

IMAGES = 128
FREE = [
    name for name, info in METRICS.items() if info.needs_setting is None and info.prompts == "seen"
]


def noise() -> dict[str, dict[str, float]]:
    """128 pictures of uniform noise against twemoji's train pictures at 32 px, and what 128 of
    these get (floor).
    """
    data = prepare(DataSpec(size=32))
    names = [name for name in FREE if METRICS[name].axis == "fidelity"]
    pictures = torch.randint(
        0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    found = evaluate(build_metrics(names, data, MetricSettings()), pictures, [""] * IMAGES)
    return {
        name: {
            "noise": round(found[name][name], 3),
            "floor": round(found[name][f"{name}_floor"], 3),
        }
        for name in names
    }


def speed(pictures: int) -> dict[str, float]:
    """Seconds: 128 pictures through EfficientNet, and with all scores that need no file; a Fréchet
    distance of many pictures.
    """
    data = prepare(DataSpec(size=32))
    index = data.train[:IMAGES]
    images, captions = data.images[index], [data.captions[i] for i in index.tolist()]
    networks = Networks(MetricSettings())
    metrics = build_metrics(FREE, data, MetricSettings(), networks)
    evaluate(metrics, images, captions)  # what is cached is there, what is loaded is loaded
    shared = _seconds(lambda: networks.effnet(images.flip(3)))
    every = _seconds(lambda: evaluate(metrics, images.flip(2), captions))
    generator = torch.Generator().manual_seed(0)
    real, made = (torch.randn(pictures, 2048, generator=generator) for _ in range(2))
    return {
        "efficientnet_s": round(shared, 2),
        "all_scores_s": round(every, 2),
        "pictures_a_side": pictures,
        "frechet_s": round(_seconds(lambda: frechet_distance(real, made)), 1),
        "frechet_interval_s": round(_seconds(lambda: influence(real, made)), 1),
        "peak_rss_gb": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            / (1e9 if sys.platform == "darwin" else 1e6),
            2,
        ),
        "threads": torch.get_num_threads(),
    }


def jackknifed() -> dict[str, dict[str, float]]:
    """Spread of a Fréchet distance by bootstrap and jackknife, where all directions vary alike and
    where few vary most (1 / k).
    """
    rank = torch.arange(1, 301).double()
    return {"alike": _spread(torch.ones_like(rank)), "one_over_k": _spread(rank.rsqrt())}


def _spread(
    scale: torch.Tensor, sets: int = 300, judged: int = 20, count: int = 64
) -> dict[str, float]:
    """Standard deviation over fresh sets of ``count`` pictures, and what each method says of one
    set, in units of it.
    """
    features = len(scale)
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(4000, features, generator=generator).double() * scale
    fresh, bootstrap, leaving_out = [], [], []
    for number in range(sets):
        made = torch.randn(count, features, generator=generator).double() * scale
        gram = GramMatrices(real, made)
        fresh.append(float(gram.distances(torch.arange(count)[None])))
        if number < judged:
            kept, factor = jackknife(count)
            bootstrap.append(float(gram.distances(resamples(count)).std()))
            leaving_out.append(factor * float(gram.distances(kept).std()))
    true = float(torch.tensor(fresh).std())
    return {
        "true_sd": round(true, 3),
        "bootstrap_over_true": round(sum(bootstrap) / judged / true, 2),
        "jackknife_over_true": round(sum(leaving_out) / judged / true, 2),
    }


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=["noise", "speed", "jackknife"], required=True)
    parser.add_argument(
        "--pictures",
        type=int,
        default=30_000,
        help="speed: pictures a side of the Fréchet distance",
    )
    given = parser.parse_args()
    found = (
        noise()
        if given.what == "noise"
        else speed(given.pictures)
        if given.what == "speed"
        else jackknifed()
    )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
