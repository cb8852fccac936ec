"""Which model of the scores predicts a training best that it has not seen: ours, or the Gaussian
process of scikit-learn, with and without what is known of sizes.

By the leave-one-out log-likelihood of recorded trainings, in nats a training: each is predicted by
the model fitted to all the others (scikit-learn's is fitted anew each time, ours too). Higher is
better; 0.1 nats are about a tenth more density where the training ended.

Recorded: ``recorded/quickstart_540.csv``, random networks of the space ``quickstart``, with the
quickstart's settings and a quarter of its pictures, one seed each.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

import archsearch
from archsearch.study.surrogate import Design, Measurement, Surrogate

RECORDED = Path(__file__).parent / "recorded" / "quickstart_540.csv"
BUDGET = 540
Predict = Callable[[list[Measurement], Measurement], tuple[float, float]]
"""Mean and variance of a training, given others."""


def read(path: Path = RECORDED) -> list[Measurement]:
    """The recorded trainings."""
    found = []
    for index, row in enumerate(pd.read_csv(path, keep_default_na=False).to_dict("records")):
        point = {
            name: value
            for name, value in row.items()
            if name not in ("params", "macs", "latency_ms", "val_loss") and value != ""
        }
        design = Design(point, row["params"], row["macs"], str(index))
        found.append(Measurement(design, float(row["val_loss"]), BUDGET, str(index)))
    return found


def ours(known: list[Measurement], asked: Measurement) -> tuple[float, float]:
    space = archsearch.space("quickstart")
    model = Surrogate(space.dimensions, known, BUDGET)
    believed = model.posterior([asked.design])
    return float(believed.mean[0]), float(believed.covariance[0, 0]) + model.deviations()[
        "noise"
    ] ** 2


def columns(measured: list[Measurement], sizes: bool = True) -> np.ndarray[Any, Any]:
    """Knobs one-hot, and logarithms of sizes."""
    frame = pd.DataFrame([{k: str(v) for k, v in m.design.point.items()} for m in measured])
    table = pd.get_dummies(frame, dtype=float) / math.sqrt(2)
    if sizes:
        for name in ("params", "macs"):
            logs = np.log([getattr(m.design, name) for m in measured])
            table[name] = (logs - logs.mean()) / logs.std()
    return table.to_numpy()


def process(linear: bool, sizes: bool) -> Predict:
    def predict(known: list[Measurement], asked: Measurement) -> tuple[float, float]:
        table = columns([*known, asked], sizes)
        values = np.array([m.value for m in known])
        mean, spread = values.mean(), values.std()
        kernel = ConstantKernel(1.0) * Matern(length_scale=2.0, nu=2.5) + WhiteKernel(0.1)
        if linear:
            kernel = ConstantKernel(0.1) * DotProduct(sigma_0_bounds="fixed") + kernel
        model = GaussianProcessRegressor(kernel, n_restarts_optimizer=2, random_state=0)
        model.fit(table[:-1], (values - mean) / spread)
        found, deviation = model.predict(table[-1:], return_std=True)
        return float(mean + spread * found[0]), float((spread * deviation[0]) ** 2)

    return predict


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    measured = read()
    models: dict[str, Predict] = {
        "ours": ours,
        "scikit-learn, Matérn": process(linear=False, sizes=True),
        "scikit-learn, Matérn without sizes": process(linear=False, sizes=False),
        "scikit-learn, linear and Matérn": process(linear=True, sizes=True),
    }
    found = {}
    densities: dict[str, list[float]] = {}
    for name, predict in models.items():
        started, errors = time.process_time(), []
        densities[name] = []
        for index, asked in enumerate(measured):
            mean, variance = predict(measured[:index] + measured[index + 1 :], asked)
            error = asked.value - mean
            errors.append(error)
            densities[name].append(
                -math.log(2 * math.pi * variance) / 2 - error**2 / (2 * variance)
            )
        apart = [a - b for a, b in zip(densities[name], densities["ours"], strict=True)]
        found[name] = {
            "log_likelihood_a_training": round(statistics.mean(densities[name]), 3),
            "behind_ours": round(-statistics.mean(apart), 3),
            "behind_ours_standard_error": round(
                statistics.stdev(apart) / len(apart) ** 0.5 if any(apart) else 0.0, 3
            ),
            "root_mean_square_error": round(math.sqrt(np.mean(np.square(errors))), 4),
            "seconds_a_fit": round((time.process_time() - started) / len(measured), 3),
        }
    print(json.dumps({"trainings": len(measured), "models": found}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
