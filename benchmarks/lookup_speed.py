"""How many latencies a second a table gives, for random networks of a space that are looked up for
the first time.

python benchmarks/lookup_speed.py [--space mobilediffusion] [--table cpu-onnxruntime-fp32]
"""

import argparse
import json
import random
import statistics
import time

from archsearch.catalog import find
from archsearch.latency.predict import load_table, predict
from archsearch.latency.table import LatencyTable
from archsearch.search_space.space import load_space

ROUNDS = 9
NETWORKS = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="mobilediffusion")
    parser.add_argument("--table", default="cpu-onnxruntime-fp32")
    arguments = parser.parse_args()
    space, table = load_space(arguments.space), load_table(find("table", arguments.table))
    assert isinstance(table, LatencyTable)
    rng, rates = random.Random(0), []
    for _ in range(ROUNDS):
        configs = [space.draw_valid(rng)[1] for _ in range(NETWORKS)]
        start = time.perf_counter()
        for config in configs:
            predict(config, table)
        rates.append(NETWORKS / (time.perf_counter() - start))
    result = {
        "space": space.name,
        "table": table.name,
        "entries": len(table.entries),
        "rounds": ROUNDS,
        "networks_a_round": NETWORKS,
        "first_round_per_s": round(rates[0]),
        "median_per_s": round(statistics.median(rates)),
        "least_per_s": round(min(rates)),
        "most_per_s": round(max(rates)),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
