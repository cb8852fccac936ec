"""A small study with scores that were told, not trained, and latencies of a made table."""

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import create_trial
from PIL import Image

from archsearch.latency.table import LatencyTable, Whole
from archsearch.study.results import Results
from archsearch.study.trials import _distribution
from tests.study.conftest import own_cache, started, write_small_study, write_small_table

__all__ = ["own_cache"]  # a fixture

LATENCY = {"val_loss": "minimize", "latency_ms": "minimize"}


def told(folder: Path, trials: int, /, **changes: Any) -> Results:
    """A run of so many finished trials: the wider the inner stage, the less loss."""
    study = write_small_study(folder, search={"trials": 40}, report=[], **changes)
    _, results = started(study, folder / "run")
    points = list(results.setting.space.points())
    for number in range(trials):
        candidate = results.setting.candidate(points[(7 * number) % len(points)])
        costs = candidate.costs
        attrs = costs.scores | {"digest": candidate.network.digest, "train_seconds": 2.0}
        if costs.provenance:
            attrs |= {"provenance": costs.provenance, "latency_note": costs.note}
        for name in results.objectives:
            attrs.setdefault(name, 0.5 - candidate.point["inner"] / 1000 + number / 1e4)
        results.trials.study.add_trial(
            create_trial(
                values=[attrs[name] for name in results.objectives],
                params=results.setting.space.labels(candidate.point),
                distributions={
                    name: _distribution(each)
                    for name, each in results.setting.space.dimensions.items()
                },
                user_attrs=attrs,
            )
        )
    return results


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A run of twelve trials to which nothing is lacking: a table with whole networks in it, one of
    which its correction was fitted on; pictures of the front. No test changes it.
    """
    folder = tmp_path_factory.mktemp("whole")
    path = write_small_table(folder, "laptop", ms=2.0)
    table = LatencyTable.load(path)
    lines = [(30.0, 31.0), (40.0, 38.0), (50.0, 50.5), (60.0, 61.0)]
    whole = [
        Whole(config=f"{number:016x}", measured=measured, predicted=predicted)
        for number, (measured, predicted) in enumerate(lines)
    ]
    correction = table.correction.model_copy(update={"fitted_on": [whole[0].config]})
    table.replace(whole=whole, correction=correction).save(path)
    deployment, limits = {"tables": [str(path)]}, {"params": 5e8}
    found = told(folder, 12, objectives=LATENCY, deployment=deployment, limits=limits)
    for member in found.front():
        sheet = found.run.trial(member.number) / "samples.png"
        sheet.parent.mkdir(parents=True)
        Image.new("RGB", (64, 16), (10 * member.number, 0, 0)).save(sheet)
    return found


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A run of two trials, without a table. No test changes it."""
    return told(tmp_path_factory.mktemp("short"), 2)
