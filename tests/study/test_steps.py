"""The number of sampling steps as a searched dimension."""

from pathlib import Path
from typing import Any

import pytest

from archsearch.data.prepare import Prepared
from archsearch.diffusion.sample import Sampling, sample
from archsearch.errors import InputError
from archsearch.study import outputs, results, trials, worker
from archsearch.study import setting as setting_module
from archsearch.study.check import check_feasibility
from archsearch.study.rundir import open_run
from archsearch.study.scoring import Scorer
from archsearch.study.setting import load_setting
from archsearch.study.worker import Worker

from .conftest import WriteStudy, WriteTable

OBJECTIVES = {"kid_effnet": "minimize", "pipeline_unet_ms": "minimize"}


@pytest.fixture
def study(write_study: WriteStudy, write_table: WriteTable) -> Any:
    """Write the small study with steps 1 and 2 to choose from; keys may be changed."""

    def write(**changes: Any) -> Path:
        tables = [str(write_table("laptop"))]
        searched: dict[str, Any] = {
            "objectives": OBJECTIVES,
            "report": [],
            "sampling": {"steps": [1, 2]},
        }
        deployment = {"tables": tables, "pipeline": {}} | changes.pop("deployment", {})
        return write_study(**(searched | {"deployment": deployment} | changes))

    return write


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"objectives": {"val_loss": "minimize", "pipeline_unet_ms": "minimize"}},
            "val_loss does not depend on it: fewer steps",
        ),
        (
            {"objectives": OBJECTIVES | {"val_loss": "minimize"}},
            "val_loss does not depend on it: fewer steps would always win",
        ),
        ({"objectives": {"macs": "minimize"}}, "no objective is taken from sampled pictures"),
        (
            {"objectives": {"kid_effnet": "minimize", "macs": "minimize"}},
            "nothing makes steps dear: more would always win",
        ),
        (
            {"deployment": {"pipeline": {"steps": 8}}},
            "deployment.pipeline.steps is 8, but sampling.steps is a list",
        ),
        ({"sampling": {"steps": []}}, "sampling.steps"),
        ({"sampling": {"steps": [4, 4]}}, "sampling.steps: must differ, but got [4, 4]"),
        (
            {"sampling": {"steps": [4, 0]}},
            "sampling.steps[1]: must be greater than or equal to 1, but got 0",
        ),
        (
            {"sampling": {"steps": 0}},
            "sampling.steps: must be greater than or equal to 1, but got 0",
        ),
    ],
)
def test_steps_are_searched_only_where_that_means_something(
    study: Any, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError) as raised:
        load_setting(study(**changes))
    assert told in str(raised.value)


def test_a_limit_makes_steps_dear_too(study: Any) -> None:
    setting = load_setting(
        study(
            objectives={"kid_effnet": "minimize", "macs": "minimize"},
            limits={"pipeline_unet_ms": 16.0},
        )
    )
    found = check_feasibility(setting, draws=40)
    assert found.broken["limits.pipeline_unet_ms"] > 0
    assert found.within_limits > 0


def test_one_number_of_steps_keeps_its_meaning(
    write_study: WriteStudy, write_table: WriteTable
) -> None:
    path = write_study(
        objectives=OBJECTIVES,
        report=[],
        deployment={"tables": [str(write_table("laptop"))], "pipeline": {"steps": 8}},
    )
    setting = load_setting(path)
    costs = setting.costs(setting.space.base)
    assert setting.spec.sampling.steps == 2  # pictures of the proxy
    assert costs["pipeline_unet_ms"] == 8 * costs["latency_ms"]  # the deployed pipeline


def test_steps_left_open_are_never_sampled(scorer: Scorer) -> None:
    context = scorer.data.context[:1].float()
    with pytest.raises(ValueError, match="one number of steps is needed"):
        sample(None, context, scorer.data.null_context, Sampling(steps=(4, 8)), 0, scorer.device)  # type: ignore[arg-type]


def test_a_study_searches_steps_from_its_presets_to_its_files(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Prepared
) -> None:
    monkeypatch.setattr(worker, "prepare", lambda spec, latent: data)
    path = study(search={"enqueue": "presets", "trials": 4, "confirm_seeds": 1})
    monkeypatch.setattr(setting_module, "PRESETS", {"base": lambda: load_setting(path).space.base})
    setting = load_setting(path)
    run = open_run(tmp_path / "run", setting)
    found = trials.create_study(run, setting)
    Worker(run, 4).work()
    finished = results.complete(found)
    assert [trial.user_attrs.get("preset") for trial in finished[:2]] == [
        "base, 1 step",
        "base, 2 steps",
    ]
    one, two = finished[:2]
    assert one.user_attrs["key"] == two.user_attrs["key"]  # one training
    assert two.user_attrs["from_store"]
    assert one.values[0] != two.values[0]  # pictures of their own
    assert two.values[1] == 2 * one.values[1]
    assert one.number in {trial.number for trial in results.front(found)}
    for trial in finished:
        assert run.sampled(trial.user_attrs["key"], results.steps_of(trial)).is_file()
        assert results.metrics_of(run, trial.number)["sampling.steps"] == results.steps_of(trial)
    assert set(outputs.trial_table(found)["point.sampling.steps"]) <= {1, 2}
    assert len({trial.user_attrs["key"] for trial in finished}) == len(
        list(run.scores.glob("????????????????.json"))
    )
    again = open_run(
        tmp_path / "run", setting
    )  # taken up again: the same study, nothing queued twice
    assert len(trials.create_study(again, setting).get_trials()) == 4
