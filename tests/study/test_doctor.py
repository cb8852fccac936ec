"""What crashes leave in a run's folder, and how it is mended."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from archsearch.api import Study
from archsearch.data.prepare import Prepared
from archsearch.errors import InputError
from archsearch.study.doctor import Diagnosis
from archsearch.study.notes import notes_of

from ..conftest import Cli
from .conftest import finish, kill_holder, outcomes

MADE = ["trials.csv", "pareto.csv", "pareto.json", "data.json"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Prepared) -> Path:
    """A finished run, to be copied."""
    return finish(tmp_path_factory.mktemp("doctor"), data)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def states(found: Diagnosis) -> dict[str, str]:
    return {finding.where: finding.state for finding in found.findings}


def mended(run: Path) -> dict[str, str]:
    """What was found; afterwards all is well."""
    found = Study.open(run).doctor()
    assert found.well
    again = Study.open(run).doctor()
    assert all(finding.state == "told" for finding in again.findings), again.findings
    return states(found)


def test_a_run_that_is_whole_is_left_as_it_is(run: Path, cli: Cli) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert Study.open(run).doctor().findings == []
    code, out, _ = cli("doctor", run)
    assert (code, out.strip()) == (0, "All is well.")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "name", [*MADE, "trials/1/metrics.json", "trials/1/config.json", "trials/0/config.json"]
)
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff\xfe\x00\x9c" * 40),
    ],
    ids=["brace", "half", "empty", "noise"],
)
def test_a_damaged_file_is_written_again_as_it_was(
    run: Path, name: str, damage: Callable[[Path], object]
) -> None:
    path = run / name
    whole = path.read_bytes()
    damage(path)
    looked = Study.open(run).doctor(mend=False)
    assert states(looked)[name] == "can be mended"
    assert path.read_bytes() != whole
    assert mended(run) == {name: "mended"}
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", [*MADE[:3], "trials/1/metrics.json", "trials/2/config.json"])
def test_a_file_that_is_missing_is_written_again_as_it_was(run: Path, name: str) -> None:
    whole = (run / name).read_bytes()
    (run / name).unlink()
    assert mended(run)[name] == "mended"
    assert (run / name).read_bytes() == whole


def test_the_architecture_of_another_trial_is_noticed(run: Path) -> None:
    path = run / "trials" / "1" / "config.json"
    whole = path.read_bytes()
    shutil.copy(run / "trials" / "2" / "config.json", path)
    assert mended(run) == {"trials/1/config.json": "mended"}
    assert path.read_bytes() == whole


@pytest.mark.parametrize("command", ["pareto", "plot", "export"])
def test_a_damaged_file_is_named_by_whoever_needs_it(
    run: Path, cli: Cli, tmp_path: Path, command: str
) -> None:
    member = json.loads((run / "pareto.json").read_text())["front"][0]["trial"]
    damaged = run / "trials" / str(member) / "metrics.json"
    damaged.write_text("{")
    rest = ["--knee", "--format", "json", "--output", tmp_path / "out.json"]
    arguments = [command, run, *(rest if command == "export" else [])]
    code, _, err = cli(*arguments)
    assert code == 2
    assert str(damaged) in err
    assert "archsearch doctor" in err
    assert cli("doctor", run)[0] == 0
    assert cli(*arguments)[0] == 0


# Who was at work


def test_what_the_dead_left_is_queued_again(run: Path) -> None:
    results = Study.open(run).results
    asked = results.trials.ask()
    assert asked
    results.store.claims.take("training 0123456789abcdef")
    for name in (f"trial {asked.number}", "training 0123456789abcdef"):
        kill_holder(results.store, name)
    looked = Study.open(run).doctor(mend=False)
    assert "can be mended" in states(looked).values()
    assert outcomes(results)[-1] == "running"
    found = Study.open(run).doctor()
    assert states(found)["training 0123456789abcdef"] == "mended"
    assert states(found)[f"trial {asked.number}"] == "mended"
    assert outcomes(results)[-2:] == ["interrupted", "waiting"]
    assert notes_of(results.trials.all()[-1])["kills"] == 0  # nobody is blamed
    assert results.store.claims.dead() == set()


def test_what_somebody_alive_is_at_work_on_is_left_alone(run: Path) -> None:
    results = Study.open(run).results
    asked = results.trials.ask()
    assert asked
    theirs = run / "trials" / str(asked.number) / "config.json"
    theirs.write_text("{")
    half = run / ".trials.csv.ab_d1234"
    half.write_text("half")
    weights = run / "weights" / "0123456789abcdef-32.safetensors"
    weights.write_bytes(b"half")
    with results.store.claims.held("training 0123456789abcdef"):
        found = Study.open(run).doctor()
        assert {finding.state for finding in found.findings} == {"in use"}
        assert theirs.read_text() == "{"
        assert half.exists()
        assert weights.exists()
    assert outcomes(results)[-1] == "running"
    results.trials.give_back(asked.number)
    mended(run)
    assert theirs.read_text() != "{"
    assert not half.exists()
    assert not weights.exists()


def test_files_that_were_left_half_written_are_removed(run: Path) -> None:
    left = [run / ".pareto.json.x1y2z3_4", run / "trials" / "1" / ".metrics.json.abcdefgh"]
    kept = [run / ".study.db.lock", run / ".mine"]
    for path in left + kept:
        path.write_text("{")
    assert set(mended(run).values()) == {"mended"}
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


# Artifacts


def test_weights_without_a_record_are_removed(run: Path) -> None:
    (kept, *_) = sorted((run / "weights").iterdir())
    orphan = run / "weights" / "0123456789abcdef-32.safetensors"
    shutil.copy(kept, orphan)
    assert mended(run) == {"weights/0123456789abcdef-32.safetensors": "mended"}
    assert kept.exists()
    assert not orphan.exists()


def test_weights_that_cannot_be_read_are_removed_and_made_again(run: Path, data: Prepared) -> None:
    (path, *_) = sorted((run / "weights").iterdir())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    study = Study.open(run)
    found = states(study.doctor())
    assert found[f"weights/{path.name}"] in ("mended", "told")
    assert not path.exists()
    study.store.use(data)
    study.store._device = torch.device("cpu")
    key, _, budget = path.stem.rpartition("-")
    record = study.store.find(key, int(budget))
    assert record
    study.store.load(record)
    assert path.read_bytes() == whole
    assert Study.open(run).doctor().findings == []


def test_weights_that_the_front_needs_are_told_of(run: Path) -> None:
    for path in (run / "weights").iterdir():
        path.unlink()
    found = Study.open(run).doctor()
    assert found.well
    assert {finding.state for finding in found.findings} == {"told"}
    assert len(found.findings) == len(Study.open(run).results.shown())


def test_a_checkpoint_that_cannot_be_read_is_removed(run: Path) -> None:
    folder = run / "training" / "0123456789abcdef-32"
    folder.mkdir()
    (folder / "checkpoint.safetensors").write_bytes(b"half")
    name = "training/0123456789abcdef-32/checkpoint.safetensors"
    assert mended(run) == {name: "mended"}
    assert not (folder / "checkpoint.safetensors").exists()


def test_a_checkpoint_of_a_training_that_was_cut_off_stays(run: Path) -> None:
    (whole, *_) = (run / "training").glob("*/checkpoint.safetensors")
    folder = run / "training" / "0123456789abcdef-32"
    folder.mkdir()
    shutil.copy(whole, folder)
    assert Study.open(run).doctor().findings == []
    assert (folder / whole.name).exists()


def test_a_picture_that_cannot_be_read_is_removed(run: Path) -> None:
    path = run / "trials" / "0" / "samples.png"
    path.write_bytes(b"\x89PNG\r\n")
    assert mended(run) == {"trials/0/samples.png": "mended"}
    assert not path.exists()


# What cannot be mended


def test_a_damaged_database_cannot_be_mended(run: Path, cli: Cli) -> None:
    content = bytearray((run / "study.db").read_bytes())
    for page in range(2, len(content) // 4096, 3):
        content[page * 4096 : page * 4096 + 200] = b"\xa5" * 200
    (run / "study.db").write_bytes(content)
    code, out, err = cli("doctor", run, "--json")
    assert code == 1, err
    found = json.loads(out)
    assert found["well"] is False
    assert [f["where"] for f in found["findings"]] == ["study.db"]
    assert found["findings"][0]["state"] == "cannot be mended"
    assert (run / "study.db").read_bytes() == content


@pytest.mark.parametrize("name", ["study.yaml", "space.yaml", "environment.json"])
def test_what_says_what_the_study_is_cannot_be_made_again(run: Path, cli: Cli, name: str) -> None:
    path = run / name
    path.write_text(path.read_text()[:40] + "\n{")
    code, out, _ = cli("doctor", run)
    assert code == 1
    assert name in out
    assert "cannot be mended" in out


def test_a_point_that_gives_another_architecture_is_not_written(run: Path) -> None:
    (run / "trials" / "1" / "config.json").unlink()
    with sqlite3.connect(run / "study.db") as connection:
        connection.execute(
            "UPDATE trial_user_attributes SET value_json = json_set(value_json, '$.digest', "
            "'0123456789abcdef') WHERE key = 'candidate' AND trial_id = "
            "(SELECT trial_id FROM trials WHERE number = 1)"
        )
    found = Study.open(run).doctor()
    assert not found.well
    assert states(found)["trials/1/config.json"] == "cannot be mended"
    assert not (run / "trials" / "1" / "config.json").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("doctor", tmp_path)
    assert code == 2
    assert "is not a run" in err
    with pytest.raises(InputError):
        Study.open(tmp_path)


def test_a_run_that_has_not_begun_is_well(run: Path) -> None:
    (run / "study.db").unlink()
    found = Study.open(run).doctor()
    assert found.well
    assert states(found) == {"study.db": "told"}
