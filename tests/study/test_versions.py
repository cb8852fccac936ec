"""A run is not taken up with code that would compute its objectives differently."""

import json
from pathlib import Path

import pytest

from archsearch import versions
from archsearch.errors import InputError
from archsearch.study.rundir import open_run
from archsearch.study.setting import load_setting

from .conftest import WriteStudy


def test_only_what_an_objective_rests_on_counts(write_study: WriteStudy) -> None:
    of_loss = load_setting(write_study()).versions()
    assert of_loss.keys() == {"training", "the held-out loss"}
    objectives = {"kid_effnet": "minimize", "val_loss_int8": "minimize", "macs": "minimize"}
    of_pictures = load_setting(write_study(objectives=objectives)).versions()
    assert of_pictures.keys() == {
        "training",
        "the held-out loss",
        "sampling",
        "prompts",
        "kid_effnet",
        "val_loss_int8",
    }
    counted = {"params": "minimize", "macs": "minimize"}
    assert load_setting(write_study(objectives=counted)).versions() == {}


def test_a_run_of_another_version_is_refused_and_the_version_named(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = load_setting(write_study())
    run = open_run(tmp_path / "run", setting)
    open_run(run.path, setting)
    began_with = versions.EVALUATION
    monkeypatch.setattr(versions, "EVALUATION", began_with + 1)
    differs = rf"the version of the held-out loss \({began_with} → {began_with + 1}\)\. Give"
    with pytest.raises(InputError, match=differs):
        open_run(run.path, setting)


def test_a_run_of_another_schema_is_refused(write_study: WriteStudy, tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", load_setting(write_study()))
    path = run.path / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 1}))
    with pytest.raises(
        InputError, match=r"another version of archsearch \(schema 1; this one has 3"
    ):
        run.setting()
