"""What is made from every member of a front, with one budget each."""

import json
from pathlib import Path

import pytest

import archsearch
from archsearch import after as module
from archsearch.adapters.training import load_adapter
from archsearch.api import Study
from archsearch.diffusion.trainer import DivergedError
from archsearch.errors import InputError
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
    elsewhere = tmp_path / "elsewhere"  # the run knows the answers: nothing is trained again
    code, again, err = cli(*command[:4], elsewhere, *command[5:], "--json")
    assert (code, json.loads(again)) == (0, found), err
    assert {path.name for path in elsewhere.iterdir()} == {"front_of.json", "front.json"}
    code, _, err = cli(*command[:-1], 24)
    assert code == 2
    assert "these differ: samples (16 there, 24 here)" in err


@pytest.mark.slow
def test_the_run_knows_of_quality_by_number_of_steps(cli: Cli, run: Path, tmp_path: Path) -> None:
    """Undistilled, and distilled after each round; what was made of it stands in the report's data,
    and a further score of it trains nothing again."""
    code, out, err = cli("few-steps", run, "--steps", 3, "--steps", 1, "--json")
    assert code == 0, err
    shown = {trial.name: trial for trial in Study.open(run).results.shown()}
    rows = [row for row in json.loads(out)["steps"] if row["how"] == "undistilled"]
    assert {(row["network"], row["steps"]) for row in rows} >= {
        (name, steps) for name in shown for steps in (3, 1)
    }
    assert all(row["passes"] == 2 * row["steps"] for row in rows)
    code, _, err = cli("few-steps", run, "--steps", 2)
    assert code == 2
    assert "--steps: in 2 the study draws anyway" in err
    made = tmp_path / "made"
    command = ("distill", run, "--front", "--output", made, "--from", 4, "--to", 1)
    command = (*command, "--samples", 16, "--seed", 5)
    assert cli(*command)[0] == 0
    weights = {path: path.read_bytes() for path in made.rglob("weights.safetensors")}
    assert len(weights) == len(shown) * 5  # the network, three rounds, and the last of them again
    cut_off = next(made.rglob("rounds/1"))  # as it is while the round is trained
    for name in ("config.json", "trained.json", "weights.safetensors", "metrics.json"):
        (cut_off / name).unlink()
    code, out, err = cli(*command, "--metrics", "kid_effnet", "--json")
    assert code == 0, err
    assert {path: path.read_bytes() for path in made.rglob("weights.safetensors")} == weights
    found = Study.open(run).after_search()
    assert found is not None
    of_seed = next(each["how"] for each in found["settings"] if "seed 5" in each["settings"])
    distilled = [row for row in found["steps"] if row["how"] == of_seed]
    assert {(row["network"], row["steps"]) for row in distilled} == {
        (name, steps) for name in shown for steps in (2, 1)
    }
    by_name = {row["network"]: row for row in json.loads(out)["rows"]}
    for row in distilled:
        assert row["passes"] == row["steps"]
        if row["steps"] == 1:
            assert row["scores"]["kid_effnet"] == by_name[row["network"]]["kid_effnet"]
            (plain,) = [
                each
                for each in found["steps"]
                if (each["network"], each["how"], each["steps"])
                == (row["network"], "undistilled", 1)
            ]
            undistilled = by_name[row["network"]]["undistilled_kid_effnet"]
            assert plain["scores"]["kid_effnet"] == undistilled


def test_what_few_steps_cannot_score_is_refused(cli: Cli, checkpoint: Path) -> None:
    code, _, err = cli("few-steps", checkpoint)
    assert code == 2
    assert str(checkpoint) in err
    with pytest.raises(InputError, match="--steps: 0 is none of the numbers from 1 to 1000"):
        archsearch.few_steps(checkpoint, [8, 0])
    code, _, err = cli("few-steps", checkpoint, "--metrics", "sharpness")
    assert code == 2
    assert "'sharpness' is not known" in err


def test_a_front_is_scored_by_as_many_pictures_as_its_study_says(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    command = ("distill", checkpoint, "--front", "--images", 32, "--output", tmp_path / "made")
    code, _, err = cli(*command)
    assert code == 2
    assert "metrics.images" in err


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
    known = Study.open(run).after_search()
    assert known is not None
    adapters = {row["network"]: row["val_loss"] for row in known["adapters"]}
    assert adapters == {row["network"]: row["val_loss"] for row in found["rows"]}
    code, again, err = cli(*command, "--json")  # the command again trains nothing
    assert (code, json.loads(again)) == (0, found), err


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
    seed = 10 + after.index(0.1)  # what the run knows already is not made again
    found = module.distill_front(run, tmp_path / "made", to=2, seed=seed)
    assert {each["networks"] for each in found["agreement"].values()} == {len(shown)}
    assert {name: each["tau"] for name, each in found["agreement"].items()} == {
        "error": pytest.approx(tau),
        "alignment": pytest.approx(tau),
    }


@pytest.mark.slow
def test_a_network_whose_training_ends_by_itself_does_not_keep_the_others(
    cli: Cli, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Study.open(run).results.shown()
    bad = {shown[0].name.removeprefix("#")}

    def distilled(network: Path, *_: object, **__: object) -> list[dict[str, float]]:
        if network.parent.name in bad:
            raise DivergedError("diverged at sample 16: loss nan")
        return [{"steps": 2, "error": 0.1}]

    monkeypatch.setattr(module, "distill", distilled)
    made = tmp_path / "made"
    command = ("distill", run, "--front", "--to", 2, "--seed", 77, "--output", made)
    code, out, err = cli(*command)
    assert code == 0, err
    assert f"{shown[0].name}: diverged at sample 16" in out + err
    rows = json.loads((made / module.FRONT).read_text())["rows"]
    assert [row["network"] for row in rows] == [trial.name for trial in shown]
    assert ["ended" in row for row in rows] == [True, *[False] * (len(shown) - 1)]
    bad = {trial.name.removeprefix("#") for trial in shown}
    other = (*command[:5], "--seed", 78, "--output", tmp_path / "none")
    code, _, err = cli(*other)
    assert code == 1
    assert "diverged at sample 16" in err


def test_a_folder_that_is_no_run_is_refused(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    code, _, err = cli("distill", checkpoint, "--front", "--output", tmp_path / "made")
    assert code == 2
    assert str(checkpoint) in err
    assert not (tmp_path / "made").exists()
