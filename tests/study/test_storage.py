"""A database that several machines share: its address, its secrets, and who may join."""

import json
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from archsearch.api import Study
from archsearch.errors import InputError
from archsearch.study import storage as storage_module
from archsearch.study.rundir import RunDir, open_run
from archsearch.study.setting import load_setting
from archsearch.study.storage import Database, masked
from archsearch.study.trials import Trials

from ..conftest import Cli
from ..servers import PASSWORD, Server
from .conftest import WriteStudy, put, started

SECRET = "hunter2"

# Addresses


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:hunter2@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://host/db?user=me&password=hunter2&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("sftp://me:hunter2@host/path", "sftp://me:***@host/path"),
        ("sftp://me:hunt:er@2@host/path", "sftp://me:***@host/path"),
        ("s3://bucket/a:b@c", "s3://bucket/a:b@c"),
        ("/mnt/shared", "/mnt/shared"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_its_secrets(address: str, shown: str) -> None:
    assert masked(address) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_is_spoken_to_by_psycopg_3(scheme: str) -> None:
    database = Database.at(f"{scheme}://me:{SECRET}@host/db")
    assert database.address == f"postgresql+psycopg://me:{SECRET}@host/db"
    assert SECRET not in str(database)


@pytest.mark.parametrize("address", ["not an address", f"foo://me:{SECRET}@host/db", "sqlite://"])
def test_what_is_no_address_is_refused_with_its_line(write_study: WriteStudy, address: str) -> None:
    path = write_study(storage=address)
    with pytest.raises(InputError, match=rf"{path}:\d+: storage: '") as caught:
        load_setting(path)
    assert SECRET not in str(caught.value)
    assert "sqlite:///FILE" in str(caught.value)


def test_relative_paths_are_of_the_working_folder(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = load_setting(write_study(storage="sqlite:///all.db", artifacts="kept")).spec
    assert spec.storage == f"sqlite:///{tmp_path}/all.db"
    assert spec.artifacts == f"{tmp_path}/kept"


# Servers


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as where it is not installed
    with pytest.raises(InputError, match=r"pip install 'archsearch\[postgres\]'"):
        Database.at("postgresql://me@host/db").create_tables()


def test_a_server_that_never_answers_is_given_up(
    cli: Cli, write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setattr(storage_module, "CONNECT_SECONDS", 2)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        address = f"postgresql://me:{SECRET}@127.0.0.1:{deaf.getsockname()[1]}/db"
        code, out, err = cli(
            "run", write_study(), "--output", tmp_path / "run", "--storage", address
        )
    assert code == 2
    assert "storage: postgresql+psycopg://me:***@127.0.0.1" in err
    assert "timeout" in err
    assert SECRET not in out + err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("database", "password", "told"),
    [
        ("postgres", "wrong", "password authentication failed"),
        ("nowhere", PASSWORD, 'database "nowhere" does not exist'),
    ],
)
def test_a_server_that_refuses_is_told(
    postgres: Server, database: str, password: str, told: str
) -> None:
    with pytest.raises(InputError, match=told) as caught:
        Database.at(postgres.address(database, password)).create_tables()
    assert f"archsearch:***@127.0.0.1:{postgres.port}/{database}" in str(caught.value)
    assert password not in str(caught.value)


@pytest.mark.slow
def test_processes_that_meet_on_an_empty_database_make_one_study(
    write_study: WriteStudy, shared: str, tmp_path: Path
) -> None:
    path = write_study(storage=shared, search={"enqueue": ["cheapest"]})
    script = (
        "import sys; from archsearch.api import Study\n"
        "study = Study(sys.argv[1], sys.argv[2])\n"
        "print(len(study.trials()))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path), str(tmp_path / f"machine-{number}")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert (process.returncode, out.split()) == (0, ["1"]), err


# Secrets


def test_a_password_lies_in_one_file_that_only_its_owner_reads(
    cli: Cli, write_study: WriteStudy, postgres: Server, tmp_path: Path
) -> None:
    address, folder = postgres.database(), tmp_path / "run"
    run, _ = started(write_study(storage=address), folder)
    holding = [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and any(p in path.read_text(errors="ignore") for p in (PASSWORD, "open%25"))
    ]
    assert holding == [folder / "storage.json"]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600
    assert "archsearch:***@127.0.0.1" in yaml.safe_load(run.study.read_text())["storage"]
    code, out, err = cli("status", folder, "--json")
    assert (code, json.loads(out)["study"]) == (0, "small")
    assert "sesame" not in out + err


def test_a_run_goes_on_from_its_own_study_file(
    write_study: WriteStudy, postgres: Server, tmp_path: Path
) -> None:
    run, results = started(write_study(storage=postgres.database()), tmp_path / "run")
    asked = results.trials.ask()
    assert asked is not None
    again = Study(run.study, tmp_path / "run")
    assert again.results.trials.all()[0].params == asked.trial.params
    assert RunDir(run.path).places["storage"] == run.places["storage"]
    with pytest.raises(InputError, match="the password was taken out of it"):
        Study(run.study, tmp_path / "another").run_dir  # noqa: B018
    assert not (tmp_path / "another").exists()


def test_a_folder_keeps_to_its_database(write_study: WriteStudy, tmp_path: Path) -> None:
    one, other = (f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "other"))
    open_run(tmp_path / "run", load_setting(write_study(storage=one)))
    with pytest.raises(InputError, match=rf"has its storage in {one}, but got {other}"):
        open_run(tmp_path / "run", load_setting(write_study(storage=other)))
    with pytest.raises(InputError, match=rf"has its storage in {one}, but got none"):
        open_run(tmp_path / "run", load_setting(write_study()))


def test_a_changed_password_is_taken(
    write_study: WriteStudy, postgres: Server, tmp_path: Path
) -> None:
    address = postgres.database()
    name = address.rpartition("/")[2]
    postgres.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'old'")
    postgres.execute(f"ALTER DATABASE {name} OWNER TO {name}")
    before, after = (
        f"postgresql://{name}:{word}@127.0.0.1:{postgres.port}/{name}" for word in ("old", "new")
    )
    run = started(write_study(storage=before), tmp_path / "run")[0]
    postgres.execute(f"ALTER ROLE {name} PASSWORD 'new'")
    with pytest.raises(InputError, match="password authentication failed"):
        Study.open(run.path).trials()
    Study(write_study(storage=after), run.path).trials()
    assert len(Study.open(run.path).trials()) == 0


# Who may join


def test_another_study_of_the_same_name_is_refused_by_key(
    write_study: WriteStudy, shared: str, tmp_path: Path
) -> None:
    started(write_study(storage=shared), tmp_path / "run")
    theirs = write_study(storage=shared, proxy={"samples": 64}, search={"trials": 9})
    with pytest.raises(InputError, match=r"named 'small'; these differ: proxy\.samples") as caught:
        open_run(tmp_path / "another", load_setting(theirs))
    assert "trials" not in str(caught.value)  # how long it goes is each machine's to say
    assert "sesame" not in str(caught.value)
    assert not (tmp_path / "another").exists()
    renamed = theirs.rename(tmp_path / "larger.yaml")
    open_run(tmp_path / "another", load_setting(renamed))


def test_two_studies_of_one_database_do_not_see_each_other(
    write_study: WriteStudy, shared: str, tmp_path: Path
) -> None:
    path = write_study(storage=shared)
    first = started(path, tmp_path / "first")[1]
    second = started(path.rename(tmp_path / "second.yaml"), tmp_path / "second")[1]
    asked = first.trials.ask()
    assert asked is not None
    put(first.store, "wide", [0.5])
    assert (len(first.trials.all()), len(second.trials.all())) == (1, 0)
    assert (len(first.store.records()), len(second.store.records())) == (1, 0)
    assert second.store.find("wide-0", 32) is None
    assert second.trials.ask() is not None
    assert first.trials.requeue_dead() == second.trials.requeue_dead() == 0


def test_a_machine_with_other_data_is_refused(
    write_study: WriteStudy, shared: str, tmp_path: Path
) -> None:
    path = write_study(storage=shared)
    runs = [open_run(tmp_path / name, load_setting(path)) for name in ("one", "two", "three")]
    runs[0].keep_data("these pictures")
    runs[1].keep_data("these pictures")
    with pytest.raises(InputError, match="the data have changed since this run began"):
        runs[2].keep_data("other pictures")


def test_another_folder_takes_part_in_the_study(
    write_study: WriteStudy, shared: str, tmp_path: Path
) -> None:
    path = write_study(storage=shared)
    results = [started(path, tmp_path / name)[1] for name in ("one", "two")]
    asked = results[0].trials.ask()
    assert asked is not None
    assert [trial.number for trial in results[1].trials.running()] == [asked.number]
    assert results[1].trials.requeue_dead() == 0
    assert results[1].trials.network(asked.number) == asked.candidate.network
    results[0].trials.tell(asked.trial, {"val_loss": 0.5})
    assert isinstance(results[1].trials, Trials)
    (member,) = results[1].front()
    assert member.scores == results[0].front()[0].scores
    assert (results[1].run.trial(asked.number) / "config.json").is_file()
