"""One network by itself, and what a proxy can be trusted with, from the command line. Data: two
dozen pictures in a folder.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock
from PIL import Image

from archsearch.diffusion.trainer import CHECKPOINT
from archsearch.study.engines import local
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
    data = {"source": "folder", "path": str(pictures), "size": 16, "tokens": 4, "held_out": 0.2}
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
    code, out, _ = cli(*command)
    assert code == 0
    assert json.loads(out)["samples"] == 32
    code, out, _ = cli(*command, "--samples", 64)
    assert code == 0
    assert json.loads(out)["samples"] == 64
    lines = (trained / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["samples", "8", "32", "64"]
    assert (trained / CHECKPOINT).is_file()
    assert Image.open(trained / "samples.png").width == 8 * 16 * 3
    assert (
        len((trained / "samples.txt").read_text().splitlines()) == 20
    )  # as many as there are to train on

    code, out, _ = cli(
        "generate",
        trained,
        "blue thing",
        "red thing",
        "--output",
        tmp_path / "drawn.png",
        "--steps",
        2,
    )
    assert code == 0
    assert "2 pictures" in out
    assert Image.open(tmp_path / "drawn.png").size == (8 * 16 * 3, 16 * 3)


def test_two_trainings_do_not_share_a_folder(cli: Cli, study: Path, tmp_path: Path) -> None:
    (tmp_path / "trained").mkdir()
    with FileLock(tmp_path / "trained" / ".lock"):
        code, _, err = cli(
            "train", tmp_path / "base.json", "--study", study, "--output", tmp_path / "trained"
        )
    assert code == 2
    assert "another training is at work in" in err


def test_a_network_that_was_not_trained_is_told(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("generate", tmp_path, "a cat", "--output", tmp_path / "x.png")
    assert code == 2
    assert "is no trained network, it has no config.json" in err
    code, _, err = cli("generate", tmp_path, "a cat", "--output", tmp_path / "x.jpg")
    assert code == 2
    assert "--output: must end in .png" in err


def test_weights_of_another_network_are_refused(cli: Cli, study: Path, tmp_path: Path) -> None:
    for name, change in (("a", "proxy.width=0.125"), ("b", "proxy.width=0.25")):
        assert (
            cli(
                "train",
                tmp_path / "base.json",
                "--study",
                study,
                "--output",
                tmp_path / name,
                "--set",
                change,
            )[0]
            == 0
        )
    (tmp_path / "b" / "weights.safetensors").replace(tmp_path / "a" / "weights.safetensors")
    code, _, err = cli("generate", tmp_path / "a", "a cat", "--output", tmp_path / "x.png")
    assert code == 2
    assert "weights.safetensors: not the weights of network " in err
    code, _, err = cli(
        "train", tmp_path / "base.json", "--study", study, "--output", tmp_path / "a", "--seed", 1
    )
    assert code == 2
    assert "is the checkpoint of another training; these differ: seed (0 there, 1 here)" in err


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
    code, out, _ = cli(*command, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["trainings"] == {"1": 6, "2": 6}
    assert json.loads((tmp_path / "v" / "validation.json").read_text()) == found
    assert Image.open(tmp_path / "v" / "validation.png").width > 300
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local.subprocess, "Popen", lambda *_, **__: pytest.fail("trained again"))
        code, out, _ = cli(*command)
    assert code == 0
    assert "1 × and 2 ×" in out
    assert "variance ratio" in out


def test_knobs_are_turned_alone(cli: Cli, study: Path, tmp_path: Path) -> None:
    code, out, _ = cli(
        "proxy",
        "ablate",
        study,
        "--seeds",
        2,
        "--workers",
        1,
        "--output",
        tmp_path / "a",
        "--metrics",
        "val_loss_int8",
    )
    assert code == 0
    assert "layers sa+ca+ff" in out
    assert (tmp_path / "a" / "ablation.md").read_text().startswith("| network | GMACs | val_loss |")
    rows = json.loads((tmp_path / "a" / "ablation.json").read_text())["rows"]
    assert len(rows) == 7
    assert all(row["effects"]["val_loss_int8"]["mean"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("validate", "--budgets", "1,x"), "--budgets: must be whole numbers divided by commas"),
        (("validate", "--budgets", "4,2"), "--budgets: must rise from 1 or more, but got '4,2'"),
        (("validate", "-n", "100"), "holds only 27 networks with proxies of their own, but 100"),
        (("ablate", "--around", "sd15"), "--around: 'sd15' does not lie in space 'space'"),
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
            "--metrics: 'kid_efnet' is not known. Did you mean 'kid_effnet'?",
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
