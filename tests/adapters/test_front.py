"""What is made from every member of a front, with one budget each."""

import json
from pathlib import Path

import pytest

from archsearch import after as module
from archsearch.adapters.training import load_adapter
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
    assert all(
        {"error", "error_before", "val_loss believed"} <= row.keys() for row in found["rows"]
    )
    assert json.loads((made / "front.json").read_text()) == found
    assert found["order_of"] == "val_loss"
    assert found["agreement"].keys() <= {"error", "error_before"}  # not seconds, nor the latency
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
    made = tmp_path / "made"
    command = ("adapt", run, "--front", "--method", "control", "--samples", 16, "--output", made)
    code, out, err = cli(*command, "--json")
    assert code == 0, err
    found = json.loads(out)
    shown = Study.open(run).results.shown()
    assert [row["network"] for row in found["rows"]] == [trial.name for trial in shown]
    for row, trial in zip(found["rows"], shown, strict=True):
        folder = made / trial.name.removeprefix("#")
        assert load_adapter(folder / "control").about.method == "control"
        assert row["val_loss believed"] == trial.believed["val_loss"][0]
        assert (
            row["val_loss"]
            == json.loads((folder / "control/metrics.json").read_text())["scores"]["val_loss"]
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "tau"), [([0.1, 0.2, 0.3, 0.4], 1.0), ([0.4, 0.3, 0.2, 0.1], -1.0)]
)
def test_orders_agree_where_better_is_better_in_both(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: list[float], tau: float
) -> None:
    """A score of which more is better counts the other way round."""
    shown = Study.open(run).results.shown()
    ordered = sorted(shown, key=lambda trial: trial.believed["val_loss"][0])
    assert len(shown) >= 3  # of fewer no order is compared
    places = {trial.name.removeprefix("#"): n for n, trial in enumerate(ordered)}

    def distilled(network: Path, *_: object, **__: object) -> list[dict[str, float]]:
        value = after[places[network.parent.name]]
        return [{"steps": 2, "seconds": 9 - value, "error": value, "alignment": -value}]

    monkeypatch.setattr(module, "distill", distilled)
    found = module.distill_front(run, tmp_path / "made", to=2)
    assert {name: each["tau"] for name, each in found["agreement"].items()} == {
        "error": pytest.approx(tau),
        "alignment": pytest.approx(tau),
    }


def test_a_folder_that_is_no_run_is_refused(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    code, _, err = cli("distill", checkpoint, "--front", "--output", tmp_path / "made")
    assert code == 2
    assert str(checkpoint) in err
    assert not (tmp_path / "made").exists()
