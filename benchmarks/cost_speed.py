"""Closed-form cost against torch's ``FlopCounterMode`` on the meta device: the same counts,
interleaved, one thread.

Networks are drawn over every knob (``wide_space.yaml``), so that few of them share more than some
layers; the first round starts with empty caches.
"""

import json
import random
import statistics
import time
from pathlib import Path

import torch

from archsearch.cost.counters import count_torch
from archsearch.cost.price import price
from archsearch.search_space.space import load_space

ROUNDS, CONFIGS, CHECKED = 9, 300, 4


def main() -> None:
    torch.set_num_threads(1)
    space, rng = load_space(str(Path(__file__).parent / "wide_space.yaml")), random.Random(7)
    count_torch(space.base)  # what torch imports and caches at its first count is not its speed
    ours, theirs = [], []
    for _ in range(ROUNDS):
        configs = [space.draw_valid(rng)[1] for _ in range(CONFIGS)]
        started = time.perf_counter()
        counted = [price(config) for config in configs]
        ours.append((time.perf_counter() - started) / CONFIGS)
        started = time.perf_counter()
        checked = [count_torch(config) for config in configs[:CHECKED]]
        theirs.append((time.perf_counter() - started) / CHECKED)
        assert [(c.params, c.macs) for c in counted[:CHECKED]] == [
            (c["params"], c["macs"]) for c in checked
        ]
    print(
        json.dumps(
            {
                "configs_per_second": _spread([1 / seconds for seconds in ours]),
                "flop_counter_ms": _spread([1000 * seconds for seconds in theirs]),
                "ratio": _spread([b / a for a, b in zip(ours, theirs, strict=True)]),
            },
            indent=1,
        )
    )


def _spread(values: list[float]) -> dict[str, int]:
    return {
        "first": round(values[0]),
        "least": round(min(values)),
        "median": round(statistics.median(values)),
        "most": round(max(values)),
    }


if __name__ == "__main__":
    main()
