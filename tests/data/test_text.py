"""MiniLM, and CLIP and T5 that a user brings: every kind of folder gives its own model's states."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from archsearch.data.prepare import prepare
from archsearch.data.spec import DataSpec
from archsearch.data.text import MiniLM, TextEncoder, context_dim, text_encoder
from archsearch.errors import InputError

from . import brought


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    def refuse(*args: object) -> None:
        raise AssertionError("the encoder must load without the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        encoder = MiniLM()
        encoder.pooled(["warm up"])
    return encoder


def test_token_states(minilm: TextEncoder) -> None:
    states = minilm.encode(["dog", "a very long caption with many more words than fit", ""], 6)
    assert states.shape == (3, 6, minilm.dim)
    assert states.dtype == torch.float32
    assert states[0, :3].abs().sum(-1).gt(0).all()  # [CLS] dog [SEP]
    assert states[0, 3:].eq(0).all()
    assert states[1].abs().sum(-1).gt(0).all()
    assert states[2, 2:].eq(0).all()


def test_states_do_not_depend_on_company(minilm: TextEncoder) -> None:
    alone = minilm.encode(["red apple"], 8)
    beside = minilm.encode(["a much longer caption than the other one", "red apple"], 8)
    torch.testing.assert_close(alone[0], beside[1], atol=1e-5, rtol=1e-4)


def test_pooled_vectors_know_what_is_alike(minilm: TextEncoder) -> None:
    vectors = minilm.pooled(["a red apple", "an apple fruit", "a green car"])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert float(vectors[0] @ vectors[1]) == pytest.approx(0.796, abs=0.01)
    assert float(vectors[0] @ vectors[2]) < 0.5


def test_nothing_in_nothing_out(minilm: TextEncoder) -> None:
    assert minilm.encode([], 4).shape == (0, 4, minilm.dim)
    assert minilm.pooled([]).shape == (0, minilm.dim)


KINDS: dict[str, Callable[[Path], Path]] = {
    "CLIPModel": lambda folder: brought.clip(folder, "CLIPModel"),
    "CLIPTextModel": brought.clip,
    "CLIPTextModelWithProjection": lambda folder: brought.clip(
        folder, "CLIPTextModelWithProjection"
    ),
    "T5EncoderModel": brought.t5,
    "T5ForConditionalGeneration": lambda folder: brought.t5(folder, "T5ForConditionalGeneration"),
}


@pytest.fixture(params=list(KINDS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return KINDS[str(request.param)](tmp_path / str(request.param))


def test_states_are_the_models_own(folder: Path) -> None:
    encoder: TextEncoder = text_encoder(str(folder))
    states = encoder.encode(["a dog", "a dog, far off, at the sea", ""], 10)
    assert states.shape == (3, 10, encoder.dim)
    assert states.dtype == torch.float32
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    whole = getattr(transformers, folder.name).from_pretrained(folder).eval()
    model = (
        getattr(whole, "encoder", whole)
        if folder.name.startswith("T5")
        else getattr(whole, "text_model", whole)
    )
    alone = tokenizer(["a dog"], return_tensors="pt")
    with torch.no_grad():
        wanted = model(
            input_ids=alone["input_ids"], attention_mask=alone["attention_mask"]
        ).last_hidden_state[0]
    torch.testing.assert_close(states[0, : len(wanted)], wanted)
    assert states[0, len(wanted) :].eq(0).all()
    assert states[1].abs().sum(-1).gt(0).all()  # cut at ten


def test_width_is_known_without_weights(folder: Path) -> None:
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    assert context_dim(str(folder)) == (24 if folder.name.startswith("T5") else 16)
    with pytest.raises(
        InputError,
        match=r"data\.text: .*: it has no weights \(\.safetensors, or \.bin\)\. "
        "Needed: the folder or id",
    ):
        text_encoder(str(folder)).encode(["a"], 4)


def test_pooled_vectors_have_unit_norm(folder: Path) -> None:
    vectors = text_encoder(str(folder)).pooled(["a dog", "the sea at night"])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    assert not torch.allclose(vectors[0], vectors[1])


def test_the_version_is_that_of_the_weights_wherever_they_lie(tmp_path: Path) -> None:
    one = brought.clip(tmp_path / "one")
    two = Path(shutil.copytree(one, tmp_path / "two"))
    other = brought.clip(tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["final_layer_norm.bias"] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    versions = [text_encoder(str(folder)).version for folder in (one, two, other)]
    assert versions[0] == versions[1] != versions[2]
    spec = DataSpec(size=8, limit=30, held_out=0.3, tokens=8)
    first, second, third = (
        prepare(spec.model_copy(update={"text": str(folder)})) for folder in (one, two, other)
    )
    assert first.fingerprint == second.fingerprint != third.fingerprint
    assert first.context.shape == (30, 8, 16)
    assert not torch.equal(first.context, third.context)
    assert torch.equal(first.encode(first.captions[:2]), first.context[:2])


def test_weights_as_bin_are_read_without_pickles(tmp_path: Path) -> None:
    folder = brought.clip(tmp_path / "clip")
    wanted = text_encoder(str(folder)).encode(["a dog"], 4)
    old = Path(shutil.copytree(folder, tmp_path / "old"))
    torch.save(load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    torch.testing.assert_close(text_encoder(str(old)).encode(["a dog"], 4), wanted)
    torch.save({"x": Path("code")}, old / "pytorch_model.bin")
    fresh = Path(shutil.copytree(old, tmp_path / "fresh"))
    with pytest.raises(InputError, match=r"data\.text: .*fresh: cannot be loaded"):
        text_encoder(str(fresh)).encode(["a"], 4)


def test_a_pipelines_tokenizer_lies_beside_its_encoder(tmp_path: Path) -> None:
    wanted = text_encoder(str(brought.clip(tmp_path / "alone"))).encode(["a dog"], 4)
    brought.clip(tmp_path / "pipeline" / "text_encoder_2", tokenizer=False)
    brought.clip_tokenizer(tmp_path / "pipeline" / "tokenizer_2")
    assert torch.equal(
        text_encoder(str(tmp_path / "pipeline" / "text_encoder_2")).encode(["a dog"], 4), wanted
    )


@pytest.mark.parametrize(
    "damage",
    ["cut", "lacks", "other model", "no config", "broken config", "no tokenizer", "odd width"],
)
def test_what_is_damaged_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    folder = brought.clip(tmp_path / "clip", tokenizer=damage != "no tokenizer")
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-50])
    elif damage == "lacks":
        tensors = load_file(weights)
        del tensors["final_layer_norm.bias"]
        save_file(tensors, weights, metadata={"format": "pt"})
    elif damage == "no config":
        config.unlink()
    elif damage != "no tokenizer":
        change = {"odd width": {"hidden_size": "wide"}, "other model": {"model_type": "bert"}}.get(
            damage, {}
        )
        config.write_text(
            "{"
            if damage == "broken config"
            else json.dumps(json.loads(config.read_text()) | change)
        )
    with pytest.raises(
        InputError, match=r"^data\.text: .*clip: .+ Needed: the folder or id of a transformers CLIP"
    ) as raised:
        text_encoder(str(folder)).encode(["a dog"], 4)
    assert "\n" not in str(raised.value)
    assert {"lacks": "lack 1 tensors, such as final_layer_norm.bias", "other model": "'bert'"}.get(
        damage, ""
    ) in str(raised.value)


def test_names_that_are_nothing() -> None:
    with pytest.raises(
        InputError,
        match=r"data\.text: 'minilmm' is not known\. Did you mean 'minilm'\? "
        "Allowed are: minilm, the folder",
    ):
        text_encoder("minilmm")
    with pytest.raises(
        InputError,
        match=r"data\.text: /no/where/at all: there is no such folder, "
        "and it is no id of the form org/name",
    ):
        text_encoder("/no/where/at all")


def test_an_id_without_a_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError,
        match=r"^data\.text: org/none: there is no such folder, and the hub does not give it \(",
    ) as raised:
        text_encoder("org/none")
    assert "\n" not in str(raised.value)
