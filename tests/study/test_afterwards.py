"""What a run knows of its networks in few steps and with adapters: its figures are the store's, a
picture costs what its passes cost, and orders are compared the right way round.
"""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from archsearch import Study, few_steps
from archsearch.errors import InputError
from archsearch.study.derived import Derived
from archsearch.study.spec import quality_axis
from tests.report.conftest import (
    ADAPTED,
    DISTILLED,
    STEPS,
    made_up_loss,
    small_study,
    tell_after,
    tell_trials,
    told_quality,
)

PARTS = {"steps": 8, "text_encoder": "clip-vit-l-14-text", "decoder": "taesd-decoder"}


def told(folder: Path, count: int = 8, **changes: Any) -> Study:
    study = small_study(folder, **changes)
    tell_trials(study, count, made_up_loss)
    return Study.open(study.folder)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = told(tmp_path_factory.mktemp("after"))
    tell_after(study)
    return study


def after(study: Study) -> dict[str, Any]:
    found = study.after_search()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def found(study: Study) -> dict[str, Any]:
    return after(study)


def test_a_run_to_which_nothing_was_done_says_nothing(tmp_path: Path) -> None:
    assert told(tmp_path, 2).after_search() is None


def test_every_network_stands_there_in_every_number_of_steps_that_it_was_scored_in(
    study: Study, found: dict[str, Any]
) -> None:
    shown, rows = study.results.shown(), found["steps"]
    by_network = {name: list(of) for name, of in groupby(rows, key=lambda row: row["network"])}
    assert by_network.keys() == {trial.name for trial in shown}
    for place, trial in enumerate(shown):
        plain = [row for row in by_network[trial.name] if row["how"] == "undistilled"]
        assert {row["steps"]: row["scores"] for row in plain} == {
            n: {"kid_effnet": told_quality(place, n)} for n in STEPS
        }
        distilled = [row for row in by_network[trial.name] if row["how"] == "distilled"]
        assert [(row["steps"], row["error"]) for row in distilled] == [(8, 0.08), (4, 0.04)]
        value = told_quality(place, 8, distilled=True)
        assert [row["scores"] for row in distilled] == [{"kid_effnet": value}, {}]


def test_a_picture_costs_two_passes_a_step_under_guidance_and_one_where_it_was_distilled(
    study: Study, found: dict[str, Any]
) -> None:
    latency = {trial.number: trial.known["latency_ms"] for trial in study.results.complete()}
    for row in found["steps"]:
        assert row["passes"] == row["steps"] * (2 if row["how"] == "undistilled" else 1)
        assert (row["cost_of"], row["cost"]) == (
            "pipeline_unet_ms",
            pytest.approx(row["passes"] * latency[row["trial"]]),
        )


def test_text_encoder_and_decoder_count_once_where_the_study_names_them(tmp_path: Path) -> None:
    study = told(tmp_path, 2, deployment_pipeline=PARTS)
    tell_after(study)
    (device,) = study.setting.devices
    assert device.parts_ms
    known = {trial.number: trial.known for trial in study.results.complete()}
    for row in after(study)["steps"]:
        scores = known[row["trial"]]
        expected = device.parts_ms + row["passes"] * scores["latency_ms"]
        assert (row["cost_of"], row["cost"]) == ("pipeline_ms", pytest.approx(expected))
        if row["passes"] == 8:  # what the study itself counts
            assert row["cost"] == pytest.approx(scores["pipeline_ms"])


def test_without_a_latency_table_the_macs_of_all_passes_count(tmp_path: Path) -> None:
    deployment = {
        "deployment_tables": [],
        "objectives": {"val_loss": "minimize", "macs": "minimize"},
    }
    study = small_study(tmp_path, **deployment)
    study.tell(study.ask(), {"val_loss": 0.3})
    study = Study.open(study.folder)
    tell_after(study)
    macs = {trial.number: trial.known["macs"] for trial in study.results.complete()}
    for row in after(study)["steps"]:
        assert (row["cost_of"], row["cost"]) == ("macs", row["passes"] * macs[row["trial"]])


def test_orders_are_compared_by_what_is_believed_each_score_its_own_way_round(
    study: Study, found: dict[str, Any]
) -> None:
    shown = study.results.shown()
    orders = {(row["how"], row["steps"], row["score"]): row for row in found["orders"]}
    quality = quality_axis(study.spec.objectives)
    assert quality == found["quality"] == "val_loss"
    # Believed losses of this front fall with its latency, as what was told does.
    believed = [trial.believed[quality][0] for trial in shown]
    assert len(shown) >= 3
    same = believed == sorted(believed, reverse=True)
    for steps in STEPS:
        row = orders["undistilled", steps, "kid_effnet"]
        assert row["networks"] == len(shown)
        assert row["low"] <= row["tau"] <= row["high"]
        assert (row["tau"] == pytest.approx(1)) == same
        assert row["tau"] == pytest.approx(-orders["distilled", 8, "kid_effnet"]["tau"])
    assert orders["LoRA", None, "val_loss"]["networks"] == len(shown)
    assert ("distilled", 4, "kid_effnet") not in orders  # nobody has scored it
    assert ("distilled", 4, "error") not in orders  # equal for all: no order


def test_adapters_stand_there_by_network(study: Study, found: dict[str, Any]) -> None:
    rows = found["adapters"]
    assert {row["network"] for row in rows} == {t.name for t in study.results.shown()}
    assert {(row["how"], row["val_loss_without"], row["params"]) for row in rows} == {
        ("LoRA", 0.5, 1234)
    }


def test_steps_that_the_search_itself_tries_are_not_scored_afterwards(tmp_path: Path) -> None:
    objectives = {"kid_effnet": "minimize", "pipeline_unet_ms": "minimize"}
    changes = {"sampling": {"steps": [2, 4]}, "deployment_pipeline": {}}
    study = small_study(tmp_path, objectives=objectives, **changes)
    study.tell(study.ask(), {"kid_effnet": 1.0})
    with pytest.raises(InputError, match="--steps: in 2, 4 the study draws anyway"):
        few_steps(study.folder, [4, 2])


def test_what_was_made_in_two_ways_has_two_names(tmp_path: Path) -> None:
    study = told(tmp_path, 2)
    (trial, *_) = study.results.shown()
    keep: Callable[..., Derived] = study.store.derived.keep
    for rate in (0.0003, 0.0001):
        rows = [{"steps": 8, "error": rate}]
        settings = DISTILLED | {"learning_rate": rate}
        keep(trial.key, trial.budget, "distill", settings, rows)
    keep(trial.key, trial.budget, "adapt", ADAPTED, [{"val_loss": 0.4, "val_loss_without": 0.5}])
    for changes in ({"data": "aaaa"}, {"data": "bbbb"}, {"device": "cuda"}):
        rows = [{"val_loss": 0.4, "val_loss_without": 0.5}]
        keep(trial.key, trial.budget, "adapt", ADAPTED | {"method": "control"} | changes, rows)
    found = after(study)
    controlled = {row["how"] for row in found["adapters"] if row["how"] != "LoRA"}
    assert controlled == {f"control by edges {number}" for number in (1, 2, 3)}
    assert {row["how"] for row in found["steps"]} == {"distilled 1", "distilled 2"}
    told_of = {each["how"]: each["settings"] for each in found["settings"]}
    errors = {row["how"]: row["error"] for row in found["steps"]}
    for how, error in errors.items():
        assert f"learning rate {error:g}" in told_of[how]
    assert "of rank 8" in told_of["LoRA"]
