"""The recorded table: what it answers, what it estimates, what it refuses."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import archsearch
from archsearch import Study
from archsearch.benchmark.record import join, shipped_tables, write
from archsearch.benchmark.table import BUDGETS, Benchmark, load
from archsearch.errors import InputError
from archsearch.study.setting import Setting
from tools.site import code_blocks

from .conftest import NETWORKS, NOISE


def test_every_network_has_its_costs_and_knobs(table: Benchmark, setting: Setting) -> None:
    assert len(table.networks) == NETWORKS
    for digest, row in table.networks.iterrows():
        network = setting.space.build(setting.space.point(dict(table.designs[str(digest)].point)))
        assert network.digest == digest
        costs = setting.priced(network).scores
        assert row["params"] == costs["params"]
        assert row["latency_ms.cpu-onnxruntime-fp32"] == pytest.approx(
            costs["latency_ms"], abs=1e-3
        )


def test_scores_are_looked_up_by_network_budget_and_seed(
    table: Benchmark, setting: Setting
) -> None:
    row = table.rows.iloc[0]
    scores = table.look_up(row["digest"], int(row["budget"]), int(row["seed"]))
    assert scores["val_loss"] == row["val_loss"]
    assert "kid_effnet" not in scores
    assert "kid_effnet" in table.look_up(row["digest"])
    assert table.seeds(row["digest"]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("digest", "budget", "seed", "words"),
    [
        ("0123456789abcdef", 1080, 0, "none of the 24 .*evaluator: surrogate"),
        (None, 7, 0, "not recorded after 7 pictures, but after 540, 1,080, 2,160, 4,320"),
        (None, 1080, 9, "not recorded with seed 9; it has 0, 1, 2"),
    ],
)
def test_what_is_not_recorded_is_named(
    table: Benchmark, digest: str | None, budget: int, seed: int, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        table.look_up(digest or str(table.networks.index[0]), budget, seed)


def test_another_network_is_estimated_only_when_asked_for(
    table: Benchmark, setting: Setting
) -> None:
    other = next(n for n in setting.space.sample(50, 7) if n.digest not in table.networks.index)
    with pytest.raises(InputError, match="none of the 24"):
        table.answer(other, BUDGETS[-1])
    answer = table.answer(other, BUDGETS[-1], estimated=True)
    assert answer.is_estimated
    assert answer.deviation["val_loss"] > 0
    assert 0.15 < answer.scores["val_loss"] < 0.25
    known = setting.space.build(setting.space.point(dict(next(iter(table.designs.values())).point)))
    assert not table.answer(known, BUDGETS[-1], estimated=True).is_estimated


def test_estimates_of_networks_that_were_left_out_are_as_good_as_they_say(
    table: Benchmark,
) -> None:
    found = table.left_out()
    assert found["networks"] == NETWORKS
    assert found["rmse"] < 0.012  # of 0.03 between the widths
    assert found["noise"] == pytest.approx(NOISE, rel=0.6)
    assert found["within"] > 0.8


def test_a_network_outside_the_space_has_no_estimate(table: Benchmark) -> None:
    from archsearch.unet.presets import preset

    with pytest.raises(InputError, match="does not lie in space 'quickstart'"):
        table.estimate([preset("sd15")])


def test_files_of_another_form_are_refused(file: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(file)
    path = tmp_path / "table.csv"
    for broken, words in (
        (rows.assign(schema=2), r"schema \{2\}; this version reads schema 1"),
        (rows.drop(columns="val_loss"), "lacks the columns val_loss"),
        (rows[:0], "has no rows"),
    ):
        broken.to_csv(path, index=False)
        with pytest.raises(InputError, match=words):
            load(path)
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "none.csv")


def test_the_same_shards_give_the_same_table(
    shards: Path, setting: Setting, file: Path, tmp_path: Path
) -> None:
    write(join(shards, setting, shipped_tables()), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == file.read_bytes()


def test_a_study_searches_the_table(shipped: Path, tmp_path: Path) -> None:
    changes = {
        "evaluator": "surrogate",
        "search.trials": 12,
        "search.sampler": {"name": "random"},
        "proxy.samples": 4320,
    }
    study = Study("benchmark", tmp_path / "run", changes)
    front = study.run()
    trials = study.trials()
    assert len(front) > 0
    assert len(trials) == 12
    assert trials["estimated"].any()
    assert list(tmp_path.glob("run/weights/*")) == []
    again = Study("benchmark", tmp_path / "run", changes)
    assert len(again.run()) == len(front)


def test_a_network_that_is_not_recorded_ends_the_run(shipped: Path, tmp_path: Path) -> None:
    study = Study("benchmark", tmp_path / "run", {"evaluator": "table", "search.trials": 12})
    with pytest.raises(InputError, match="none of the 24"):
        study.run()
    assert len(study.trials()) >= 1  # the preset is recorded


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"proxy.width": 0.125}, "proxy.width: .* recorded with 0.1, but the study says 0.125"),
        ({"space": "mobilediffusion"}, "space 'mobilediffusion': .* is of space 'quickstart'"),
        ({"proxy.samples": 999}, "proxy.samples: .* the study says 999"),
    ],
)
def test_a_study_of_other_networks_is_refused(
    shipped: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    study = Study("benchmark", tmp_path / "run", {"evaluator": "table", **changes})
    with pytest.raises(InputError, match=words):
        study.run()


def test_the_python_of_the_page_runs(table: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "benchmark.md"
    monkeypatch.setattr(archsearch.benchmark, "load", lambda: table)
    known: dict[str, Any] = {}
    blocks = [
        b.text for b in code_blocks(page.read_text(encoding="utf-8")) if b.language == "python"
    ]
    for block in blocks:
        exec(block, known)
    chosen = {name: space.choices[0] for name, space in known["search_space"].items()}
    loss, latency = known["evaluate"](chosen)
    assert 0.1 < loss < 0.4
    assert latency > 0


def test_rungs_do_not_go_with_a_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rungs\.count is 2, but evaluator is table"):
        Study("benchmark", tmp_path, {"evaluator": "table", "search.rungs.count": 2})
