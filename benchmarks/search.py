"""How many trainings a search needs: simulated studies of the space ``quickstart`` whose truth is
known.

The truth is a function fitted to recorded trainings (``recorded/quickstart_540.csv``): the mean of
scikit-learn's Gaussian process, no model of ours; a training adds normal noise of the size that
process finds. Each study is driven through ``Study.ask`` and ``Study.tell``, for two objectives,
held-out loss and latency; nothing is trained. Reported is, after so many trainings, the true
hypervolume of the front that a study reports, as a share of that of the best front known: of
20,000 random networks and everything that any study has tried. ``raw`` is the front of raw scores,
as Optuna reports it; ``model`` the same trials judged by our model. Quartiles over seeds. Searches
of other libraries (``neps-primo``, ``neps-moasha``, ``syne-evolution``, ``syne-moasha``) are in
``other_samplers.py``; the presets and the cheapest network count as trained by them too, and a
candidate that breaks a limit costs them nothing and is told to be as bad as the worst so far.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import yaml
from other_samplers import FULL, searcher
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from archsearch import Study
from archsearch.errors import InputError
from archsearch.search_space.space import InvalidPointError, Point, label
from archsearch.study.front import hypervolume, non_dominated
from archsearch.study.setting import InfeasibleError

RECORDED = Path(__file__).parent / "recorded" / "quickstart_540.csv"
COSTS = ("params", "macs", "latency_ms", "val_loss")
SAMPLERS = ("surrogate", "random", "nsga2", "tpe", "gp")
RANDOM_NETWORKS = 20_000


class Truth:
    """A loss for every network of the space."""

    def __init__(self) -> None:
        rows = pd.read_csv(RECORDED, keep_default_na=False)
        self.knobs = [name for name in rows.columns if name not in COSTS]
        frame = rows[self.knobs].astype(str)
        self.columns = pd.get_dummies(frame, dtype=float).columns
        values = rows.val_loss.to_numpy()
        self.mean, self.spread = values.mean(), values.std()
        kernel = ConstantKernel(1.0) * Matern(length_scale=2.0, nu=2.5) + WhiteKernel(0.1)
        self.model = GaussianProcessRegressor(kernel, n_restarts_optimizer=4, random_state=0)
        self.model.fit(self._table(rows.to_dict("records")), (values - self.mean) / self.spread)
        self.noise = float(self.spread * np.sqrt(self.model.kernel_.k2.noise_level))

    def _table(self, points: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
        frame = pd.DataFrame([{k: str(p.get(k, "")) for k in self.knobs} for p in points])
        table = pd.get_dummies(frame, dtype=float).reindex(columns=self.columns, fill_value=0.0)
        return table.to_numpy() / np.sqrt(2)

    def __call__(self, points: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
        return self.mean + self.spread * self.model.predict(self._table(points))


def one(sampler: str, seed: int, trials: int, truth: Truth, folder: Path) -> list[dict[str, Any]]:
    """A study: what it tried, with what it was told and the truth, and its fronts on the way."""
    study = open_study(sampler, seed, folder)
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for count in range(1, trials + 1):
        started = time.process_time()
        asked = study.ask()
        seconds = time.process_time() - started
        point = study.space.labels(asked.candidate.point)
        true = float(truth([point])[0])
        told = true + rng.normal(0, truth.noise)
        study.tell(asked, {"val_loss": told})
        row = {
            "true": true,
            "told": told,
            "ms": asked.candidate.costs.scores["latency_ms"],
            "ask_seconds": seconds,
        }
        rows.append(row)
        if count % 10 == 0:
            row["believed"] = study.results.beliefs().front
    return rows


def one_elsewhere(
    sampler: str, seed: int, trials: int, truth: Truth, folder: Path
) -> list[dict[str, Any]]:
    """The same for a search of another library, to the same price in whole trainings."""
    study = open_study("random", seed, folder)
    setting, rng = study.setting, np.random.default_rng(seed)
    dimensions = setting.space.dimensions
    choices = {knob: [label(v) for v in each.values] for knob, each in dimensions.items()}
    search, rows, paid = searcher(sampler, choices, seed), list[dict[str, Any]](), 0

    def train(point: Point, units: int, seconds: float) -> tuple[float, float]:
        """What training a point for so many units says of it: loss, logarithm of latency."""
        candidate = setting.candidate(point)
        ms = candidate.costs.scores["latency_ms"]
        true = float(truth([setting.space.labels(candidate.point)])[0])
        told = true + rng.normal(0, truth.noise * np.sqrt(FULL / units))
        row = {"true": true, "told": told, "ms": ms, "ask_seconds": seconds}
        rows.append(row | {"trainings": paid / FULL, "whole": units == FULL})
        return told, float(np.log(ms))

    for point in (*setting.presets().values(), setting.cheapest()):  # as ours begins
        paid += FULL
        train(point, FULL, 0.0)
    while paid < trials * FULL:
        started = time.process_time()
        proposal = search.ask()
        seconds = time.process_time() - started
        try:
            point = setting.space.labelled(proposal.point)
            setting.candidate(point)
        except (InfeasibleError, InvalidPointError, InputError):
            worst = max(row["told"] for row in rows), max(np.log(row["ms"]) for row in rows)
            search.tell(proposal, worst)
            continue
        paid += proposal.units - proposal.paid
        search.tell(proposal, train(point, proposal.units, seconds))
    return rows


def open_study(sampler: str, seed: int, folder: Path) -> Study:
    data = yaml.safe_load(Path("studies/quickstart.yaml").read_text(encoding="utf-8"))
    data |= {"report": []}
    data["search"] = {
        "sampler": {"name": sampler},
        "trials": 10**6,
        "seed": seed,
        "enqueue": ["presets", "cheapest"],
        "repeats": 0.0,
    }
    path = folder / f"{sampler}-{seed}.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return Study(path, folder / f"{sampler}-{seed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--random-trials", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    parser.add_argument("--keep", type=Path, help="Folder of what was simulated, to go on from.")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    truth = Truth()
    samplers = arguments.samplers.split(",")
    kept: dict[str, list[dict[str, Any]]] = {}
    keep = arguments.keep or Path(tempfile.mkdtemp())
    keep.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        for sampler in samplers:
            path = keep / f"{sampler}-{seed}.json"
            if not path.is_file():
                trials = arguments.random_trials if sampler == "random" else arguments.trials
                run = one_elsewhere if sampler.startswith(("neps-", "syne-")) else one
                with tempfile.TemporaryDirectory() as name:
                    rows = run(sampler, seed, trials, truth, Path(name))
                path.write_text(json.dumps(rows), encoding="utf-8")
            kept[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    print(json.dumps(summary(kept, samplers, truth), indent=1))


def summary(
    kept: dict[str, list[dict[str, Any]]], samplers: list[str], truth: Truth
) -> dict[str, Any]:
    best = random_networks(truth)
    known = [(row["true"], np.log(row["ms"])) for rows in kept.values() for row in rows]
    best = np.vstack([best, known])
    low, high = best.min(0), best.max(0)
    corner = np.array([1.1, 1.1])

    def volume(rows: list[dict[str, Any]]) -> float:
        points = [(row["true"], np.log(row["ms"])) for row in rows]
        return hypervolume((np.array(points) - low) / (high - low), corner)

    whole = hypervolume(((best - low) / (high - low))[non_dominated(best)], corner)
    found: dict[str, Any] = {"noise": truth.noise, "shares": {}}
    for sampler in samplers:
        runs = [rows for name, rows in kept.items() if name.rpartition("-")[0] == sampler]
        table: dict[int, dict[str, Any]] = {}
        most = min(rows[-1].get("trainings", len(rows)) for rows in runs)
        for count in range(10, int(most + 1e-9) + 1, 10):
            raw, model, raw_biases = [], [], []
            for rows in runs:
                part = [
                    row for i, row in enumerate(rows, 1) if row.get("trainings", i) <= count + 1e-9
                ]
                ended = [row for row in part if row.get("whole", True)]
                mask = non_dominated([(row["told"], row["ms"]) for row in ended])
                front = [row for row, member in zip(ended, mask, strict=True) if member]
                raw.append(volume(front) / whole if front else 0.0)
                if "believed" in part[-1]:
                    model.append(volume([rows[i] for i in part[-1]["believed"]]) / whole)
                if front:
                    raw_biases.append(statistics.mean(row["told"] - row["true"] for row in front))
            table[count] = {
                "raw": quartiles(raw),
                **({"model": quartiles(model)} if model else {}),
                **({"raw_bias": round(statistics.mean(raw_biases), 4)} if raw_biases else {}),
            }
        asks = [row["ask_seconds"] for rows in runs for row in rows]
        found["shares"][sampler] = table | {"ask_seconds": round(statistics.median(asks), 3)}
    return found


def quartiles(values: list[float]) -> list[float]:
    return [round(float(v), 3) for v in np.quantile(values, [0.25, 0.5, 0.75])]


def random_networks(truth: Truth) -> np.ndarray[Any, Any]:
    """True loss and logarithm of latency of random networks within the limits."""
    with tempfile.TemporaryDirectory() as name:
        setting = open_study("random", 0, Path(name)).setting
    rng, points, costs = random.Random(1), [], []
    for _ in range(RANDOM_NETWORKS):
        point, network = setting.space.draw_valid(rng)
        scores = setting.priced(network).scores
        if scores["params"] <= 4e8:
            points.append({key: label(value) for key, value in point.items()})
            costs.append(np.log(scores["latency_ms"]))
    return np.c_[truth(points), costs]


if __name__ == "__main__":
    main()
