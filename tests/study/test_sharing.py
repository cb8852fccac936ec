"""What one asks for and another has trained is not trained again."""

from pathlib import Path
from typing import Any

import pytest

from archsearch.api import Study
from archsearch.study import setting as setting_module
from archsearch.study.setting import load_setting

from .conftest import Sitting, WriteStudy

pytestmark = pytest.mark.usefixtures("small_data", "in_process")


@pytest.fixture
def search(write_study: WriteStudy, tmp_path: Path) -> Any:
    """Open the small study, some keys changed, in one folder."""

    def search(**changes: Any) -> Study:
        return Study(write_study(report=[], **changes), tmp_path / "run")

    return search


def trained(study: Study, sittings: list[Sitting]) -> int:
    """How many trainings there were: as many as there are records, none of them twice."""
    assert len(sittings) == len(study.records())
    return len(sittings)


def test_a_run_that_is_run_again_trains_nothing(search: Any, sittings: list[Sitting]) -> None:
    front = search().run(workers=1)
    before = trained(search(), sittings)
    assert before >= 3
    assert search().run(workers=1).equals(front)
    assert trained(search(), sittings) == before


def test_an_ablation_and_a_validation_train_only_what_a_run_has_not(
    search: Any, sittings: list[Sitting], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_setting(search().setting.document.path).space.base
    monkeypatch.setattr(setting_module, "PRESETS", {"base": lambda: base})
    study = search(search={"trials": 3, "enqueue": "presets", "confirm_seeds": 2})
    study.run(workers=1)
    of_run = trained(study, sittings)

    effects = study.ablate(networks=4, workers=1)
    assert len(effects["effects"]) == 6
    of_ablation = trained(study, sittings)
    assert of_ablation < of_run + 4 + 1  # the preset was there

    found = study.validate(networks=4, seeds=1, budgets=(1, 2), workers=1)
    assert found["trainings"] == {1: 4, 2: 4}
    of_validation = trained(study, sittings)
    assert of_validation <= of_ablation + 2 * 4
    assert all(sitting.began == 32 for sitting in sittings if sitting.goal == 64)

    study.train(base)
    assert trained(study, sittings) == of_validation
    again = study.ablate(networks=4, workers=1)
    assert again["trainings"] == effects["trainings"]
    assert study.validate(networks=4, seeds=1, budgets=(1, 2), workers=1) == found
    study.run(workers=1)
    assert trained(study, sittings) == of_validation


def test_a_search_uses_what_an_ablation_has_trained(search: Any, sittings: list[Sitting]) -> None:
    study = search(search={"trials": 2, "enqueue": "none", "confirm_seeds": 1})
    study.ablate(networks=27, workers=1)  # the whole space
    before = trained(study, sittings)
    assert before == 27 + 27 // 4
    study.run(workers=1)
    assert trained(study, sittings) == before
    assert list(study.trials()["from_store"]) == [True, True]


def test_a_training_shares_a_folder_with_a_search(search: Any, sittings: list[Sitting]) -> None:
    study = search()
    study.run(workers=1)
    before = trained(study, sittings)
    network = study.pick("best-quality")
    scores = study.train(network)
    assert trained(study, sittings) == before
    best = study.results.pick("best-quality")
    assert scores["val_loss"] == best.scores["val_loss"]
    longer = study.train(network, samples=64)
    assert longer["samples"] == 64
    assert sittings[-1] == Sitting(study.setting.proxy(network).digest, 32, 64)
    assert list(study.front()["val_loss"])  # a longer training is no trial
    assert best.scores["val_loss"] in list(study.front()["val_loss"])


def test_a_confirmed_front_is_the_noise_of_an_ablation(
    search: Any, sittings: list[Sitting]
) -> None:
    """Further seeds of one network are the same trainings, whoever asks."""
    study = search(search={"trials": 1, "confirm_seeds": 2})
    study.run(workers=1)
    assert trained(study, sittings) == 2
    network = study.pick("knee")
    for seed in (0, 1):
        assert study.store.score(network, seed=seed).from_store
    assert trained(study, sittings) == 2
