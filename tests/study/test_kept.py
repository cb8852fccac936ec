"""What is kept of a large study is what Optuna and the model say, and never of another state."""

import subprocess
import sys
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from archsearch.errors import InputError
from archsearch.study import beliefs, kept
from archsearch.study.results import Results
from archsearch.study.store import Store
from archsearch.study.surrogate import Surrogate
from archsearch.study.trials import Trials

from .conftest import WriteStudy, started
from .test_progress import searched


@pytest.fixture(autouse=True)
def _small_studies_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (kept, beliefs):
        monkeypatch.setattr(module, "WORTH_KEEPING", 3)


@pytest.fixture
def results(write_study: WriteStudy, tmp_path: Any) -> Results:
    """A study with five told trials."""
    return searched(started(write_study(search={"trials": 40}), tmp_path / "run")[1], 5)


def look(results: Results) -> Results:
    """As another process looks at the study."""
    setting = results.run.setting()
    return Results(Trials(results.run, setting, Store(results.run, setting), looking=True))


def plain(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    """All that trials hold but Optuna's own number of the row."""
    return [{k: v for k, v in vars(trial).items() if k != "_trial_id"} for trial in trials]


def test_every_trial_is_as_optuna_has_it(results: Results) -> None:
    def check() -> Results:
        found = look(results)
        assert plain(found.trials.all()) == plain(results.trials.all())
        assert plain(found.trials.complete()) == plain(results.trials.complete())
        return found

    check()
    found = check()  # now from what is kept
    searched(results, 2)
    running = results.trials.ask()
    assert running is not None
    assert plain(found.trials.all()) == plain(results.trials.all())  # one that had looked before
    assert plain(check().trials.running()) == plain(results.trials.running())
    results.trials.end(running.number, "diverged", "the loss is not finite")
    check()
    assert found.trials.network(0) == results.trials.network(0)


def test_few_missing_are_read_by_themselves_and_many_together(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(results)
    searched(results, 4)
    monkeypatch.setattr(kept, "ONE_BY_ONE", 2)
    assert plain(look(results).trials.all()) == plain(results.trials.all())


def test_a_study_begun_anew_is_read_anew(results: Results) -> None:
    look(results)
    storage = results.run.storage.address
    optuna.delete_study(study_name=results.setting.name, storage=storage)
    setting = results.run.setting()
    store = Store(results.run, setting)
    again = searched(Results(Trials(results.run, setting, store, create=True)), 5)
    assert plain(look(again).trials.all()) == plain(again.trials.all())


def test_trials_of_another_space_are_refused(results: Results) -> None:
    look(results)
    path = results.run.path / "space.yaml"
    path.write_text(path.read_text().replace("inner:", "wider:"))
    with pytest.raises(InputError, match="is not the space of this run's trials"):
        look(results)


def test_beliefs_are_computed_once_for_one_state(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, fit = [], Surrogate._fit
    monkeypatch.setattr(Surrogate, "_fit", lambda self: (fits.append(1), fit(self))[1])

    def believed(of: Results) -> Any:
        found = of.beliefs()
        differences = found.differences(0, [1, 2], "val_loss")
        deviations = found.models["val_loss"].deviations()
        columns = [column.tolist() for column in differences]
        return found.marginals, found.chances, found.front, deviations, columns

    first = believed(look(results))
    assert believed(look(results)) == first
    assert len(fits) == 1
    with monkeypatch.context() as patch:
        patch.setattr(beliefs, "WORTH_KEEPING", 1000)
        assert believed(look(results)) == first
    assert len(fits) == 2
    searched(results, 1)
    assert len(believed(look(results))[0]["val_loss"]) == 6
    assert len(fits) == 3


def test_looking_imports_nothing_that_trains_or_draws(results: Results) -> None:
    script = (
        "import sys; from archsearch import Study\n"
        "import archsearch.cli.front, archsearch.cli.results\n"
        "study = Study.open(sys.argv[1])\n"
        "study.progress(), study.trials(), study.results.pareto(), study.results.answers()\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules}))\n"
    )
    command = [sys.executable, "-c", script, str(results.run.path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    slow = ("torch", "sklearn", "matplotlib", "altair", "diffusers", "transformers", "onnxruntime")
    assert [name for name in slow if f"'{name}'" in found] == []
