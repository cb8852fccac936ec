"""What whoever watches a run is told: what is trained, how far it is, how long it still takes."""

import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from archsearch.api import Study
from archsearch.cli.app import duration, progress_bar
from archsearch.cli.live import LiveView
from archsearch.data.prepare import Prepared
from archsearch.diffusion.trainer import TrainingLog
from archsearch.files import write_text
from archsearch.study.finish import showings
from archsearch.study.outlook import phase, under_way
from archsearch.study.results import Results

from .conftest import WriteStudy


@pytest.fixture
def study(write_study: WriteStudy, tmp_path: Path, data: Prepared) -> Study:
    """A study of two trials that is ready to train."""
    search = {"trials": 2, "enqueue": "none", "confirm_seeds": 1}
    study = Study(write_study(report=[], search=search), tmp_path / "run")
    study.store.use(data)
    return study


def log_of(results: Results, number: int, samples: int, loss: float) -> None:
    """The log of a trial's training as its worker writes it."""
    network = results.trials.network(number)
    key = results.store.key(results.setting.proxy(network))
    folder = results.run.training(f"{key}-{results.setting.spec.budgets[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    log = TrainingLog(folder)
    log.write(samples=8, loss=0.9, learning_rate=0.001, gradient_norm=1.0, seconds=1.0)
    log.write(samples=samples, loss=loss, learning_rate=0.001, gradient_norm=1.0, seconds=2.0)
    write_text(log.path, log.path.read_text() + "24,0.1")  # a row that is being written


def test_a_run_goes_from_search_to_pictures(study: Study) -> None:
    results = study.results
    now = phase(results)
    assert (now.name, now.done, now.total, now.seconds_left) == ("search", 0, 2, None)
    asked = study.ask()
    log_of(results, asked.number, 16, 0.25)
    (training,) = under_way(results)
    assert (training.what, training.share, training.loss) == (f"#{asked.number}", 0.5, 0.25)
    assert training.seconds_left is not None
    asked.trial.set_user_attr("samples_seen", 16)
    study.store.clock.beat()
    time.sleep(0.1)
    study.store.clock.beat()
    now = phase(results)
    assert now.seconds_left is not None
    assert now.seconds_left == pytest.approx(3 * study.store.clock.seconds() + 15, abs=1), (
        "a trial and a half after half a trial, and what follows"
    )
    study.tell(asked, {"val_loss": 0.3})
    study.tell(study.ask(), {"val_loss": 0.2})
    now = phase(results)
    assert (now.name, now.done) == ("scores and pictures", 0)
    assert now.total == len(showings(results))


def test_further_seeds_are_a_phase_of_their_own(study: Study) -> None:
    results = study.results
    for loss in (0.3, 0.2):
        study.tell(study.ask(), {"val_loss": loss})
    with results.store.claims.held("seed 1 of trial 1"):
        assert phase(results).name == "further seeds"
        (training,) = under_way(results)
        assert training.what == "#1 again with seed 1"
        assert training.loss is None


def test_time_that_is_given_is_the_most_that_is_left(
    write_study: WriteStudy, tmp_path: Path, data: Prepared
) -> None:
    study = Study(write_study(report=[], search={"minutes": 2}), tmp_path / "run")
    study.store.use(data)
    now = phase(study.results)
    assert now.name == "search"
    assert now.seconds_left == pytest.approx(120, abs=2)


def test_without_a_terminal_lines_are_said_at_once_and_in_silence(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    with LiveView(study) as view:
        assert "small: search, 0 of 2 trials; workers are starting" in capsys.readouterr().err
        asked = study.ask()
        log_of(study.results, asked.number, 16, 0.25)
        view.looked = view.spoken = time.monotonic() - 60
        view(study)
        said = capsys.readouterr().err
        assert f"running #{asked.number} 50% (loss 0.2500)" in said
        view.looked = 0.0
        view(study)
        assert not capsys.readouterr().err, "nothing new"
        study.tell(asked, {"val_loss": 0.3})
        view.looked = 0.0
        view(study)
        assert f"trial {asked.number}: val_loss 0.3" in capsys.readouterr().err


def test_a_terminal_shows_the_loss_of_what_runs(
    study: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(stderr=True, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(sys.modules["archsearch.cli.live"], "errors", terminal)
    study.tell(study.ask(), {"val_loss": 0.3})
    asked = study.ask()
    log_of(study.results, asked.number, 16, 0.25)
    with LiveView(study):
        shown = capsys.readouterr().err
    assert "search, 1 of 2 trials" in shown
    assert "training now" in shown
    assert "0.2500" in shown
    assert "Pareto front so far" in shown


def test_long_work_is_told_where_there_is_no_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = sys.modules["archsearch.cli.app"]
    monkeypatch.setattr(app, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(app, "SAID_EVERY_SECONDS", 0.05)
    with progress_bar() as report:
        report("reading pictures", 0.0)
        time.sleep(0.08)
        assert "reading pictures (for 0 s)" in capsys.readouterr().err
        report("reading pictures", 0.5)
        time.sleep(0.08)
        assert "reading pictures (50%, about 0 s left)" in capsys.readouterr().err
    with progress_bar() as report:
        report("quick", 1.0)
    assert not capsys.readouterr().err


def test_what_goes_on_is_not_taken_to_have_done_all_of_it_since(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = sys.modules["archsearch.cli.app"]
    monkeypatch.setattr(app, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(app, "SAID_EVERY_SECONDS", 0.05)
    now = 1000.0
    monkeypatch.setattr(app.time, "monotonic", lambda: now)
    with progress_bar() as report:
        report("training", 0.7)
        now += 60
        report("training", 0.72)
        threading.Event().wait(0.08)
    assert "training (72%, about 14.0 min left)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (570, "9.5 min"), (8280, "2.3 h")]
)
def test_times_have_the_unit_that_suits_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words
