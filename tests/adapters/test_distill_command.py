"""``archsearch distill`` and what it leaves, from the command line."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Cli


@pytest.mark.slow
def test_a_network_is_distilled_and_draws_in_its_steps(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    command = ("distill", checkpoint, "--output", few, "--from", 4, "--to", 2, "--samples", 16)
    code, out, err = cli(*command, "--json", "--metrics", "kid_effnet", "--images", 8)
    assert code == 0, err
    rows = json.loads(out)
    assert [row["steps"] for row in rows] == [None, 2]
    assert {"kid_effnet", "undistilled_kid_effnet", "error", "error_before"} <= rows[0].keys()
    assert json.loads((few / "rounds.json").read_text())["rounds"] == rows
    assert Image.open(few / "samples.png").width == 8 * 16 * 3
    code, again, err = cli(*command, "--json", "--metrics", "kid_effnet", "--images", 8)
    assert (code, json.loads(again)) == (0, rows), err

    draw = ("generate", few, "--output", tmp_path / "x.png", "red thing")
    assert cli(*draw)[0] == 0
    assert cli(*draw, "--guidance", 8)[0] == 0
    for more, told in (
        (("--steps", 3), "--steps: 3, but the network was distilled to 2"),
        (("--guidance", 9), "--guidance: 9 is not a weight that the network was distilled for"),
    ):
        code, _, err = cli(*draw, *more)
        assert code == 2
        assert told in err
    assert cli("generate", few / "rounds" / "guidance", *draw[2:], "--steps", 3)[0] == 0

    code, _, err = cli(*command[:-1], 24)  # more pictures than the rounds have seen
    assert code == 2
    assert "is the checkpoint of another training; these differ: recipe.samples (16" in err
    code, _, err = cli(*command, "--seed", 1)
    assert code == 2
    assert "holds other work of this kind; these differ: seed (0 there, 1 here)" in err

    fewer = tmp_path / "one"
    code, out, err = cli("distill", few, "--output", fewer, "--to", 1, "--samples", 16)
    assert code == 0, err
    assert "error_before" in out
    assert cli("generate", fewer, *draw[2:])[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ufogen", "dmd"])
def test_a_generator_draws_at_once(method: str, cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    command = ("distill", checkpoint, "--output", one, "--method", method, "--to", 1)
    code, out, err = cli(*command, "--samples", 16, "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert [row["samples"] for row in rows] == [8, 16]
    assert {"generator", "opponent", "discriminator", "variance"} <= rows[0].keys()
    assert Image.open(one / "curve.png").width > 300
    code, _, err = cli("generate", one, "--output", tmp_path / "x.png", "red thing")
    assert code == 0, err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--to", 7), "--to: 7 steps are not reached by halving 64; allowed are 32, 16, 8, 4, 2"),
        (("--method", "halving"), "--method: 'halving' is not known; allowed are progressive,"),
        (("--method", "dmd", "--to", 8), "--to: 8, but a generator draws in 1, 2, 4 steps"),
        (("--method", "dmd", "--to", 1, "--from", 8), "--from: belongs to --method progressive"),
        (("--method", "ufogen", "--to", 1, "--guidance", 1, 8), "ufogen learns from pictures"),
        (("--method", "dmd", "--to", 1, "--guidance", 1, 8), "learns one, from 1 to 30: give it"),
        (("--guidance", 0, 8), "--guidance: 0 8 must be two weights from 1 to 30"),
        (("--metrics", "kid_efnet"), "--metrics: 'kid_efnet' is not known; allowed are"),
        (("--learning-rate", 0), "--learning-rate: must be more than 0, but got 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    more: tuple[str, ...], told: str, cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    code, _, err = cli("distill", checkpoint, "--output", tmp_path / "x", *more)
    assert code == 2
    assert told in err
    assert not (tmp_path / "x").exists()


def test_folders_that_do_not_fit_are_refused(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    code, _, err = cli("distill", tmp_path / "none", "--output", tmp_path / "x")
    assert code == 2
    assert "there is no such folder" in err
    code, _, err = cli("distill", checkpoint, "--output", checkpoint)
    assert code == 2
    assert "is the folder of the network itself" in err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    code, _, err = cli("distill", checkpoint, "--output", tmp_path / "full")
    assert code == 2
    assert "exists and is not an empty folder, nor one with distill.json" in err


def test_prompts_are_read_from_a_file_and_long_ones_told(
    cli: Cli, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red thing\n\nblue thing and much more than four tokens\n")
    draw = ("generate", checkpoint, "--output", tmp_path / "x.png", "--steps", 1)
    code, out, err = cli(*draw, "--file", prompts)
    assert code == 0, err
    assert "2 pictures" in out
    assert "takes the first 4: the rest is not seen" in caplog.text
    code, _, err = cli(*draw)
    assert code == 2
    assert "no prompts are given" in err
    code, _, err = cli(*draw, "red thing", "  ")
    assert code == 2
    assert "prompt 2 of 2 is empty" in err
