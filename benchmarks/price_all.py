"""How many networks of a space are priced a second, all at once and one by one: parameters, MACs,
peak activation bytes and latency. Processor time; both give the same to the last digit.

python benchmarks/price_all.py [--space quickstart] [--table cpu-onnxruntime-fp32]
"""

import argparse
import json
import random
import statistics
import time

from archsearch.catalog import find
from archsearch.cost.price import price
from archsearch.latency.predict import Predictor, load_table
from archsearch.search_space.space import load_space
from archsearch.unet.plan import plan

ROUNDS = 5
ALONE = 400
"""Networks that are priced one by one in each round."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="quickstart")
    parser.add_argument("--table", default="cpu-onnxruntime-fp32")
    arguments = parser.parse_args()
    space = load_space(arguments.space)
    predictor = Predictor(load_table(find("table", arguments.table)))
    rng = random.Random(0)
    together, alone, differing = [], [], 0
    for _ in range(ROUNDS):
        start = time.process_time()
        found = predictor.price_all(space)  # its tables are filled anew each time
        together.append(len(found) / (time.process_time() - start))
        assert found.latency_ms is not None
        rows = rng.sample(found.valid.nonzero()[0].tolist(), ALONE)
        points = [space.point_of(found.choices[row].tolist()) for row in rows]
        start, costs = time.process_time(), []
        for point in points:
            network = plan(space.build(point))
            costs.append((price(network), predictor.predict(network)))  # type: ignore[arg-type]
        alone.append(ALONE / (time.process_time() - start))
        for row, (cost, latency) in zip(rows, costs, strict=True):
            differing += (cost.params, cost.macs, cost.peak_activation_bytes, latency.ms) != (
                found.params[row],
                found.macs[row],
                found.peak_activation_bytes[row],
                found.latency_ms[row],
            )
    result = {
        "space": space.name,
        "points": len(found),
        "architectures": int(found.valid.sum()),
        "together_per_s": round(statistics.median(together)),
        "together_least_and_most": [round(min(together)), round(max(together))],
        "one_by_one_per_s": round(statistics.median(alone)),
        "compared": ROUNDS * ALONE,
        "differing": differing,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
