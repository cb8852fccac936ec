"""A pipeline draws what ``archsearch generate`` draws, without archsearch and torch."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from archsearch.adapters.generate import generate
from archsearch.diffusion.trained import WEIGHTS, Conditions, save_trained
from archsearch.errors import InputError
from archsearch.export.formats import export
from archsearch.export.make_picture import Noise, Pipeline
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet
from tests.adapters.conftest import checkpoint, own_cache
from tests.conftest import Cli
from tests.data import brought
from tests.export.test_card import rows
from tests.export.test_contract import ADDED, TINY

__all__ = ["checkpoint", "own_cache"]  # fixtures

# One level of 255: both compute in float32, in another order, and round in the end.
LEVELS = 1


def levels(drawn: Image.Image, wanted: torch.Tensor) -> int:
    """The largest difference of a value of a pixel."""
    got = np.asarray(drawn).transpose(2, 0, 1).astype(int)
    return int(np.abs(got - wanted.numpy()).max())


def a_network(folder: Path, latent: str, config: dict[str, Any], **conditions: Any) -> Path:
    """A network with random weights that heeds its input, in the folder of a trained one."""
    torch.manual_seed(0)
    network = UNet(UNetConfig.model_validate(TINY.to_dict() | config)).eval()
    text = str(brought.t5(folder / "t5"))
    given = {"text": text, "tokens": 5, "latent": latent, "prediction": "v"} | conditions
    save_trained(folder / "network", network, Conditions.model_validate(given), {"val_loss": 0.5})
    return folder / "network"


@pytest.mark.parametrize("count", [16, 3072, 108], ids=str)
def test_noise_is_that_of_torch(count: int) -> None:
    noise, generator = Noise(7, (1, count)), torch.Generator().manual_seed(7)
    for _ in range(3):
        wanted = torch.randn(1, count, generator=generator).numpy()
        assert np.abs(noise() - wanted).max() < 1e-6


def test_only_a_trained_network_draws(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"takes a trained network: give the folder that .*train"):
        export(TINY, "pipeline", tmp_path / "net")
    network = a_network(tmp_path, "pixels", {})  # of three channels
    given = Conditions.model_validate(json.loads((network / "trained.json").read_text()))
    with pytest.raises(InputError, match=r"channels of the sample: the network takes 4, .* give 3"):
        export(TINY, "pipeline", tmp_path / "net", network / WEIGHTS, conditions=given)
    with pytest.raises(InputError, match="takes an added embedding"):
        export(ADDED, "pipeline", tmp_path / "net", network / WEIGHTS, conditions=given)
    assert not (tmp_path / "net").exists()


RGB = {"in_channels": 3, "out_channels": 3}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "in any number of steps": ("pixels", RGB, {}),
    "predicting the noise": ("pixels", RGB, {"prediction": "epsilon"}),
    "with the weight of guidance as an input": (
        "pixels", RGB | {"guidance_dim": 8}, {"steps": 3, "guidance": (1.0, 8.0)}
    ),
    "with guidance in its weights": ("pixels", RGB, {"steps": 3, "guidance": (4.0, 4.0)}),
    "whole pictures, with noise added again": ("pixels", RGB, {"steps": 3, "sampler": "renoise"}),
    "pixels unshuffled": ("unshuffle", {"in_channels": 12, "out_channels": 12}, {}),
    "latents": ("an autoencoder's", {}, {}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_is_sampled_as_archsearch_does(
    kind: str, cli: Cli, tmp_path: Path
) -> None:
    latent, config, conditions = KINDS[kind]
    if latent == "an autoencoder's":
        latent = str(brought.kl(tmp_path / "kl", scaling_factor=0.5, shift_factor=0.1))
    trained = a_network(tmp_path, latent, config, **conditions)
    given = ("--format", "pipeline", "--output", tmp_path / "net")
    assert cli("export", trained, *given)[0] == 0
    pipeline = Pipeline(tmp_path / "net")
    for steps in (1, 7, 30) if "steps" not in conditions else (3,):
        for guidance in (1.0, 3.0) if conditions.get("guidance") != (4.0, 4.0) else (None,):
            wanted = generate(trained, ["a red heart"], steps, guidance, seed=5)[0]
            assert wanted.float().std() > 20  # it is no empty picture
            drawn = pipeline.draw("a red heart", steps, guidance, seed=5)
            assert levels(drawn, wanted) <= LEVELS
    default = generate(trained, ["x"])[0]
    assert levels(pipeline.draw("x"), default) <= LEVELS


# Runs a script where neither torch nor archsearch can be imported.
ALONE = (
    "import runpy, sys\n"
    "for name in ('torch', 'archsearch', 'transformers', 'diffusers'): sys.modules[name] = None\n"
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')\n"
)


def alone(folder: Path, *given: str) -> subprocess.CompletedProcess[str]:
    """What the script of a pipeline says, by itself, far from its folder."""
    command = [sys.executable, "-c", ALONE, str(folder / "make_picture.py"), *given]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_script_draws_what_a_trained_proxy_draws(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    folder, picture = tmp_path / "pipe", tmp_path / "out.png"
    code, _, err = cli("export", checkpoint, "--format", "pipeline", "--output", folder)
    assert (code, err) == (0, "")
    given = ("--steps", "8", "--guidance", "3", "--seed", "4", "--output", str(picture))
    told = alone(folder, "red thing", *given)
    assert (told.returncode, told.stderr) == (0, "")
    wanted = generate(checkpoint, ["red thing"], 8, 3.0, seed=4)[0]
    with Image.open(picture) as drawn:
        assert levels(drawn, wanted) <= LEVELS
    too_many = alone(folder, "red thing", "--steps", "1001")
    assert too_many.returncode == 2
    assert "--steps: allowed are 1 to 1000, not 1001" in too_many.stderr
    cut = alone(folder, "a red thing that is much longer", *given)
    assert cut.stderr == "note: the prompt is too long; the end of it is not seen\n"
    card = rows((folder / "card.md").read_text())
    assert re.search(r"by more than [01] of 255", card["compared with archsearch"][0])
    assert "Apache License 2.0" in card["text_encoder.onnx"][0]
    assert "val_loss" in card


def guided(checkpoint: Path, folder: Path) -> Path:
    """A network like that of ``checkpoint`` which takes the weight of guidance; random weights."""
    torch.manual_seed(0)
    config = json.loads((checkpoint / "config.json").read_text()) | {"guidance_dim": 8}
    conditions = json.loads((checkpoint / "trained.json").read_text())
    given = Conditions.model_validate(conditions | {"steps": 3, "guidance": [1.0, 8.0]})
    network = UNet(UNetConfig.model_validate(config)).eval()
    save_trained(folder, network, given, {"val_loss": 0.5})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["as it was trained", "with the weight of guidance as an input"])
def test_in_int8_it_draws_nearly_the_same(
    kind: str, cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    is_guided, steps, sizes = kind != "as it was trained", 3, {}
    trained = guided(checkpoint, tmp_path / "guided") if is_guided else checkpoint
    for format in ("pipeline", "pipeline-int8"):
        folder = tmp_path / format
        code, _, err = cli("export", trained, "--format", format, "--output", folder)
        assert (code, err) == (0, "")
        sizes[format] = (folder / "unet.onnx").stat().st_size
    assert sizes["pipeline-int8"] < sizes["pipeline"]
    wanted = generate(trained, ["red thing"], steps, 3.0, seed=4)[0]
    drawn = Pipeline(tmp_path / "pipeline-int8").draw("red thing", steps, 3.0, seed=4)
    apart = np.abs(np.asarray(drawn).transpose(2, 0, 1).astype(int) - wanted.numpy())
    assert 0 < apart.mean() < 8
    card = rows((tmp_path / "pipeline-int8" / "card.md").read_text())
    assert re.search(r"differ by \d+\.\d of 255 in the mean", card["compared with archsearch"][0])
    assert "training pictures" in card["unet.onnx: activations were calibrated on"][0]
    study = checkpoint.parent / "study.yaml"
    given = ("--format", "onnx-int8", "--study", study, "--output", tmp_path / "net.onnx")
    code, _, err = cli("export", trained, *given)
    assert (code, err) == (0, "")
