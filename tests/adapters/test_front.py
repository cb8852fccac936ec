"""What is made from every member of a front, with one budget each."""

import json
from pathlib import Path

import pytest

from archsearch.api import Study
from tests.conftest import Cli


@pytest.fixture(scope="module")
def run(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small search over what the network learned from."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    study = checkpoint.parent / "study.yaml"
    Study(study, folder, {"search.trials": 4, "engine.workers": 1}).run()
    return folder


@pytest.mark.slow
def test_every_member_of_a_front_is_distilled_with_one_budget(
    cli: Cli, run: Path, tmp_path: Path
) -> None:
    shown = Study.open(run).results.shown()
    made = tmp_path / "made"
    command = ("distill", run, "--front", "--output", made, "--from", 4, "--to", 2, "--samples", 16)
    code, out, err = cli(*command, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [row["network"] for row in found["rows"]] == [trial.name for trial in shown]
    assert all({"error", "error_before", "val_loss"} <= row.keys() for row in found["rows"])
    assert json.loads((made / "front.json").read_text()) == found
    first = made / shown[0].name.removeprefix("#")
    assert cli("generate", first / "network", "red thing", "--output", tmp_path / "a.png")[0] == 0
    assert (
        cli("generate", first / "progressive-2", "red thing", "--output", tmp_path / "b.png")[0]
        == 0
    )
    code, again, err = cli(*command, "--json")
    assert (code, json.loads(again)) == (0, found), err
    code, _, err = cli(*command[:-1], 24)
    assert code == 2
    assert "these differ: samples (16 there, 24 here)" in err


@pytest.mark.slow
def test_every_member_of_a_front_gets_an_adapter(cli: Cli, run: Path, tmp_path: Path) -> None:
    command = ("adapt", run, "--front", "--method", "control", "--samples", 16)
    code, out, err = cli(*command, "--output", tmp_path / "made")
    assert code == 0, err
    assert "what became of the front" in out


def test_a_folder_that_is_no_run_is_refused(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    code, _, err = cli("distill", checkpoint, "--front", "--output", tmp_path / "made")
    assert code == 2
    assert str(checkpoint) in err
    assert not (tmp_path / "made").exists()
