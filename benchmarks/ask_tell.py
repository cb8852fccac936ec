"""What one ``ask`` and one ``tell`` take, by the number of trials there are, beside bare Optuna's.

A study of the space ``lite-inner`` with a random and an NSGA-II sampler is driven through
``Study.ask`` and ``Study.tell`` with made-up losses: nothing is trained. Bare Optuna asks and tells
the same number of parameters in a database of its own, in turn with ours. Milliseconds, medians of
blocks of trials; one thread.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import yaml

from archsearch import Study
from archsearch.search_space.space import label
from archsearch.study.proposals import make_sampler


def ours(study: Study, rng: random.Random) -> tuple[float, float]:
    started = time.perf_counter()
    asked = study.ask()
    between = time.perf_counter()
    study.tell(asked, {"val_loss": rng.random()})
    return between - started, time.perf_counter() - between


def bare(study: optuna.Study, like: Study, rng: random.Random) -> tuple[float, float]:
    started = time.perf_counter()
    study.sampler = make_sampler(like.spec.search.sampler, rng.randrange(2**32))
    trial = study.ask()
    for name, dimension in like.space.dimensions.items():
        trial.suggest_categorical(name, [label(value) for value in dimension.values])
    between = time.perf_counter()
    study.tell(trial, [rng.random(), rng.random()])
    return between - started, time.perf_counter() - between


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--block", type=int, default=100)
    parser.add_argument("--sampler", choices=["random", "nsga2"], default="nsga2")
    arguments = parser.parse_args()
    rng = random.Random(0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = yaml.safe_load(Path("studies/quickstart.yaml").read_text(encoding="utf-8"))
        data |= {"space": "lite-inner", "report": []}
        sampler = {"name": arguments.sampler}
        data["search"] = {"sampler": sampler, "trials": 10**6, "enqueue": "none"}
        (folder / "study.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
        study = Study(folder / "study.yaml", folder / "run")
        other = optuna.create_study(
            storage=f"sqlite:///{folder / 'bare.db'}", directions=["minimize", "minimize"]
        )
        runs: dict[str, Callable[[], tuple[float, float]]] = {
            "archsearch": lambda: ours(study, rng),
            "optuna": lambda: bare(other, study, rng),
        }
        blocks: list[dict[str, Any]] = []
        for last in range(arguments.block, arguments.trials + 1, arguments.block):
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
            for _ in range(arguments.block):
                for name, once in runs.items():
                    times[name].append(once())
            block: dict[str, Any] = {"trials": last}
            for name, measured in times.items():
                asks, tells = zip(*measured, strict=True)
                block[name] = {
                    "ask_ms": round(1e3 * statistics.median(asks), 1),
                    "tell_ms": round(1e3 * statistics.median(tells), 1),
                }
            blocks.append(block)
        print(json.dumps({"sampler": arguments.sampler, "blocks": blocks}, indent=1))


if __name__ == "__main__":
    main()
