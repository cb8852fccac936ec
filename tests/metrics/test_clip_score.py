import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from archsearch.data.prepare import Prepared
from archsearch.errors import InputError
from archsearch.metrics.networks import Clip, resize_and_crop
from archsearch.metrics.spec import MetricSettings
from tests.metrics.conftest import build_metric


def test_value_by_hand(settings: MetricSettings, clip_folder: Path, data: Prepared) -> None:
    from transformers import AutoTokenizer, CLIPModel

    captions = list(data.captions[:3])
    metric = build_metric("clip_score", data, settings)
    metric.update(data.images[:3], captions)
    tokens = AutoTokenizer.from_pretrained(clip_folder)(
        captions, padding=True, truncation=True, max_length=24, return_tensors="pt"
    )
    pixels = (
        data.images[:3].float() / 255 - 0.5
    ) / 0.25  # what the folder's preprocessor_config.json says
    output = CLIPModel.from_pretrained(clip_folder)(**tokens, pixel_values=pixels)
    cosine = (output.image_embeds * output.text_embeds).sum(1)
    assert metric.compute()["clip_score"] == pytest.approx(
        float((100 * cosine.detach()).clamp_min(0).mean()), rel=1e-4
    )


def test_newer_processor_file(
    settings: MetricSettings, clip_folder: Path, data: Prepared, tmp_path: Path
) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    old = folder / "preprocessor_config.json"
    (folder / "processor_config.json").write_text(
        json.dumps({"image_processor": json.loads(old.read_text())})
    )
    old.unlink()
    scores = []
    for clip in (str(folder), str(clip_folder)):
        metric = build_metric("clip_score", data, MetricSettings(clip=clip))
        metric.update(data.images[:4], data.captions[:4])
        scores.append(metric.compute())
    assert scores[0] == scores[1]


def test_preprocessing_resizes_crops_and_keeps_the_range() -> None:
    tall = torch.zeros(1, 3, 40, 20, dtype=torch.uint8)
    tall[..., 10:30, :] = 255  # the centre that is kept
    pixels = resize_and_crop(tall, 10, (0.0,) * 3, (1.0,) * 3)
    assert pixels.shape == (1, 3, 10, 10)
    assert pixels[..., 2:8, :].eq(1).all()
    assert 0 <= float(pixels.min()) <= float(pixels.max()) <= 1


@pytest.mark.parametrize("exists", [False, True])
def test_unusable_folder_is_named(data: Prepared, tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "clip"
    if exists:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match=rf"metrics\.clip: {folder}.*CLIPModel"):
        build_metric("clip_score", data, MetricSettings(clip=str(folder)))


def changed(clip_folder: Path, folder: Path, name: str, by: float | None) -> Path:
    """A copy of the CLIP with one tensor moved by a number, or left out."""
    shutil.copytree(clip_folder, folder)
    weights = folder / "model.safetensors"
    tensors = {key: tensor.clone() for key, tensor in load_file(weights).items()}
    if by is None:
        del tensors[name]
    else:
        tensors[name] += by
    save_file(tensors, weights, {"format": "pt"})
    return folder


def test_missing_weights_are_refused_and_not_filled_with_random_numbers(
    clip_folder: Path, tmp_path: Path
) -> None:
    folder = changed(clip_folder, tmp_path / "clip", "visual_projection.weight", None)
    with pytest.raises(
        InputError, match=rf"metrics\.clip: {folder}: its weights lack 1 tensors.*visual_projection"
    ):
        Clip(str(folder))


def test_damaged_preprocessing_is_named(clip_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": ["x"]}')
    with pytest.raises(
        InputError, match=r"metrics\.clip: .*preprocessor_config\.json cannot be read"
    ):
        Clip(str(folder))


def test_a_floor_is_of_one_text_tower_and_tokenizer(
    data: Prepared, clip_folder: Path, tmp_path: Path
) -> None:
    def floor(folder: Path) -> float:
        metric = build_metric("clip_score", data, MetricSettings(clip=str(folder)))
        metric.update(data.images[:4], data.captions[:4])
        return metric.compute()["clip_score_floor"]

    other = changed(clip_folder, tmp_path / "clip", "text_projection.weight", 0.1)
    assert Clip(str(other)).key == Clip(str(clip_folder)).key
    assert floor(other) != floor(clip_folder)
    respelled = tmp_path / "respelled"
    shutil.copytree(clip_folder, respelled)
    with (respelled / "tokenizer_config.json").open("a") as file:
        file.write(" ")
    assert Clip(str(respelled)).text_key != Clip(str(clip_folder)).text_key


def test_the_floor_embeds_only_the_pictures_it_is_of(
    data: Prepared, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHSEARCH_CACHE", str(tmp_path))
    seen: list[int] = []
    plain = Clip._look
    monkeypatch.setattr(
        Clip, "_look", lambda self, images: seen.append(len(images)) or plain(self, images)
    )
    metric = build_metric("clip_score", data, MetricSettings(clip=str(clip_folder)))
    metric.update(data.images[:4], data.captions[:4])
    metric.compute()
    assert seen == [4, len(data.held_out)]
