from pathlib import Path

import torch
from PIL import Image

from archsearch.data.emoji import Twemoji
from archsearch.data.pictures import load_source
from archsearch.data.spec import DataSpec


def test_whole_package() -> None:
    loaded = load_source(DataSpec(size=8))
    assert loaded.images.shape == (1948, 3, 8, 8)
    assert loaded.images.dtype == torch.uint8
    assert not loaded.skipped
    assert all(c == c.lower() and "_" not in c and ":" not in c for c in loaded.captions)
    assert len(set(loaded.families)) == 1540


def test_names_tones_and_private_signs(tmp_path: Path) -> None:
    for name in ("1f600", "1f44d", "1f44d-1f3fb", "e50a", "notes", "10ffff0"):
        Image.new("RGBA", (72, 72), "red").save(tmp_path / f"{name}.png")
    source = Twemoji(tmp_path)
    found = [(record.caption, record.problem) for record in source.records(DataSpec())]
    nameless = (None, "no code point in its name")
    assert found == [
        nameless,
        ("thumbs up", None),
        ("grinning face", None),
        nameless,
    ]  # e50a is a private sign
    toned = [record for record in source.records(DataSpec(skin_tones=True)) if not record.problem]
    assert [record.caption for record in toned] == [
        "thumbs up light skin tone",
        "thumbs up",
        "grinning face",
    ]
    assert toned[0].family == toned[1].family
