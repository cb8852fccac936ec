"""Time a study as ``archsearch run`` runs it: wall clock, finished trials, peak memory over all its
processes together.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import psutil

from archsearch import Study


def tree_rss() -> int:
    """Resident bytes of this process and its children. Shared pages count once each, so the sum is
    an upper bound.
    """
    total, own = 0, psutil.Process()
    for member in [own, *own.children(recursive=True)]:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="studies/quickstart.yaml")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="End by then, in place of as the study says.")
    arguments = parser.parse_args()
    started, peak = time.monotonic(), 0

    def watch(_: Study) -> None:
        nonlocal peak
        peak = max(peak, tree_rss())

    limit = {} if arguments.minutes is None else {"search.minutes": arguments.minutes}
    study = Study(arguments.study, arguments.output, limit)
    study.run(tick=watch)
    minutes = (time.monotonic() - started) / 60
    trials = study.trials()
    trained = trials[(trials.outcome == "complete") & (trials.from_store != True)]  # noqa: E712
    found: dict[str, Any] = {
        "minutes": round(minutes, 2),
        "finished_trials": study.results.trials.finished(),
        "outcomes": {str(name): int(n) for name, n in trials.outcome.value_counts().items()},
        "redrawn": study.results.redrawn(),
        "peak_memory_gb": round(peak / 1e9, 2),
        "train_seconds": {
            "mean": round(trained.train_seconds.mean(), 1),
            "max": trained.train_seconds.max(),
        },
        "scoring_share": round(
            trained.scoring_seconds.sum()
            / (trained.train_seconds.sum() + trained.scoring_seconds.sum()),
            3,
        ),
        "cores": psutil.cpu_count(),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
