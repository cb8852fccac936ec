"""Measure the ONNX models of this bundle with onnxruntime: needs numpy and onnxruntime only, on any
machine that has Python.

Every run of a model stands between two runs of the reference block, and only their ratio counts, so
that clocks that rise and fall do no harm. Results are saved after each model; run again to go on
after an interruption.

    python run_onnx.py --output results.json
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

MIN_RUNS, MIN_SAMPLE_MS, SECONDS = 5, 2.0, 1.0
ATTEMPTS, QUIET = 3, 0.25
"""A model is measured again where the reference spread by more than this beside it; the quietest
attempt counts.
"""


class Model:
    """A model with its inputs and outputs bound, so that a run copies nothing."""

    def __init__(self, bundle: Path, item: dict[str, Any], threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(bundle / item["file"]), options, providers=["CPUExecutionProvider"]
        )
        self.feed = {
            each["name"]: np.load(bundle / each["file"], allow_pickle=False)
            for each in item["inputs"]
        }
        self.outputs = [np.ascontiguousarray(array) for array in self.session.run(None, self.feed)]
        self.binding = self.session.io_binding()
        for name, array in self.feed.items():
            self.binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for node, array in zip(self.session.get_outputs(), self.outputs, strict=True):
            self.binding.bind_output(
                node.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data
            )

    def ms(self, repeats: int = 1) -> float:
        """Mean time of a run in ms."""
        start = time.perf_counter()
        for _ in range(repeats):
            self.session.run_with_iobinding(self.binding)
        return (time.perf_counter() - start) * 1000 / repeats


def measure(model: Model, reference: Model, warmup: int, runs: int) -> dict[str, list[float]]:
    """Ratios to the reference, and one reference time in ms more than these."""
    spent = 0.0
    for _ in range(max(warmup, 1)):
        reference_ms, once = reference.ms(), model.ms()
        spent += once
        if spent > SECONDS * 1000:
            break
    repeats = min(max(math.ceil(MIN_SAMPLE_MS / max(once, 1e-6)), 1), 10_000)
    reference_repeats = min(max(round(0.1 * once / reference_ms), 1), 20)
    ratios, times = [], [reference.ms(reference_repeats)]
    for _ in range(min(runs, max(MIN_RUNS, math.ceil(SECONDS * 1000 / max(once, 1e-6))))):
        took = model.ms(repeats)
        times.append(reference.ms(reference_repeats))
        ratios.append(2 * took / (times[-2] + times[-1]))
    return {"ratios": ratios, "reference_ms": times}


def spread(times: list[float]) -> float:
    """(p90 - p10) / p50."""
    p10, p50, p90 = np.percentile(times, (10, 50, 90))
    return float((p90 - p10) / p50)


def measure_quietly(
    model: Model, reference: Model, warmup: int, runs: int
) -> dict[str, list[float]]:
    """The quietest of a few attempts; one is enough where the reference holds still."""
    best = measure(model, reference, warmup, runs)
    for _ in range(ATTEMPTS - 1):
        if spread(best["reference_ms"]) <= QUIET:
            break
        best = min(
            best,
            measure(model, reference, warmup, runs),
            key=lambda sample: spread(sample["reference_ms"]),
        )
    return best


def save(path: Path, results: dict[str, Any]) -> None:
    """Write the results so that nobody sees half of them."""
    aside = path.with_name(path.name + ".writing")
    aside.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(aside, path)


def main() -> int:
    """Measure all models of the manifest that have no result yet."""
    parser = argparse.ArgumentParser(description="Measure the ONNX models of this bundle.")
    parser.add_argument(
        "--bundle", type=Path, default=Path(__file__).resolve().parent, help="Folder of the bundle."
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("results.json"),
        help="Results, for archsearch latency import.",
    )
    arguments = parser.parse_args()
    manifest = json.loads((arguments.bundle / "manifest.json").read_text(encoding="utf-8"))
    conditions, items = manifest["conditions"], manifest["items"]
    results: dict[str, Any] = {
        "schema": 1,
        "bundle": manifest["bundle"],
        "tool": "run_onnx.py",
        "version": onnxruntime.__version__,
        "machine": f"{platform.machine()}, {platform.platform()}",
        "threads": conditions["threads"],
        "measured": [],
        "failed": [],
    }
    if arguments.output.exists():
        found = json.loads(arguments.output.read_text(encoding="utf-8"))
        same = ("schema", "bundle", "tool", "version", "machine", "threads")
        if any(found.get(name) != results[name] for name in same):
            print(
                f"{arguments.output}: holds results of another bundle, machine or version; "
                "choose another --output.",
                file=sys.stderr,
            )
            return 2
        results["measured"] = found["measured"]
    done = {each["key"] for each in results["measured"]}
    reference = Model(arguments.bundle, items[0], conditions["threads"])
    todo = [item for item in items[1:] if item.get("file") and item["key"] not in done]
    for number, item in enumerate(todo, start=1):
        try:
            model = Model(arguments.bundle, item, conditions["threads"])
            sample = measure_quietly(model, reference, conditions["warmup"], conditions["runs"])
            results["measured"].append({"key": item["key"], **sample})
        except Exception as error:  # a model that fails is a result too
            results["failed"].append(
                {"key": item["key"], "reason": " ".join(str(error).split())[:500]}
            )
        save(arguments.output, results)
        print(f"{number} of {len(todo)}: {item['key']}", flush=True)
    save(arguments.output, results)
    print(
        f"{arguments.output}: {len(results['measured'])} measured, {len(results['failed'])} failed"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
