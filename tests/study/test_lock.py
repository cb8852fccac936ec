"""One process at a time runs a folder."""

import os
import socket
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest

from archsearch.api import Study
from archsearch.errors import ArchsearchError, InputError, words_of
from archsearch.study import claims as claims_module
from archsearch.study.lock import FolderLock
from archsearch.study.rundir import RunDir, open_run
from archsearch.study.setting import load_setting
from archsearch.study.storage import Database
from archsearch.study.store import Store

from ..conftest import Cli
from .conftest import STUDY, WriteStudy, kill_holder, rewrite_claim, started

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


def test_studies_that_are_started_at_once_for_a_fresh_folder_do_not_mix(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    settings = []
    for name, samples in (("one", 16), ("two", 32)):
        path = write_study(proxy=STUDY["proxy"] | {"samples": samples})
        settings.append(load_setting(path.rename(path.with_name(f"small-{name}.yaml"))))
    folder, barrier = tmp_path / "fresh", threading.Barrier(6)

    def open_it(index: int) -> int | str:
        barrier.wait()
        try:
            return open_run(folder, settings[index % 2]).setting().spec.proxy.samples
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(open_it, range(6)))
    kept = RunDir(folder).setting().spec.proxy.samples
    for index, samples in enumerate(found):
        if settings[index % 2].spec.proxy.samples == kept:
            assert samples == kept
        else:
            assert "proxy.samples" in str(samples)


def test_a_locked_database_says_so(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'study.db'}"
    storage = optuna.storages.RDBStorage(address, engine_kwargs={"connect_args": {"timeout": 0.1}})
    database = Database.of_file(tmp_path / "study.db")
    with sqlite3.connect(tmp_path / "study.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(optuna.exceptions.StorageInternalError) as raised:
            storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "locked")
        told = pytest.raises(
            ArchsearchError, match=r"study\.db: cannot be written: database is lock"
        )
        with told as refused, database.told():
            storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "locked")
        other.execute("COMMIT")
    assert words_of(raised.value) == "database is locked"
    assert not isinstance(refused.value, InputError)  # it is not the user's doing
