"""How far estimates of missing entries are off: each entry of a table estimated from all the
others.

python benchmarks/estimate_error.py [--table cpu-onnxruntime-fp32]
"""

import argparse
import json
from collections import defaultdict

import numpy as np

from archsearch.catalog import find
from archsearch.latency.predict import estimate, load_table
from archsearch.latency.table import LatencyTable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", default="cpu-onnxruntime-fp32")
    table = load_table(find("table", parser.parse_args().table))
    assert isinstance(table, LatencyTable)
    errors: dict[str, list[float]] = defaultdict(list)
    for entry in table.entries:
        guess = estimate(entry.unit, table, leave_out=entry.unit)
        if guess is not None:
            errors[entry.unit.kind].append(abs(guess / entry.p50 - 1))
    errors["all"] = [error for group in list(errors.values()) for error in group]
    print(json.dumps({kind: _spread(group) for kind, group in errors.items()}, indent=1))


def _spread(errors: list[float]) -> dict[str, float]:
    return {
        "entries": len(errors),
        "median": round(float(np.median(errors)), 3),
        "p90": round(float(np.percentile(errors, 90)), 3),
        "most": round(max(errors), 3),
    }


if __name__ == "__main__":
    main()
