"""What a sampler proposes twice is asked for once."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from archsearch.study import repeats, results, trials
from archsearch.study import setting as setting_module
from archsearch.study.setting import load_setting
from archsearch.study.worker import Worker

from .conftest import WriteStudy, started

NSGA2 = {"name": "nsga2", "population_size": 2}


pytestmark = pytest.mark.usefixtures("small_data")


def outcomes(study: optuna.Study) -> list[str]:
    return [trials.outcome(trial) for trial in study.get_trials()]


def test_every_trial_that_counts_is_another_network(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    run, study = started(
        write_study(search={"sampler": NSGA2, "trials": 12, "seed": 1}), tmp_path / "run"
    )
    Worker(run, 12).work()
    finished = results.complete(study)
    assert len({trial.user_attrs["digest"] for trial in finished}) == len(finished) == 12
    again = [trial for trial in study.get_trials() if trials.outcome(trial) == repeats.OUTCOME]
    assert again  # else this test says nothing
    first = {trial.number: trial.user_attrs["digest"] for trial in finished}
    for trial in again:
        assert trial.user_attrs["reason"].split()[:2] == [
            "trial",
            str(_number_of(first, trial.user_attrs["digest"])),
        ]


def _number_of(digests: dict[int, str], wanted: str) -> int:
    return next(number for number, digest in digests.items() if digest == wanted)


def test_a_space_that_is_searched_through_ends_the_study_all_the_same(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "PATIENCE", 3)
    setting = load_setting(write_study())
    costs = sorted(
        setting.costs(setting.space.build(point))["params"] for point in setting.space.points()
    )
    run, study = started(
        write_study(limits={"params": costs[1]}, search={"trials": 5}), tmp_path / "run"
    )
    Worker(run, 5).work()
    finished = results.complete(study)
    assert len(finished) == 5
    assert len({trial.user_attrs["digest"] for trial in finished}) == 2
    assert [trial.user_attrs["from_store"] for trial in finished].count(True) == 3
    assert outcomes(study).count(repeats.OUTCOME) >= 3


def test_what_was_asked_for_by_name_is_no_repetition(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(search={"trials": 2, "enqueue": ["presets", "cheapest"]})
    setting = load_setting(path)
    monkeypatch.setattr(
        setting_module, "PRESETS", {"the-smallest": lambda: setting.space.build(setting.cheapest())}
    )
    run, study = started(path, tmp_path / "run")
    Worker(run, 2).work()
    assert outcomes(study) == ["complete", "complete"]
    assert study.get_trials()[1].user_attrs["from_store"]


def test_of_two_that_run_together_the_later_is_the_repetition(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    run, study = started(write_study(), tmp_path / "run")
    asked = [trials.ask(study, run, run.setting(), 3) for _ in range(2)]
    for trial in asked:
        assert trial is not None
        trial.set_user_attr("digest", "the same")
    assert [trial.state for trial in study.get_trials()] == [TrialState.RUNNING] * 2
    assert [repeats.repeated(study, number) for number in (0, 1)] == [None, 0]
