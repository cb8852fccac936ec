from pathlib import Path

import pytest
import torch
from torch import Tensor

from archsearch.data import pictures
from archsearch.data.prepare import prepare
from archsearch.data.spec import DataSpec
from archsearch.data.text import MiniLM
from archsearch.errors import InputError


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The encoder gives random states; what is computed is listed."""
    done: list[str] = []
    fill = pictures._fill

    def filled(*arguments: object) -> None:
        done.append("pictures")
        fill(*arguments)  # type: ignore[arg-type]

    def encode(self: object, captions: tuple[str, ...], tokens: int) -> Tensor:
        if captions != [""]:
            done.append("text")
        return torch.randn(
            len(captions), tokens, 384, generator=torch.Generator().manual_seed(len(captions))
        )

    monkeypatch.setattr(pictures, "_fill", filled)
    monkeypatch.setattr(MiniLM, "encode", encode)
    return done


def test_shapes_and_second_call(few: list[str]) -> None:
    seen: list[tuple[str, float]] = []
    first = prepare(
        DataSpec(limit=60, size=8, tokens=5, held_out=0.3),
        progress=lambda what, fraction: seen.append((what, fraction)),
    )
    assert first.images.shape == (60, 3, 8, 8)
    assert first.context.shape == (60, 5, 384)
    assert first.context.dtype == first.null_context.dtype == torch.float16
    assert first.null_context.shape == (5, 384)
    assert len(first.train) + len(first.held_out) == 60
    assert {what for what, _ in seen} == {"reading pictures", "encoding captions"}
    assert all(0 <= fraction <= 1 for _, fraction in seen)
    again = prepare(DataSpec(limit=60, size=8, tokens=5, held_out=0.3))
    assert few == ["pictures", "text"]
    assert again.captions == first.captions
    assert again.fingerprint == first.fingerprint
    for name in ("images", "context", "null_context", "train", "held_out"):
        assert torch.equal(getattr(first, name), getattr(again, name))


def test_pictures_and_text_are_cached_apart(few: list[str]) -> None:
    base = prepare(DataSpec(limit=60, size=8, held_out=0.3))
    assert prepare(DataSpec(limit=60, size=16, held_out=0.3)).fingerprint != base.fingerprint
    assert few == ["pictures", "text", "pictures"]
    assert (
        prepare(DataSpec(limit=60, size=8, tokens=4, held_out=0.3)).fingerprint != base.fingerprint
    )
    assert few == ["pictures", "text", "pictures", "text"]
    assert prepare(DataSpec(limit=60, size=8, held_out=0.4)).fingerprint != base.fingerprint
    assert len(few) == 4


def test_empty_side_is_refused(few: list[str]) -> None:
    with pytest.raises(InputError, match=r"data\.held_out: 1e-09"):
        prepare(DataSpec(limit=60, size=8, held_out=1e-9))


@pytest.mark.slow
def test_the_whole_data(own_cache: Path) -> None:
    first = prepare(DataSpec())
    assert first.images.shape == (1948, 3, 32, 32)
    assert (len(first.train), len(first.held_out)) == (1731, 217)
    assert (
        first.fingerprint == "47f0bb94c757efff6a76086f65321ffb6e57b2465cecfa133c25a99ca8ca943c"
    )  # old scores are found under it


def test_equal_captions_are_encoded_once_and_stand_in_their_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def encode(self: object, captions: list[str], tokens: int) -> Tensor:
        asked.extend(captions)
        return (
            torch.tensor([float(len(caption)) for caption in captions])
            .view(-1, 1, 1)
            .expand(-1, tokens, 384)
        )

    monkeypatch.setattr(MiniLM, "encode", encode)
    monkeypatch.setattr(
        "archsearch.data.emoji.caption",
        lambda points: "twin" if points[0] % 2 else f"name {points[0]}",
    )
    data = prepare(DataSpec(limit=20, size=8, held_out=0.3))
    assert asked.count("twin") == 1 < data.captions.count("twin")
    assert data.context[:, 0, 0].tolist() == [len(caption) for caption in data.captions]
    assert data.null_context.eq(0).all()
