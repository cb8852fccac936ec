"""The number of sampling steps as a searched dimension."""

from pathlib import Path
from typing import Any

import pytest

from archsearch.diffusion.sample import sample
from archsearch.diffusion.spec import Sampling
from archsearch.errors import InputError
from archsearch.study import setting as setting_module
from archsearch.study.check import check_feasibility
from archsearch.study.notes import notes_of, steps_of
from archsearch.study.setting import STEPS, load_setting
from archsearch.study.store import Store
from archsearch.study.worker import Worker

from .conftest import Sitting, WriteStudy, WriteTable, started

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
    costs = setting.priced(setting.space.base).scores
    assert setting.spec.sampling.steps == 2  # pictures of the proxy
    assert costs["pipeline_unet_ms"] == 8 * costs["latency_ms"]  # the deployed pipeline


def test_steps_left_open_are_never_sampled(store: Store) -> None:
    context = store.data.context[:1].float()
    with pytest.raises(ValueError, match="one number of steps is needed"):
        sample(None, context, store.data.null_context, Sampling(steps=(4, 8)), 0, store.device)  # type: ignore[arg-type]


def test_steps_are_a_dimension_like_any_other(study: Any) -> None:
    setting = load_setting(study())
    assert setting.space.dimensions[STEPS].values == (1, 2)
    assert setting.cheapest()[STEPS] == 1
    point = {"outer": 64, "inner": 64, "layers": []}
    one, two = (setting.candidate(point | {STEPS: steps}) for steps in (1, 2))
    assert (one.steps, two.steps) == (1, 2)
    assert one.network == two.network
    costs = [candidate.costs.scores["pipeline_unet_ms"] for candidate in (one, two)]
    assert costs[1] == 2 * costs[0]


def test_a_study_searches_steps_from_its_presets_to_its_files(
    study: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_data: None,
    sittings: list[Sitting],
) -> None:
    path = study(search={"enqueue": "presets", "trials": 4, "confirm_seeds": 1})
    monkeypatch.setattr(setting_module, "PRESETS", {"base": lambda: load_setting(path).space.base})
    run, results = started(path, tmp_path / "run")
    Worker(run, 4).work()
    finished = results.trials.complete()
    assert [notes_of(trial).get("preset") for trial in finished[:2]] == [
        "base, 1 step",
        "base, 2 steps",
    ]
    one, two = finished[:2]
    assert notes_of(one)["key"] == notes_of(two)["key"]  # one training
    assert notes_of(two)["from_store"]
    assert one.values[0] != two.values[0]  # pictures of their own
    assert two.values[1] == 2 * one.values[1]
    assert one.number in {member.number for member in results.front()}
    for trial in results.complete():
        record = results.store.find(trial.key, 32)
        assert record
        known = results.store.known_metrics(record, ("kid_effnet",), trial.steps)
        assert known["kid_effnet"]["kid_effnet"] == trial.scores["kid_effnet"]
        assert results.metrics_of(trial.number)[STEPS] == trial.steps
    assert set(results.trial_table()[f"point.{STEPS}"]) <= {1, 2}
    assert [steps_of(trial) for trial in finished[:2]] == [1, 2]
    assert len({notes_of(trial)["key"] for trial in finished}) == len(sittings)
    again = started(path, tmp_path / "run")[1]  # the same study, nothing queued twice
    assert len(again.trials.all()) == 4
