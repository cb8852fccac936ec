"""Measure the ONNX models of this bundle with onnxruntime: needs numpy and onnxruntime only, on any
machine that has Python 3.10 or later.

Every run of a model stands between two runs of the reference block, and only their ratio counts, so
that clocks that rise and fall do no harm. Results are saved after each model; run again to go on
after an interruption.

    python run_onnx.py --output results.json
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from stopwatch import MeasureSettings, measure_paired  # type: ignore[import-not-found]


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

    def run(self) -> None:
        """Run inference once."""
        self.session.run_with_iobinding(self.binding)


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
    settings = MeasureSettings(warmup=conditions["warmup"], runs=conditions["runs"])
    reference = Model(arguments.bundle, items[0], conditions["threads"])
    todo = [item for item in items[1:] if item.get("file") and item["key"] not in done]
    for number, item in enumerate(todo, start=1):
        try:
            model = Model(arguments.bundle, item, conditions["threads"])
            ratios, times = measure_paired(model, reference, settings)
            measured = {"key": item["key"], "ratios": ratios, "reference_ms": times}
            results["measured"].append(measured)
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
