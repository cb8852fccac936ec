"""What becomes of damaged and hostile files: random changes of every kind of file that archsearch
reads, through its loaders and through its commands. Prints JSON; exit 1 where anything ended in a
traceback or took more than 20 s of processor time.

Run it from the repository, whose ``tests`` hold the whole files. The eighth kind are the files of
a run: ``--run`` names a small finished one, of which a copy is changed.
"""

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from archsearch.cli import main as command_line
from tests.mutations import Kind, changed, command_of, in_time, kinds, kinds_of_run, outcome


def command(arguments: list[str]) -> str:
    """Exit code of a command, its output set aside."""
    sys.argv = ["archsearch", *arguments]
    shown = io.StringIO()
    with in_time(), contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        try:
            command_line()
        except SystemExit as stop:
            return f"exit {stop.code or 0}"
    return "exit 0"


def tried(kind: Kind, seeds: list[str], work: Callable[[Path, random.Random], str]) -> Any:
    """What came of each change; what was not told in a sentence, with the seed that makes it."""
    said, failures, slowest = Counter[str](), [], 0.0
    for seed in seeds:
        rng = random.Random(seed)
        with changed(kind, rng) as (path, _):
            started = time.process_time()
            try:
                said[work(path, rng)] += 1
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(place.filename).name}:{place.lineno}"
                failures.append(f"{seed} ({path.name}): {type(error).__name__} at {where}")
            slowest = max(slowest, time.process_time() - started)
    return {"tried": len(seeds), **said, "failures": failures, "slowest_s": round(slowest, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="changes of each kind of file")
    parser.add_argument("--of-run", type=int, default=500, help="changes of a run's files")
    parser.add_argument("--commands", type=int, default=100, help="commands of each kind")
    parser.add_argument("--run", type=Path, help="a finished run")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # Pillow's, of broken pictures
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        every = kinds(Path(folder))
        if arguments.run:
            every |= kinds_of_run(Path(shutil.copytree(arguments.run, Path(folder) / "run")))
        for name, kind in every.items():
            count = arguments.of_run if name in ("run", "doctor") else arguments.count

            def load(path: Path, _: random.Random, kind: Kind = kind) -> str:
                return "read" if outcome(kind, path) == "read" else "told"

            def call(path: Path, rng: random.Random, kind: Kind = kind) -> str:
                return command(command_of(kind, path, rng))

            found[name] = tried(kind, [f"{name}:{number}" for number in range(count)], load)
            if kind.commands:
                seeds = [f"{name} command:{number}" for number in range(arguments.commands)]
                found[f"{name}, commands"] = tried(kind, seeds, call)
            print(json.dumps({name: found[name]}), file=sys.stderr)
    print(json.dumps(found, indent=1))
    sys.exit(any(each["failures"] for each in found.values()))


if __name__ == "__main__":
    main()
