from pathlib import Path

import pytest
import torch
from PIL import Image

from archsearch.data.source import SOURCES, Source, load_source
from archsearch.data.spec import DataSpec
from archsearch.data.twemoji import Twemoji
from archsearch.errors import ArchsearchError


def test_whole_package() -> None:
    loaded = load_source(DataSpec(size=8))
    assert loaded.images.shape == (1948, 3, 8, 8)
    assert loaded.images.dtype == torch.uint8
    assert loaded.skipped == 1  # a private-use code point
    assert all(c == c.lower() and "_" not in c and ":" not in c for c in loaded.captions)
    assert len(set(loaded.families)) == 1540
    same = load_source(DataSpec(size=8))
    assert same.fingerprint == loaded.fingerprint
    assert torch.equal(same.images, loaded.images)


def _draw(path: Path, colour: tuple[int, int, int, int]) -> None:
    Image.new("RGBA", (72, 72), colour).save(path)


def test_white_ground_tones_and_broken_files(tmp_path: Path) -> None:
    _draw(tmp_path / "1f600.png", (255, 0, 0, 255))
    _draw(tmp_path / "1f44d.png", (0, 0, 0, 0))
    _draw(tmp_path / "1f44d-1f3fb.png", (0, 0, 0, 255))
    _draw(tmp_path / "e50a.png", (0, 0, 0, 255))  # no name
    _draw(tmp_path / "notes.png", (0, 0, 0, 255))  # no code point
    whole = (tmp_path / "1f600.png").read_bytes()
    (tmp_path / "1f601.png").write_bytes(whole[:40])  # cut short
    (tmp_path / "1f602.png").write_bytes(b"")
    loaded = Twemoji(tmp_path).load(DataSpec(size=16))
    assert loaded.captions == ("thumbs up", "grinning face")
    assert loaded.skipped == 4
    assert loaded.images[0].eq(255).all()  # transparent is white
    assert loaded.images[1, 0].eq(255).all()
    assert loaded.images[1, 1:].eq(0).all()
    toned = Twemoji(tmp_path).load(DataSpec(size=16, skin_tones=True))
    assert toned.captions == ("thumbs up light skin tone", "thumbs up", "grinning face")
    assert toned.families[0] == toned.families[1]
    assert toned.fingerprint != loaded.fingerprint


def test_nothing_usable_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ArchsearchError, match=str(tmp_path)):
        Twemoji(tmp_path).load(DataSpec())


def test_every_source_of_the_spec_is_registered() -> None:
    source: Source
    for source in SOURCES.values():
        assert source.versions()
    assert set(SOURCES) == set(DataSpec.model_json_schema()["properties"]["source"].get("enum", ["twemoji"]))
