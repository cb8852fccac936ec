"""How far a run is: what ``status`` shows, the history of its hypervolume, importances of knobs."""

import json
from pathlib import Path

import pytest

from archsearch.api import Study
from archsearch.errors import InputError
from archsearch.report.figures import draw_all
from archsearch.study.importances import importances
from archsearch.study.progress import progress
from archsearch.study.results import Results
from archsearch.study.trials import Asked

from ..conftest import Cli
from .conftest import WriteStudy, put, started


def ask(results: Results) -> Asked:
    asked = results.trials.ask()
    assert asked is not None
    return asked


def searched(results: Results, count: int) -> Results:
    """Tell so many candidates: the wider the inner stage, the less loss; nothing else matters."""
    for _ in range(count):
        asked = ask(results)
        loss = 0.5 - asked.candidate.point["inner"] / 1000
        results.trials.tell(asked.trial, {"val_loss": loss}, {"train_seconds": 2.0})
    return results


@pytest.fixture
def results(write_study: WriteStudy, tmp_path: Path) -> Results:
    return started(write_study(search={"trials": 40}), tmp_path / "run")[1]


def test_a_history_grows_and_ends_at_the_front(results: Results) -> None:
    searched(results, 8)
    asked = ask(results)
    results.trials.end(asked.number, "diverged", "the loss is not finite")
    history = results.hypervolume_history()
    assert list(history.finished) == list(range(1, 10))
    assert list(history.trial) == list(range(9))
    assert history.hypervolume.is_monotonic_increasing
    assert history.train_seconds.is_monotonic_increasing
    assert history.train_seconds.iloc[-1] == 16.0
    box = results.box()
    assert box is not None
    front = [[m.scores["val_loss"], m.scores["macs"]] for m in results.front()]
    assert history.hypervolume.iloc[-1] == pytest.approx(box.hypervolume(front))


def test_a_training_behind_several_trials_counts_once(results: Results) -> None:
    for _ in range(3):
        told = {"train_seconds": 2.0, "key": "one"}
        results.trials.tell(ask(results).trial, {"val_loss": 0.3}, told)
    assert list(results.hypervolume_history().train_seconds) == [2.0, 2.0, 2.0]


def test_a_run_without_trials_has_no_hypervolume(results: Results, cli: Cli) -> None:
    assert results.box() is None
    assert results.hypervolume_history().empty
    found = progress(results)
    assert (found["hypervolume"], found["front"], found["train_seconds"]) == (None, 0, 0.0)
    code, out, _ = cli("status", results.run.path)
    assert code == 0
    assert "0 of 40 trials finished (none yet)" in out


def test_status_shows_all_that_is_known_of_a_run(results: Results, cli: Cli) -> None:
    searched(results, 24)
    asked = ask(results)
    asked.trial.set_user_attr("samples_seen", 8)
    for record in put(results.store, "twice", [0.3, 0.31]):
        results.store._write(record)
    code, out, _ = cli("status", results.run.path, "--json")
    assert code == 0
    shown = json.loads(out)
    assert shown["outcomes"] == {"complete": 24, "running": 1}
    (running,) = shown["running"]
    assert (running["trial"], running["share"]) == (24, 0.25)
    assert shown["front"] == len(results.front())
    volume = shown["hypervolume"]
    assert volume["value"] == volume["history"][-1]["hypervolume"] > 0
    assert set(volume["reference"]) == set(volume["best"]) == {"val_loss", "macs"}
    assert shown["train_seconds"] == 48.0
    assert shown["store"]["records"] == 2
    assert shown["further_seeds"] == {"trainings": 1, "networks": 1, "seeds_of_each": 2}
    assert len(shown["trials"]) == 25
    _, out, _ = cli("status", results.run.path)
    for words in (
        "24 of 40 trials finished (24 complete, 1 running)",
        "Running, by the share of pictures seen: #24 25 % (",
        f"Front: {shown['front']} networks; hypervolume {volume['value']:.4f} of the box",
        "Training: 48 s behind the trials; in the store 2 records",
        "Further seeds: 1 training of 1 network",
        "The last 20 of 25 trials; --all lists every one.",
    ):
        assert words in out
    _, whole, _ = cli("status", results.run.path, "--all")
    assert len(whole.splitlines()) == len(out.splitlines()) + 5 - 1


def test_what_is_done_after_the_last_trial_is_shown(results: Results, cli: Cli) -> None:
    searched(results, 3)
    claims = results.store.claims
    with claims.held("seed 1 of trial 2"), claims.held("pictures of trial 0"):
        found = progress(results)
        assert found["further"] == [{"trial": 2, "budget": 32, "seed": 1, "training": None}]
        assert found["showings"] == ["pictures of trial 0"]
        _, out, _ = cli("status", results.run.path)
        assert "Trained further: #2, again with seed 1" in out
        assert "For the end: pictures of trial 0" in out
    assert (progress(results)["further"], progress(results)["showings"]) == ([], [])


def test_importances_name_the_knob_that_an_objective_hangs_on(results: Results, cli: Cli) -> None:
    searched(results, 24)
    table = importances(results.trials)
    assert list(table.columns) == ["val_loss", "macs"]
    assert set(table.index) == {"outer", "inner", "layers"}
    assert table.index[0] == "inner"
    assert table.val_loss["inner"] > 0.9
    assert 0.0 <= table.to_numpy().min() <= table.to_numpy().max() <= 1.0
    assert table.macs["outer"] > table.val_loss["outer"]
    assert importances(results.trials).equals(table)  # it repeats
    assert Study.open(results.run.path).importances().equals(table)
    _, out, _ = cli("status", results.run.path, "--importances")
    assert "Shares of variance by fANOVA" in out
    _, out, _ = cli("status", results.run.path, "--importances", "--json")
    told = json.loads(out)["importances"]
    assert told["shares"]["inner"]["val_loss"] == table.val_loss["inner"]
    assert told["left_out"] == {}


def test_knobs_that_not_every_trial_has_are_left_out(results: Results) -> None:
    space = results.setting.space
    point = {name: dimension.values[0] for name, dimension in space.dimensions.items()}
    for number in range(10):
        chosen = point | {"inner": [64, 128, 256][number % 3]}
        if number == 4:
            del chosen["layers"]  # as under a condition
        asked = results.trials.ask_at(chosen)
        results.trials.tell(asked.trial, {"val_loss": 0.3 + number / 100})
    table = importances(results.trials)
    assert table.attrs["left_out"] == {
        "layers": "in 9 of 10 trials only",
        "outer": "always 64",
    }
    assert table.val_loss.isna().to_dict() == {"inner": False, "outer": True, "layers": True}


def test_importances_need_some_trials(results: Results, cli: Cli) -> None:
    searched(results, 3)
    with pytest.raises(InputError, match="importances need 10 trials with scores; there are 3"):
        importances(results.trials)
    code, _, err = cli("status", results.run.path, "--importances")
    assert code == 2
    assert "Traceback" not in err


def test_the_history_is_drawn(results: Results) -> None:
    path = results.run.path / "plots" / "hypervolume.png"
    searched(results, 1)
    assert path not in draw_all(results, quick=True).written
    searched(results, 2)
    assert path in draw_all(results, quick=True).written
    assert path.read_bytes().startswith(b"\x89PNG")
