"""Several devices in one study, a reference, a pipeline, and figures that are no measurements."""

import json
from pathlib import Path
from typing import Any

import pytest

from archsearch.catalog import trial_network
from archsearch.errors import ArchsearchError, InputError
from archsearch.study import proposals
from archsearch.study.check import check_feasibility, estimated_units
from archsearch.study.notes import notes_of
from archsearch.study.results import sentence
from archsearch.study.rundir import open_run
from archsearch.study.setting import InfeasibleError, Setting, load_setting
from archsearch.study.spec import is_marked
from archsearch.study.worker import Worker

from .conftest import PARTS, SPACE, WriteStudy, WriteTable, outcomes, started

ROOT = Path(__file__).parents[2]
PHONE = ROOT / "latency_tables" / "iphone-15-pro.published.json"
PIPELINE = {"steps": 4, "text_encoder": "clip-vit-l-14-text", "decoder": "taesd-decoder"}


@pytest.fixture
def load(write_study: WriteStudy) -> Any:
    """Load the small study with another ``deployment``: ``load(tables=[...], limits={...})``."""

    def load(
        objectives: dict[str, str] | None = None,
        limits: dict[str, float] | None = None,
        **deployment: Any,
    ) -> Setting:
        found = objectives or {"val_loss": "minimize", "latency_ms": "minimize"}
        return load_setting(
            write_study(objectives=found, report=[], limits=limits or {}, deployment=deployment)
        )

    return load


def test_tables_by_device_are_objectives_of_their_own(load: Any, write_table: WriteTable) -> None:
    fast, slow = write_table("fast", ms=1.0), write_table("slow", ms=3.0)
    setting = load(
        {"val_loss": "minimize", "latency_ms[fast]": "minimize"},
        tables={"fast": str(fast), "slow": str(slow)},
    )
    costs = setting.priced(setting.space.base).scores
    assert costs["latency_ms[slow]"] == pytest.approx(3 * costs["latency_ms[fast]"])
    assert costs["latency_ms"] == costs["latency_ms[slow]"]


def test_one_table_of_a_list_goes_by_its_own_name(load: Any, write_table: WriteTable) -> None:
    score = "latency_ms[fast]"
    setting = load(
        {"val_loss": "minimize", score: "minimize"},
        {score: 1000.0},
        tables=[str(write_table("fast"))],
    )
    costs = setting.priced(setting.space.base).scores
    assert costs[score] == costs["latency_ms"]
    tight = load(
        {"val_loss": "minimize", score: "minimize"},
        {score: costs[score] / 2},
        tables=[str(write_table("fast"))],
    )
    point = tight.space.locate(tight.space.base)
    assert point
    with pytest.raises(InfeasibleError) as raised:
        tight.candidate(point)
    assert str(raised.value) == f"{score} {costs[score]:,.6g} > {costs[score] / 2:,.6g}"
    assert raised.value.broken == [f"limits.{score}"]


def test_a_table_of_another_device_than_the_study_names_is_refused(
    load: Any, write_table: WriteTable
) -> None:
    path = write_table("fast")
    with pytest.raises(
        InputError,
        match=r"deployment.tables.slow: .*fast.json is a table of another device .*'fast'.*'slow'",
    ):
        load(tables={"slow": str(path)})


def test_a_score_of_a_device_that_is_not_there_is_refused(
    load: Any, write_table: WriteTable
) -> None:
    with pytest.raises(
        InputError,
        match=r"'latency_ms\[fats\]' is of no table of the study\. Did you mean 'fast'\?",
    ):
        load(
            {"val_loss": "minimize", "latency_ms[fats]": "minimize"},
            tables={"fast": str(write_table("fast"))},
        )
    with pytest.raises(
        InputError,
        match=r"deployment.tables is empty, but latency_ms\[fast\] needs a latency table",
    ):
        load({"val_loss": "minimize", "latency_ms[fast]": "minimize"})


def test_two_tables_of_one_name_stay_two(
    load: Any, write_table: WriteTable, tmp_path: Path
) -> None:
    one, two = write_table("laptop", ms=1.0), write_table("laptop", ms=2.0, folder="elsewhere")
    setting = load(tables=[str(one), str(two)])
    run = open_run(tmp_path / "run", setting)
    assert {path.name for path in (run.path / "tables").iterdir()} == {
        "laptop.json",
        "laptop-2.json",
    }
    kept, config = run.setting(), setting.space.base
    assert kept.priced(config).scores == setting.priced(config).scores
    assert (
        kept.priced(config).scores["latency_ms[laptop-2]"]
        == 2 * kept.priced(config).scores["latency_ms[laptop]"]
    )
    open_run(tmp_path / "run", setting)


def test_the_ratio_is_that_of_the_worst_device(
    load: Any, write_table: WriteTable, tmp_path: Path
) -> None:
    (tmp_path / "old.json").write_text(json.dumps(SPACE["base"]))
    tables = {name: str(write_table(name, ms=ms)) for name, ms in (("fast", 1.0), ("slow", 3.0))}
    setting = load(
        {"val_loss": "minimize", "latency_ratio": "minimize"}, tables=tables, reference="old.json"
    )
    largest = max(
        setting.space.points(),
        key=lambda point: setting.priced(setting.space.build(point)).scores["latency_ms"],
    )
    costs, base = (
        setting.priced(setting.space.build(largest)).scores,
        setting.priced(setting.space.base).scores,
    )
    assert base["latency_ratio"] == 1.0
    assert costs["latency_ratio"] == pytest.approx(
        costs["latency_ms[slow]"] / base["latency_ms[slow]"]
    )
    kept = open_run(tmp_path / "run", setting).setting()  # from its own copy of the reference
    (tmp_path / "old.json").unlink()
    assert kept.priced(setting.space.build(largest)).scores == costs


def test_a_ratio_to_nothing_is_refused(load: Any, write_table: WriteTable) -> None:
    tables = [str(write_table("fast"))]
    with pytest.raises(InputError, match=r"latency_ratio needs deployment.reference"):
        load({"latency_ratio": "minimize"}, tables=tables)
    with pytest.raises(
        InputError, match=r"deployment.reference: 'nowhere.json' is neither a preset"
    ):
        load(tables=tables, reference="nowhere.json")
    with pytest.raises(
        InputError,
        match=r"deployment.reference: sd15 in .*fast.json: .* lacks \d+ of the network's units",
    ):
        load(tables=tables, reference="sd15")


@pytest.mark.parametrize(("guidance", "passes"), [("none", 4), ("plain", 8)])
def test_a_pipeline_is_its_parts_and_every_pass(
    load: Any, write_table: WriteTable, guidance: str, passes: int
) -> None:
    tables = {name: str(write_table(name, ms=ms)) for name, ms in (("fast", 1.0), ("slow", 3.0))}
    setting = load(
        {"val_loss": "minimize", "pipeline_ms": "minimize"},
        tables=tables,
        pipeline=PIPELINE | {"guidance": guidance},
    )
    costs = setting.priced(setting.space.base).scores
    assert costs["pipeline_unet_ms"] == pytest.approx(passes * costs["latency_ms"])
    assert costs["pipeline_ms"] == pytest.approx(
        sum(PARTS.values()) + passes * costs["latency_ms[slow]"]
    )


@pytest.mark.parametrize(
    ("pipeline", "told"),
    [
        ({}, "pipeline_ms needs deployment.pipeline.text_encoder and deployment.pipeline.decoder"),
        ({"decoder": "taesd-decoder"}, "deployment.pipeline: text_encoder is missing"),
        (PIPELINE | {"decoder": "clip-vit-l-14-text"}, "deployment.pipeline.decoder: "
                                                       "'clip-vit-l-14-text' is not a known "
                                                       "decoder"),
        (PIPELINE | {"guidance": "twice"}, "pipeline.guidance: must be 'none' or 'plain'"),
        (PIPELINE | {"decoder": "sd-vae-decoder"}, "has no part 'sd-vae-decoder', it has "
                                                   "clip-vit-l-14-text, taesd-decoder. Measure"
         " it with: archsearch latency measure --part sd-vae-decoder"),
    ],
)  # fmt: skip
def test_a_pipeline_that_is_not_known_is_refused(
    load: Any, write_table: WriteTable, pipeline: dict[str, str], told: str
) -> None:
    with pytest.raises(InputError) as raised:
        load(
            {"val_loss": "minimize", "pipeline_ms": "minimize"},
            tables=[str(write_table("fast"))],
            pipeline=pipeline,
        )
    assert told in str(raised.value)


def test_missing_units_are_estimated_only_where_it_is_asked_for(
    load: Any, write_table: WriteTable
) -> None:
    gappy = str(write_table("gappy", leave_out=3))
    with pytest.raises(
        InputError,
        match=r"has no entry for 3 units of space 'small'.*deployment.on_missing: predict",
    ):
        check_feasibility(load(tables=[gappy]), draws=50)
    setting = load(tables=[gappy], on_missing="predict")
    check_feasibility(setting, draws=50)
    ((lacking, units),) = estimated_units(setting).values()
    assert (lacking, units > 3) == (3, True)
    notes = {setting.priced(setting.space.build(point)).note for point in setting.space.points()}
    assert "gappy: 1 of its units estimated" in notes


def test_an_estimate_is_marked_in_every_file_of_a_run(
    write_study: WriteStudy, write_table: WriteTable, tmp_path: Path, small_data: None
) -> None:
    path = write_study(
        objectives={"val_loss": "minimize", "latency_ms": "minimize"},
        report=[],
        deployment={
            "tables": [str(write_table("gappy", leave_out=9))],
            "on_missing": "predict",
        },
    )
    run, results = started(path, tmp_path / "run")
    Worker(run, 2).work()
    results.write()
    for trial in results.complete():
        costs = run.setting().priced(trial_network(run.path, trial.number))
        assert costs.note.startswith("gappy: ")
        assert (trial.note, trial.provenance) == (costs.note, costs.provenance)
        assert results.metrics_of(trial.number)["latency_note"] == costs.note
    assert "latency_note" in (run.path / "trials.csv").read_text().splitlines()[0]
    assert "units estimated" in (run.path / "pareto.csv").read_text()
    assert all(
        "estimated" in entry["latency_note"]
        for entry in json.loads((run.path / "pareto.json").read_text())["front"]
    )


@pytest.mark.parametrize(
    ("score", "marked"),
    [
        ("latency_ms", True),
        ("pipeline_ms", True),
        ("latency_ms[phone]", True),
        ("latency_ms[laptop]", False),
        ("macs", False),
        ("val_loss", False),
        ("no score", False),
    ],
)
def test_what_rests_on_an_estimate_is_marked_device_by_device(score: str, marked: bool) -> None:
    assert is_marked(score, {"phone": "published estimate"}) == marked
    assert not is_marked(score, {})


def test_an_answer_says_when_its_costs_are_estimates() -> None:
    answer = {
        "preset": "lite",
        "cost": "latency_ms",
        "quality": "val_loss",
        "rival_trial": 3,
        "rival_cost": 1.0,
        "preset_cost": 2.0,
        "rival_mean": 0.2,
        "preset_mean": 0.3,
        "gain": 0.1,
        "gain_low": 0.05,
        "gain_high": 0.15,
        "probability": 0.999,
        "margin": 0.003,
        "as_good_trial": None,
        "cost_notes": ["phone: published estimate"],
    }
    assert "(≈ costs: phone: published estimate)" in sentence(answer)
    assert "≈" not in sentence(answer | {"cost_notes": []})


def test_a_published_table_prices_its_own_family_and_rejects_the_others(
    tmp_path: Path, write_study: WriteStudy
) -> None:
    path = write_study(
        space="quickstart",
        objectives={"val_loss": "minimize", "pipeline_ms": "minimize"},
        report=[],
        deployment={"tables": {"iphone-15-pro": str(PHONE)}, "pipeline": PIPELINE},
    )
    setting = load_setting(path)
    found = check_feasibility(setting, draws=60)
    costs = setting.priced(found.examples[0])
    assert costs.note == "iphone-15-pro: published estimate"
    assert costs.scores["pipeline_ms"] == pytest.approx(4 + 92 + 4 * costs.scores["latency_ms"])
    assert setting.priced(setting.space.build(setting.cheapest())).scores["latency_ms"] > 0


def test_a_candidate_outside_a_published_family_is_infeasible(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_data: None
) -> None:
    monkeypatch.setattr(proposals, "MAX_REJECTIONS", 3)
    path = write_study(
        objectives={"val_loss": "minimize", "latency_ms": "minimize"},
        report=[],
        deployment={"tables": [str(PHONE)]},
    )
    with pytest.raises(
        InputError,
        match=r"none of .* has a latency.*published figures of the MobileDiffusion family only",
    ):
        check_feasibility(load_setting(path), draws=5)
    run, results = started(path, tmp_path / "run")
    with pytest.raises(ArchsearchError, match="the last 3 candidates"):
        Worker(run, 1).work()
    assert outcomes(results) == ["infeasible: outside the published family"]
    assert "MobileDiffusion family only" in notes_of(results.trials.all()[0])["reason"]
