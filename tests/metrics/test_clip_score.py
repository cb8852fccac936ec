import json
import shutil
from pathlib import Path

import pytest
import torch

from archsearch.data.prepare import Prepared
from archsearch.errors import InputError
from archsearch.metrics.clip import resize_and_crop
from archsearch.metrics.clip_score import ClipScore
from archsearch.metrics.settings import MetricSettings


def test_value_by_hand(settings: MetricSettings, clip_folder: Path, data: Prepared) -> None:
    from transformers import AutoTokenizer, CLIPModel

    captions = list(data.captions[:3])
    metric = ClipScore(data, settings)
    metric.update(data.images[:3], captions)
    tokens = AutoTokenizer.from_pretrained(clip_folder)(captions, padding=True, truncation=True, max_length=24, return_tensors="pt")
    pixels = (data.images[:3].float() / 255 - 0.5) / 0.25  # what the folder's preprocessor_config.json says
    output = CLIPModel.from_pretrained(clip_folder)(**tokens, pixel_values=pixels)
    cosine = (output.image_embeds * output.text_embeds).sum(1)
    assert metric.compute()["clip_score"] == pytest.approx(float((100 * cosine.detach()).clamp_min(0).mean()), rel=1e-4)


def test_newer_processor_file(settings: MetricSettings, clip_folder: Path, data: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    old = folder / "preprocessor_config.json"
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(old.read_text())}))
    old.unlink()
    scores = []
    for clip in (str(folder), str(clip_folder)):
        metric = ClipScore(data, MetricSettings(clip=clip))
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
        ClipScore(data, MetricSettings(clip=str(folder)))
