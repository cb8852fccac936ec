"""Closed-form cost against torch's ``FlopCounterMode`` on the meta device: the same counts, interleaved, one thread."""

import json
import random
import statistics
import time

import torch

from archsearch.cost.counters import count_torch
from archsearch.cost.price import price
from archsearch.space.space import load_space

ROUNDS, CONFIGS = 5, 4


def main() -> None:
    torch.set_num_threads(1)
    space, rng = load_space("quickstart"), random.Random(7)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        configs = [space.sample_valid(rng)[1] for _ in range(CONFIGS)]
        started = time.perf_counter()
        counted = [price(config) for config in configs]
        ours.append((time.perf_counter() - started) / CONFIGS)
        started = time.perf_counter()
        checked = [count_torch(config) for config in configs]
        theirs.append((time.perf_counter() - started) / CONFIGS)
        assert [(c.params, c.macs) for c in counted] == [(c["params"], c["macs"]) for c in checked]
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    print(
        json.dumps(
            {
                "configs_per_second": round(1 / statistics.median(ours)),
                "flop_counter_ms": round(1000 * statistics.median(theirs), 1),
                "ratio": {"median": round(statistics.median(ratios)), "least": round(min(ratios)), "most": round(max(ratios))},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
