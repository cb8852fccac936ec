"""What identifies a model: two of one repository, and one whose small files change, are different
models.
"""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from archsearch.data.hub import ModelFolder
from archsearch.data.latent import latent_space
from archsearch.data.text import text_encoder
from archsearch.errors import InputError

from . import brought

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of a pipeline with two text encoders and two autoencoders, as the hub's library
    would leave it.
    """
    root = tmp_path / "models--org--pipeline" / "snapshots" / COMMIT
    for name in ("text_encoder", "text_encoder_2"):
        brought.clip(root / name)
    for name in ("vae", "vae_b"):
        brought.kl(root / name)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *names, **more: str(root))
    return root


def test_models_of_one_repository_are_told_apart(repository: Path) -> None:
    versions = [
        text_encoder(f"org/pipeline/{name}").version for name in ("text_encoder", "text_encoder_2")
    ]
    assert versions == [f"{COMMIT}/text_encoder", f"{COMMIT}/text_encoder_2"]
    assert latent_space("org/pipeline/vae").key != latent_space("org/pipeline/vae_b").key


def version(folder: Path) -> str:
    return str(text_encoder(str(folder)).version)


@pytest.mark.parametrize("changed", ["config.json", "tokenizer_config.json"])
def test_configuration_and_tokenizer_are_of_the_model(tmp_path: Path, changed: str) -> None:
    one = brought.clip(tmp_path / "one")
    other = Path(shutil.copytree(one, tmp_path / "other"))
    settings = json.loads((other / changed).read_text())
    (other / changed).write_text(json.dumps(settings | {"hidden_act": "gelu"}))
    assert version(one) != version(other)


def test_a_tokenizer_beside_the_encoder_is_of_it_and_the_place_is_not(tmp_path: Path) -> None:
    brought.clip(tmp_path / "a" / "text_encoder", tokenizer=False)
    brought.clip_tokenizer(tmp_path / "a" / "tokenizer")
    for name in ("b", "c"):
        shutil.copytree(tmp_path / "a", tmp_path / name)
    (tmp_path / "c" / "tokenizer" / "vocab.json").write_text("{}")
    a, b, c = (version(tmp_path / name / "text_encoder") for name in "abc")
    assert a == b != c


def test_an_autoencoders_configuration_is_of_it(tmp_path: Path) -> None:
    one = brought.kl(tmp_path / "one")
    other = Path(shutil.copytree(one, tmp_path / "other"))
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(settings | {"act_fn": "relu"}))
    assert latent_space(str(one)).key != latent_space(str(other)).key


def test_weights_that_may_not_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = next(brought.kl(tmp_path / "vae").glob("*.safetensors"))

    def refuse(*files: object) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(weights))

    monkeypatch.setattr("archsearch.data.hub._digest", refuse)
    with pytest.raises(
        InputError, match=r"proxy\.latent: .*safetensors cannot be read: Permission denied"
    ):
        ModelFolder("proxy.latent", str(tmp_path / "vae"), "an autoencoder").version()


def test_the_home_of_nobody_is_no_folder() -> None:
    with pytest.raises(InputError, match=r"data\.text: ~nosuchuser/clip: there is no such folder"):
        text_encoder("~nosuchuser/clip")
