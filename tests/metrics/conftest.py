"""64 real pictures, a cache of this session's own, and tiny stand-ins for the two files that a user
brings.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from archsearch.data.pictures import load_source
from archsearch.data.prepare import Prepared
from archsearch.data.spec import DataSpec
from archsearch.metrics.base import Metric
from archsearch.metrics.evaluate import build_metrics
from archsearch.metrics.spec import MetricSettings


def build_metric(name: str, data: Prepared, settings: MetricSettings) -> Metric:
    return build_metrics([name], data, settings)[name]


@pytest.fixture(scope="session")
def metric_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metric-cache")


@pytest.fixture(scope="session", autouse=True)
def own_cache(metric_cache: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHSEARCH_CACHE", str(metric_cache))
        yield


@pytest.fixture(scope="session")
def data(own_cache: None) -> Prepared:
    """Every 30th picture; 48 to train on, 16 held out."""
    loaded = load_source(DataSpec(size=32))
    rows = torch.arange(0, 64 * 30, 30)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    return Prepared(
        images=loaded.images[rows],
        captions=tuple(loaded.captions[i] for i in rows),
        families=tuple(loaded.families[i] for i in rows),
        context=torch.zeros(64, 2, 4, dtype=torch.float16),
        null_context=torch.zeros(2, 4, dtype=torch.float16),
        train=order[:48].sort().values,
        held_out=order[48:].sort().values,
        fingerprint="64 pictures of the tests",
    )


class TinyInception(nn.Module):
    """What FID's file looks like from outside: logits, or features on request."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, 2)
        self.logits = nn.Linear(6, 3)

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        features = self.convolution(images.float() / 255).relu().mean([2, 3])
        if return_features:
            return features
        return self.logits(features)


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "tiny.pt"
    torch.jit.script(TinyInception()).save(str(path))
    return path


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-'#.,()"
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    shared = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    ids = {
        "bos_token_id": len(words) - 2,
        "eos_token_id": len(words) - 1,
        "pad_token_id": len(words) - 1,
    }
    text = shared | ids | {"vocab_size": len(words), "max_position_embeddings": 24}
    vision = shared | {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(
        folder
    )
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    )
    return folder


@pytest.fixture(scope="session")
def settings(inception_file: Path, clip_folder: Path) -> MetricSettings:
    return MetricSettings(images=24, inception=inception_file, clip=str(clip_folder))
