"""One network by itself, and what a proxy can be trusted with, from the command line. Data: two
dozen pictures in a folder.
"""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from archsearch.api import Study
from archsearch.diffusion.trainer import CHECKPOINT
from archsearch.study import worker
from archsearch.study.notes import notes_of, outcome
from tests.conftest import Cli
from tests.study.conftest import SPACE, STUDY


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(24):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(
            folder / f"{index:02}.png"
        )
        (folder / f"{index:02}.txt").write_text(f"{'red' if index % 2 else 'blue'} thing {index}")
    return folder


@pytest.fixture
def study(tmp_path: Path, pictures: Path) -> Path:
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE, sort_keys=False))
    (tmp_path / "base.json").write_text(json.dumps(SPACE["base"]))
    data = {"source": "folder", "path": str(pictures), "size": 16, "tokens": 4}
    data |= {"held_out": 0.2, "fewest_held_out": 3}
    path = tmp_path / "study.yaml"
    path.write_text(
        yaml.safe_dump(
            STUDY | {"space": str(tmp_path / "space.yaml"), "data": data}, sort_keys=False
        )
    )
    return path


def test_a_network_is_trained_goes_on_and_draws(cli: Cli, study: Path, tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    command = ("train", tmp_path / "base.json", "--study", study, "--output", trained, "--json")
    code, out, err = cli(*command)
    assert code == 0, err
    first = json.loads(out)
    assert (first["samples"], first["capped"]) == (32, False)
    code, out, err = cli(*command, "--samples", 64)
    assert code == 0, err
    assert json.loads(out)["samples"] == 64
    assert json.loads((trained / "metrics.json").read_text())["scores"] == json.loads(out)

    table = Study.open(trained).records()
    assert list(table.budget) == [32, 64]
    assert table.key.nunique() == 1
    folder = trained / "training" / f"{table.key[0]}-64"
    lines = (folder / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["samples", "8", "32", "64"]  # it went on
    assert (folder / CHECKPOINT).is_file()
    assert Image.open(trained / "samples.png").width == 8 * 16 * 3
    captions = json.loads((trained / "samples.json").read_text())["captions"]
    assert len(captions) == 20  # as many as there are to train on

    code, out, _ = cli(*command)  # what it was before, without a training
    assert code == 0
    assert json.loads(out) == first

    code, out, err = cli(
        "generate",
        trained,
        "blue thing",
        "--prompt",
        "red thing",
        "--output",
        tmp_path / "drawn.png",
        "--steps",
        2,
    )
    assert code == 0, err
    assert "2 pictures" in out
    drawn_as = json.loads((trained / "trained.json").read_text())["sampling"]
    assert drawn_as == Study(study).spec.sampling.model_dump()
    assert Image.open(tmp_path / "drawn.png").size == (8 * 16 * 3, 16 * 3)


def test_another_seed_is_another_training_in_the_same_folder(
    cli: Cli, study: Path, tmp_path: Path
) -> None:
    trained = tmp_path / "trained"
    command = ("train", tmp_path / "base.json", "--study", study, "--output", trained, "--json")
    found = []
    for seed in (0, 1):
        code, out, err = cli(*command, "--seed", seed)
        assert code == 0, err
        found.append(json.loads(out)["val_loss"])
    assert found[0] != found[1]
    assert list(Study.open(trained).records().val_loss) == found


def test_a_search_in_the_folder_of_a_training_uses_it(
    cli: Cli, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_process = lambda run, target, *_: worker.work(run, target)  # noqa: E731
    monkeypatch.setattr(worker, "run_workers", in_process)
    folder = tmp_path / "both"
    with (tmp_path / "space.yaml").open("a") as space:
        space.write("rules: ['stages[0].channels == 64', 'stages[1].channels == 128']\n")
    search = ("run", study, "--output", folder, "--trials", 3, "--workers", 1)
    changes = ("--set", "search.confirm_seeds=1", "--set", "report=[]")
    train = ("train", tmp_path / "base.json", "--study", study, "--output", folder)
    assert cli(*train, *changes)[0] == 0
    code, _, err = cli(*search, *changes)
    assert code == 0, err
    assert len(Study.open(folder).records()) == 3
    answered = [notes_of(t)["from_store"] for t in Study.open(folder).results.trials.all()]
    assert answered.count(True) == 1
    code, _, err = cli(*train, *changes)  # and the other way round
    assert code == 0, err
    assert {outcome(trial) for trial in Study.open(folder).results.trials.all()} == {"complete"}


def test_a_changed_study_begins_beside_the_old_one_with_its_front(
    cli: Cli, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "run_workers", lambda run, target, *_: worker.work(run, target))
    search = ("run", study, "--output", tmp_path / "first", "--workers", 1, "--trials", 3)
    changes = ("--set", "search.confirm_seeds=1", "--set", "report=[]")
    code, out, _ = cli(*search, *changes)
    assert code == 0
    page = tmp_path / "first" / "report.html"  # written where the extra is installed
    assert (f"Report: {page}" in out) == page.is_file() == bool(find_spec("altair"))
    changed = (*search, *changes, "--set", "proxy.learning_rate=0.002")
    code, _, err = cli(*changed)
    assert code == 2
    assert "proxy.learning_rate (0.001 → 0.002)" in err
    assert "--fork" in err
    code, _, err = cli(*changed, "--fork")
    assert code == 0, err
    old, new = (Study.open(tmp_path / name).results for name in ("first", "first-2"))
    assert {member.digest for member in old.front()} <= {trial.digest for trial in new.complete()}
    assert cli(*changed, "--fork", "--dry-run")[0] == 0
    assert not (tmp_path / "first-3").exists()


def test_the_folder_of_another_study_is_refused_by_key(
    cli: Cli, study: Path, tmp_path: Path
) -> None:
    command = ("train", tmp_path / "base.json", "--study", study, "--output", tmp_path / "trained")
    assert cli(*command)[0] == 0
    code, _, err = cli(*command, "--set", "proxy.width=0.25")
    assert code == 2
    assert "holds the run of another study; these differ: proxy.width (0.125 → 0.25)" in err


def test_a_network_that_was_not_trained_is_told(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("generate", tmp_path, "a cat", "--output", tmp_path / "x.png")
    assert code == 2
    assert "is no trained network, it has no config.json" in err
    code, _, err = cli("generate", tmp_path, "a cat", "--output", tmp_path / "x.jpg")
    assert code == 2
    assert "--output: must be called *.png" in err


def test_weights_of_another_network_are_refused(cli: Cli, study: Path, tmp_path: Path) -> None:
    for name, change in (("a", "proxy.width=0.125"), ("b", "proxy.width=0.25")):
        command = ("train", tmp_path / "base.json", "--study", study, "--output", tmp_path / name)
        assert cli(*command, "--set", change)[0] == 0
    (tmp_path / "b" / "weights.safetensors").replace(tmp_path / "a" / "weights.safetensors")
    code, _, err = cli("generate", tmp_path / "a", "a cat", "--output", tmp_path / "x.png")
    assert code == 2
    assert "weights.safetensors: not the weights of network " in err


def test_a_proxy_is_validated(cli: Cli, study: Path, tmp_path: Path) -> None:
    command = (
        "proxy",
        "validate",
        study,
        "-n",
        3,
        "--seeds",
        2,
        "--budgets",
        "1,2",
        "--workers",
        1,
        "--output",
        tmp_path / "v",
    )
    code, out, err = cli(*command, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["trainings"] == {"1": 6, "2": 6}
    assert json.loads((tmp_path / "v" / "validation.json").read_text()) == found
    assert Image.open(tmp_path / "v" / "validation.png").width > 300
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.subprocess, "Popen", lambda *_, **__: pytest.fail("trained again"))
        code, out, _ = cli(*command)
    assert code == 0
    assert "1 × and 2 ×" in out
    assert "variance ratio" in out


def test_effects_of_knobs_are_told(cli: Cli, study: Path, tmp_path: Path) -> None:
    code, out, _ = cli(
        "proxy",
        "ablate",
        study,
        "-n",
        4,
        "--workers",
        1,
        "--output",
        tmp_path / "a",
        "--metrics",
        "val_loss_int8",
    )
    assert code == 0
    assert "sa+ca+ff" in out
    table = (tmp_path / "a" / "ablation.md").read_text()
    assert table.startswith("| knob | choice | latency | params | val_loss |")
    rows = json.loads((tmp_path / "a" / "ablation.json").read_text())["effects"]
    assert len(rows) == 6
    assert all(row["val_loss_int8 low"] < row["val_loss_int8 high"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("validate", "--budgets", "1,x"), "--budgets: must be whole numbers divided by commas"),
        (("validate", "--budgets", "4,2"), "--budgets: must rise from 1 or more, but got '4,2'"),
        (("validate", "-n", "100"), "holds only 27 networks with proxies of their own, but 100"),
        (
            (
                "ablate",
                "--metrics",
                "kid_effnet",
                "--set",
                "sampling.steps=[2,4]",
                "--set",
                "objectives={kid_effnet: minimize, macs: minimize}",
            ),
            "sampling.steps",
        ),
        (
            ("ablate", "--metrics", "kid_efnet"),
            "--metrics: 'kid_efnet' is not known; allowed are ",
        ),
    ],
)
def test_bad_input_is_named(
    arguments: tuple[str, ...], message: str, cli: Cli, study: Path, tmp_path: Path
) -> None:
    command, *rest = arguments
    code, _, err = cli("proxy", command, study, "--output", tmp_path / "out", *rest)
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_training_is_not_begun_where_something_else_lies(
    cli: Cli, study: Path, tmp_path: Path, pictures: Path
) -> None:
    command = ("train", tmp_path / "base.json", "--study", study, "--output")
    before = sorted(pictures.iterdir())
    for folder, told in (
        (pictures, "exists and is not a run, nor an empty folder"),
        (pictures / "inside", "lies inside data.path"),
        (pictures / "00.png", "exists and is not a run"),
    ):
        code, _, err = cli(*command, folder)
        assert code == 2
        assert told in err
    assert sorted(pictures.iterdir()) == before
    hidden = tmp_path / "hidden"
    (hidden / ".git").mkdir(parents=True)
    assert cli(*command, hidden)[0] == 2, "a hidden folder is something else, too"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert cli(*command, empty)[0] == 0


def test_a_trial_of_a_search_is_to_be_trained_before_it_draws(
    cli: Cli, study: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    Study(study, folder).run_dir  # noqa: B018
    code, _, err = cli("generate", f"{folder}#3", "a cat", "--output", tmp_path / "a.png")
    assert code == 2
    assert f"Train it for longer: archsearch train '{folder}#3' --output DIR" in err
    code, _, err = cli("generate", folder, "a cat", "--output", tmp_path / "a.png")
    assert code == 2
    assert "is a run without a network to draw with" in err


def test_few_held_out_pictures_are_told_and_a_handful_refused(
    cli: Cli, study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = ("--set", "data.fewest_held_out=8")
    for command in (
        ("run", study, "--dry-run", "--output", tmp_path / "few"),
        ("train", tmp_path / "base.json", "--study", study, "--output", tmp_path / "few"),
    ):
        code, _, err = cli(*command, *few)
        assert code == 2
        assert "data.held_out: 0.2 leaves 4 of 24 pictures held out, fewer than the 8" in err
        assert "data.fewest_held_out: 4." in err
    assert not caplog.records
    code, out, _ = cli("run", study, "--dry-run", "--output", tmp_path / "few", "--json")
    assert code == 0
    assert json.loads(out)["pictures"] == {"train": 20, "held_out": 4, "left_out": {}}
    caplog.clear()
    assert cli(*command)[0] == 0
    assert "4 of 24 pictures held out: fewer than 32" in caplog.text
