"""Time a study as a user runs it: wall clock, finished trials, peak memory over all its processes
together.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil


def tree_rss(process: psutil.Process) -> int:
    """Resident bytes of a process and its children. Shared pages count once each, so the sum is an
    upper bound.
    """
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="studies/quickstart.yaml")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    command = [
        sys.executable,
        "-m",
        "archsearch",
        "run",
        arguments.study,
        "--output",
        str(arguments.output),
    ]
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(command)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        peak = max(peak, tree_rss(watched))
        time.sleep(0.5)
    minutes = (time.monotonic() - started) / 60
    status = subprocess.run(
        [sys.executable, "-m", "archsearch", "status", str(arguments.output), "--json"],
        capture_output=True,
        check=True,
        text=True,
    )
    found = json.loads(status.stdout)
    trained = [
        trial["train_seconds"]
        for trial in found["trials"]
        if trial["outcome"] == "complete" and not trial["from_store"]
    ]
    scored = [
        trial["scoring_seconds"]
        for trial in found["trials"]
        if trial["outcome"] == "complete" and not trial["from_store"]
    ]
    print(
        json.dumps(
            {
                "exit_code": process.returncode,
                "minutes": round(minutes, 2),
                "finished_trials": found["finished"],
                "outcomes": found["outcomes"],
                "peak_memory_gb": round(peak / 1e9, 2),
                "train_seconds": {
                    "mean": round(sum(trained) / len(trained), 1),
                    "max": max(trained),
                },
                "scoring_share": round(sum(scored) / (sum(trained) + sum(scored)), 3),
                "cores": psutil.cpu_count(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
