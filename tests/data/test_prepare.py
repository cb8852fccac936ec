import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from archsearch.data import prepare as module
from archsearch.data.captioned import CaptionedImages
from archsearch.data.prepare import prepare
from archsearch.data.source import load_source
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The source cut to 60 pictures and the encoder to random states; what was computed is listed."""
    done: list[str] = []

    def load(spec: DataSpec) -> CaptionedImages:
        done.append("pictures")
        full = load_source(spec)
        return CaptionedImages(full.images[:60], full.captions[:60], full.families[:60], full.fingerprint)

    def encode(self: object, captions: tuple[str, ...], tokens: int) -> Tensor:
        done.append("text")
        return torch.randn(len(captions), tokens, 384, generator=torch.Generator().manual_seed(len(captions)))

    monkeypatch.setattr(module, "load_source", load)
    monkeypatch.setattr(module.MiniLM, "encode", encode)
    return done


def test_shapes_and_second_call(few: list[str]) -> None:
    seen: list[tuple[str, float]] = []
    first = prepare(DataSpec(size=8, tokens=5, held_out=0.3), progress=lambda what, fraction: seen.append((what, fraction)))
    assert first.images.shape == (60, 3, 8, 8)
    assert first.context.shape == (60, 5, 384)
    assert first.context.dtype == first.null_context.dtype == torch.float16
    assert first.null_context.shape == (5, 384)
    assert len(first.train) + len(first.held_out) == 60
    assert {what for what, _ in seen} == {"reading pictures", "encoding captions"}
    assert all(0 <= fraction <= 1 for _, fraction in seen)
    again = prepare(DataSpec(size=8, tokens=5, held_out=0.3))
    assert few == ["pictures", "text"]
    assert again.captions == first.captions
    assert again.fingerprint == first.fingerprint
    for name in ("images", "context", "null_context", "train", "held_out"):
        assert torch.equal(getattr(first, name), getattr(again, name))


def test_pictures_and_text_are_cached_apart(few: list[str]) -> None:
    base = prepare(DataSpec(size=8, held_out=0.3))
    assert prepare(DataSpec(size=16, held_out=0.3)).fingerprint != base.fingerprint
    assert few == ["pictures", "text", "pictures"]
    assert prepare(DataSpec(size=8, tokens=4, held_out=0.3)).fingerprint != base.fingerprint
    assert few == ["pictures", "text", "pictures", "text"]
    assert prepare(DataSpec(size=8, held_out=0.4)).fingerprint != base.fingerprint
    assert len(few) == 4


def test_empty_side_is_refused(few: list[str]) -> None:
    with pytest.raises(InputError, match=r"data\.held_out: 1e-09"):
        prepare(DataSpec(size=8, held_out=1e-9))


@pytest.mark.slow
def test_the_whole_data(own_cache: Path) -> None:
    first = prepare(DataSpec())
    assert first.images.shape == (1948, 3, 32, 32)
    assert (len(first.train), len(first.held_out)) == (1731, 217)
    start = time.perf_counter()
    assert prepare(DataSpec()).fingerprint == first.fingerprint
    assert time.perf_counter() - start < 2
