"""Processor seconds of what looks at a large study: `status`, `pareto`, `plot` and `report` of
2,000 told trials, and of importing what they are made of. The study's losses are made up: this
measures speed.

python -m benchmarks.large_study [--trials 2000] [--keep FOLDER]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import told_study

COMMANDS = {
    "imports": ("-c", "import archsearch.cli.results"),
    "status, the first look": ("-m", "archsearch", "status"),  # what it reads is kept for the next
    "status": ("-m", "archsearch", "status"),
    "pareto": ("-m", "archsearch", "pareto"),
    "plot --kind front": ("-m", "archsearch", "plot", "--kind", "front"),
    "plot": ("-m", "archsearch", "plot"),
    "report": ("-m", "archsearch", "report"),
}


def seconds(arguments: list[str]) -> float:
    """Processor time of a Python process on one thread."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--keep", type=Path, help="Folder of the study; one that is there is used.")
    arguments = parser.parse_args()
    memory = Path("/dev/shm")  # thousands of transactions: a disk would take a quarter of an hour
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as temporary:
        folder = arguments.keep or Path(temporary) / "run"
        if not (folder / "study.yaml").is_file():
            told_study(folder, arguments.trials)
        found = {
            name: round(seconds([*words, *([] if words[0] == "-c" else [str(folder)])]), 1)
            for name, words in COMMANDS.items()
        }
    print(json.dumps({"trials": arguments.trials, "processor_seconds": found}, indent=1))


if __name__ == "__main__":
    main()
