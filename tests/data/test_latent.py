"""Latent spaces: pixels, and the autoencoders that a user brings."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from archsearch.data.latent import LatentSpace, latent_space
from archsearch.data.prepare import prepare
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError

from . import brought

EXACT = ["pixels", "unshuffle"]


@pytest.mark.parametrize("name", EXACT)
@given(seed=st.integers(0, 99), size=st.sampled_from([8, 16]))
def test_what_is_encoded_comes_back(name: str, seed: int, size: int) -> None:
    space: LatentSpace = latent_space(name)
    images = torch.randint(
        0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    samples = space.encode(images)
    assert samples.shape == (2, space.channels, size // space.factor, size // space.factor)
    assert samples.dtype == torch.float32
    assert samples.abs().max() <= 1
    assert torch.equal(space.decode(samples), images)


def test_what_lies_outside_is_cut_off() -> None:
    samples = torch.tensor([-3.0, 3.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert latent_space("pixels").decode(samples)[0, 0, 0].tolist() == [0, 255]


def test_unknown_name() -> None:
    with pytest.raises(
        InputError, match=r"proxy\.latent: 'pixel' is not known\. Did you mean 'pixels'"
    ):
        latent_space("pixel")


KINDS: dict[str, tuple[Callable[[Path], Path], int, int]] = {
    "kl": (brought.kl, 4, 4),
    "kl-8": (lambda folder: brought.kl(folder, 8), 8, 4),
    "kl-16-shifted": (
        lambda folder: brought.kl(folder, 16, shift_factor=0.1, scaling_factor=0.4),
        16,
        4,
    ),
    "kl-normalised": (
        lambda folder: brought.kl(
            folder, 4, latents_mean=[0.1, 0, 0, 0], latents_std=[2.0, 1, 1, 1]
        ),
        4,
        4,
    ),
    "tiny": (brought.tiny, 4, 2),
    "tiny-16": (lambda folder: brought.tiny(folder, 16), 16, 2),
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(
        0, 256, (11, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("kind", list(KINDS))
def test_latents_are_the_models_own(kind: str, tmp_path: Path, images: torch.Tensor) -> None:
    make, channels, factor = KINDS[kind]
    folder = make(tmp_path / kind)
    space: LatentSpace = latent_space(str(folder))
    assert (space.channels, space.factor, space.fixed) == (channels, factor, True)
    latents = space.encode(images)
    assert latents.shape == (11, channels, 16 // factor, 16 // factor)
    assert latents.dtype == torch.float32
    assert not latents.requires_grad
    assert torch.equal(latents, space.encode(images))
    model = getattr(
        diffusers, "AutoencoderTiny" if kind.startswith("tiny") else "AutoencoderKL"
    ).from_pretrained(folder)
    with torch.no_grad():
        encoded = model.encode(images.float() / 127.5 - 1)
        z = encoded.latents if kind.startswith("tiny") else encoded.latent_dist.mode()
        pixels = model.decode(z).sample
    config = model.config
    mean = torch.tensor(config.get("latents_mean") or [config.shift_factor or 0.0] * channels).view(
        1, -1, 1, 1
    )
    std = torch.tensor(config.get("latents_std") or [1.0] * channels).view(1, -1, 1, 1)
    torch.testing.assert_close(
        latents, (z - mean) / std * config.scaling_factor, atol=1e-5, rtol=1e-4
    )
    decoded = space.decode(latents)
    assert decoded.dtype == torch.uint8
    assert (decoded.float() - ((pixels.clamp(-1, 1) + 1) * 127.5).round()).abs().max() <= 1


def test_shape_is_known_without_weights(tmp_path: Path, images: torch.Tensor) -> None:
    folder = brought.kl(tmp_path / "kl", 16)
    (folder / WEIGHTS).unlink()
    space = latent_space(str(folder))
    assert (space.channels, space.factor) == (16, 4)
    with pytest.raises(
        InputError,
        match=r"proxy\.latent: .*kl: it has no weights .* "
        "Needed: the folder or id of a diffusers AutoencoderKL",
    ):
        space.encode(images)


def test_latents_are_computed_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = brought.kl(tmp_path / "kl")
    spec = DataSpec(size=32, limit=30, held_out=0.3, tokens=4)
    first = prepare(spec, str(folder))
    assert first.latents is not None
    assert (first.latents.shape, first.latents.dtype) == ((30, 4, 8, 8), torch.float16)
    index = torch.tensor([3, 0, 29])
    samples = first.samples(index)
    assert samples.dtype == torch.float32
    torch.testing.assert_close(
        samples, first.latent.encode(first.images[index]), atol=5e-3, rtol=5e-3
    )
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    monkeypatch.setattr("archsearch.data.latent.Autoencoder.encode", None)
    second = prepare(spec, str(moved))
    assert second.fingerprint == first.fingerprint != prepare(spec).fingerprint
    assert second.latents is not None
    assert torch.equal(second.latents, first.latents)


def test_the_latents_of_another_autoencoder_are_not_used(tmp_path: Path) -> None:
    one = brought.kl(tmp_path / "one")
    other = Path(shutil.copytree(one, tmp_path / "other"))
    weights = load_file(other / WEIGHTS)
    weights["quant_conv.bias"] += 1
    save_file(weights, other / WEIGHTS, metadata={"format": "pt"})
    spec = DataSpec(size=32, limit=30, held_out=0.3, tokens=4)
    first, second = prepare(spec, str(one)), prepare(spec, str(other))
    assert first.latents is not None
    assert second.latents is not None
    assert not torch.equal(first.latents, second.latents)
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"latent_channels": 3}, r"latent_channels 3 .* allowed are 4, 8, 16 channels"),
        (
            {"_class_name": "VQModel"},
            r"_class_name 'VQModel'; allowed are AutoencoderKL, AutoencoderTiny",
        ),
        ({"block_out_channels": None}, "blocks None"),
        ("cut", "cannot be loaded"),
        ("lacks", r"its weights lack 1 tensors, such as quant_conv\.bias"),
        ("no config", "it has no config.json"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    damage: dict[str, object] | str, told: str, tmp_path: Path, images: torch.Tensor
) -> None:
    folder = brought.kl(tmp_path / "kl")
    weights, config = folder / WEIGHTS, folder / "config.json"
    if isinstance(damage, dict):
        config.write_text(json.dumps(json.loads(config.read_text()) | damage))
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-50])
    elif damage == "lacks":
        tensors = load_file(weights)
        del tensors["quant_conv.bias"]
        save_file(tensors, weights, metadata={"format": "pt"})
    else:
        config.unlink()
    with pytest.raises(
        InputError,
        match=rf"^proxy\.latent: .*kl: .*{told}.* Needed: the folder or id of a diffusers",
    ) as raised:
        latent_space(str(folder)).encode(images)
    assert "\n" not in str(raised.value)


def test_an_id_without_a_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError,
        match=r"^proxy\.latent: org/none: there is no such folder, and the hub does not give it \(",
    ):
        latent_space("org/none")
