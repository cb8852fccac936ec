"""``archsearch adapt``, and ``generate`` with what it made, from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from tests.conftest import Cli


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A picture, a mask of its left half, and a picture of another size."""
    paths = tmp_path / "picture.png", tmp_path / "mask.png", tmp_path / "large.png"
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(paths[0])
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[:, :8] = 255
    Image.fromarray(mask).save(paths[1])
    Image.new("RGB", (20, 20)).save(paths[2])
    return paths


def adapt(cli: Cli, checkpoint: Path, output: Path, method: str) -> dict[str, float]:
    command = ("adapt", checkpoint, "--output", output, "--method", method, "--samples", 16)
    code, out, err = cli(*command, "--json")
    assert code == 0, err
    code, again, _ = cli(*command, "--json")
    assert (code, json.loads(again)) == (0, json.loads(out))
    found: dict[str, float] = json.loads(out)
    return found


def drawn(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))[::3, : 16 * 3 : 3]  # the first picture, as it was drawn


@pytest.mark.slow
def test_a_lora_is_trained_and_drawn_with_on_the_distilled_network_too(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    lora = tmp_path / "lora"
    found = adapt(cli, checkpoint, lora, "lora")
    assert found["samples"] == 16
    assert 0 < found["share_of_network"] < 1
    with safe_open(lora / "adapter.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["adapter"])["rank"] == 8
    few, one = tmp_path / "few", tmp_path / "one"
    for output, more in (
        (few, ("--from", 4, "--to", 2)),
        (one, ("--method", "ufogen", "--to", 1)),
    ):
        command = ("distill", checkpoint, "--output", output, "--samples", 8, *more)
        assert cli(*command)[0] == 0
    for folder, steps in ((checkpoint, ("--steps", 2)), (few, ()), (one, ())):
        draw = ("generate", folder, "red thing", *steps, "--output", tmp_path / "x.png")
        assert cli(*draw)[0] == 0
        without = drawn(tmp_path / "x.png")
        code, _, err = cli(*draw, "--adapter", lora)
        assert code == 0, err
        assert (drawn(tmp_path / "x.png") != without).any()
    code, _, err = cli("adapt", few, "--output", tmp_path / "y")
    assert code == 2
    assert "--method lora: the network was distilled. Train the adapter for the network" in err


@pytest.mark.slow
def test_control_and_inpainting_heed_a_picture(
    cli: Cli, checkpoint: Path, tmp_path: Path, pictures: tuple[Path, Path, Path]
) -> None:
    picture, mask, large = pictures
    control, inpaint = tmp_path / "control", tmp_path / "inpaint"
    assert adapt(cli, checkpoint, control, "control")["share_of_network"] > 0
    adapt(cli, checkpoint, inpaint, "inpaint")
    draw = ("generate", checkpoint, "red thing", "--steps", 2, "--output", tmp_path / "x.png")
    assert cli(*draw, "--adapter", control, "--picture", picture)[0] == 0
    found = []
    for path in (picture, mask):
        assert cli(*draw, "--adapter", control, "--picture", path)[0] == 0
        found.append(drawn(tmp_path / "x.png"))
    assert (found[0] != found[1]).any()
    covered = ("--adapter", inpaint, "--picture", picture, "--mask", mask)
    assert cli(*draw, *covered)[0] == 0
    kept, real = drawn(tmp_path / "x.png"), np.asarray(Image.open(picture))
    assert (kept[:, 8:] == real[:, 8:]).all()
    assert (kept[:, :8] != real[:, :8]).any()
    for more, told in (
        (("--adapter", control), "--picture: is missing; the adapter"),
        (("--adapter", inpaint, "--picture", picture), "--mask: is missing; the adapter"),
        (("--adapter", control, *covered[2:]), "adapters of control take none"),
        (("--picture", picture), "is given, but no adapter that takes one is given"),
        (("--adapter", control, *covered), "both heed a picture; give one of them"),
        (
            ("--adapter", control, "--picture", large),
            "large.png is 20 × 20 pixels, but the network draws 16 × 16",
        ),
        (("--adapter", control, "--picture", tmp_path / "no.png"), "cannot be read as a picture"),
    ):
        code, _, err = cli(*draw, *more)
        assert code == 2
        assert told in err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--method", "dreambooth"), "--method: 'dreambooth' is not known; allowed are lora,"),
        (("--learning-rate", 0), "--learning-rate: must be more than 0, but got 0"),
        (("--set", "data.size=32"), "--set: overrides keys of a study, but no --study is given"),
        (
            ("--study", "quickstart"),
            "--study: its data.size is 32, but the network was trained with 16; give --set",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    more: tuple[str, ...], told: str, cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    code, _, err = cli("adapt", checkpoint, "--output", tmp_path / "x", *more)
    assert code == 2
    assert told in err
    assert not (tmp_path / "x").exists()
