"""One process at a time runs a folder."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from archsearch.api import Study
from archsearch.errors import InputError
from archsearch.study import claims as claims_module
from archsearch.study.lock import FolderLock
from archsearch.study.rundir import RunDir
from archsearch.study.store import Store

from ..conftest import Cli
from .conftest import WriteStudy, kill_holder, rewrite_claim, started

pytestmark = pytest.mark.usefixtures("small_data", "in_process")


@pytest.fixture
def path(write_study: WriteStudy, shared: str) -> Path:
    return write_study(storage=shared, report=[], search={"trials": 1, "confirm_seeds": 1})


@pytest.fixture
def run(path: Path, tmp_path: Path) -> RunDir:
    return started(path, tmp_path / "run")[0]


@pytest.fixture
def store(run: RunDir) -> Store:
    return Store(run, run.setting())


def state(run: RunDir) -> dict[Path, bytes]:
    """Every file of a folder but the database."""
    return {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}


def test_the_second_is_told_who_runs_it_and_touches_nothing(
    cli: Cli, path: Path, run: RunDir
) -> None:
    lock, before = FolderLock(run), state(run)
    code, out, err = cli("run", path, "--output", run.path, "--trials", 50)
    assert (code, out) == (2, "")
    assert f"is being run by process {os.getpid()} on {socket.gethostname()}, since 20" in err
    assert state(run) == before
    assert Study.open(run.path).spec.search.trials == 1
    lock.release()
    code, _, err = cli("run", path, "--output", run.path)
    assert code == 0, err
    FolderLock(run).release()  # a run that has ended holds nothing


def test_the_lock_of_the_dead_is_taken_over(run: RunDir, store: Store) -> None:
    lock = FolderLock(run)
    kill_holder(store, lock.name)
    FolderLock(run).release()


def test_another_machines_lock_lives_as_long_as_its_heart_beats(
    run: RunDir, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FolderLock(run)
    rewrite_claim(store, lock.name, host="elsewhere", token="theirs")
    with pytest.raises(InputError, match=r"on elsewhere, since .* holds it for 60 seconds"):
        FolderLock(run)
    monkeypatch.setattr(claims_module, "LEASE_SECONDS", -1.0)
    FolderLock(run).release()


def test_folders_of_one_study_are_run_side_by_side(path: Path, run: RunDir, tmp_path: Path) -> None:
    lock = FolderLock(run)
    other = Study(path, tmp_path / "other")
    assert len(other.run(workers=1)) == 1
    assert [trial.number for trial in other.results.complete()] == [0]
    lock.release()


def test_what_fails_before_the_first_trial_gives_the_folder_back(
    path: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(path, run.path)

    def fail(*_: Any) -> None:
        raise InputError("no data")

    with monkeypatch.context() as patch:
        patch.setattr(Study, "prepare", fail)
        with pytest.raises(InputError, match="no data"):
            study.prepare_run()
    study.prepare_run()
    with pytest.raises(InputError, match="is being run by process"):
        Study(path, run.path).run(workers=1)
    study.run(workers=1)


def test_what_shares_a_folder_by_claims_still_does(path: Path, run: RunDir) -> None:
    lock, study = FolderLock(run), Study(path, run.path)
    study.train(study.space.base)
    assert study.validate(networks=2, seeds=1, budgets=(1,), workers=1)["trainings"] == {1: 2}
    lock.release()
