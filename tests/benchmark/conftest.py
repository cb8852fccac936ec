"""A table of the benchmark's form: networks of the quickstart's space with losses that follow from
their knobs, and known noise.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from archsearch import Study
from archsearch.benchmark.record import (
    COLUMNS,
    DESIGN,
    balanced_random,
    join,
    shipped_tables,
    write,
)
from archsearch.benchmark.table import BUDGETS, STUDY, Benchmark, load
from archsearch.files import write_json, write_text
from archsearch.study.setting import Setting
from tests.study.conftest import own_cache  # noqa: F401

NETWORKS = 24
NOISE = 0.002


@pytest.fixture(scope="session")
def setting() -> Setting:
    return Study(STUDY).setting


@pytest.fixture(scope="session")
def shards(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a design of 24 networks; the first four have three seeds."""
    folder = tmp_path_factory.mktemp("shards")
    design = balanced_random(setting, NETWORKS)
    networks = [
        {"digest": each.network.digest, "point": setting.space.labels(each.point)}
        for each in design
    ]
    write_json(folder / DESIGN, {"schema": 1, "space": "quickstart", "networks": networks})
    rng = np.random.default_rng(0)
    for number, candidate in enumerate(design):
        for seed in range(3 if number < 4 else 1):
            rows = []
            for step, budget in enumerate(BUDGETS):
                loss = 0.25 - 0.02 * step + 0.03 * (candidate.point["outer_width"] == 128)
                loss += rng.normal(0, NOISE)
                row = dict.fromkeys(COLUMNS, 1.0) | {
                    "network": number,
                    "digest": candidate.network.digest,
                    "seed": seed,
                    "budget": budget,
                    "kid_effnet": 1.0 if budget == BUDGETS[-1] else None,
                    "machine": "one",
                }
                row |= {name: loss for name in COLUMNS if name.startswith("val_loss")}
                rows.append(row)
            text = pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False)
            write_text(folder / f"{number:03d}-{seed}.csv", text)
    return folder


@pytest.fixture(scope="session")
def file(shards: Path, setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "table.csv"
    write(join(shards, setting, shipped_tables()), path)
    return path


@pytest.fixture(scope="session")
def table(file: Path) -> Benchmark:
    return load(file)


@pytest.fixture
def shipped(file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The table as if it came with the package."""
    monkeypatch.setattr("archsearch.benchmark.table.load", lambda: load(file))
    return file
