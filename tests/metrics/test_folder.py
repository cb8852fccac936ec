import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from archsearch.data.pictures import load_source
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError
from archsearch.metrics.evaluate import scan


def picture(
    path: Path, size: tuple[int, int] = (16, 16), colour: str = "red", mode: str = "RGB"
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def read(path: Path, size: int) -> torch.Tensor:
    """One of the pictures of its folder, as it is scored: uint8 (3, size, size)."""
    found = scan(path.parent, size)
    row = [record.name for record in found.records].index(path.name)
    return found.images[row]


def test_finds_pictures_in_all_folders_and_captions_beside_them(tmp_path: Path) -> None:
    picture(tmp_path / "b.png")
    picture(tmp_path / "a" / "c.JPG")
    picture(tmp_path / "a" / "d.webp")
    (tmp_path / "readme.md").write_text("no picture")
    found = scan(tmp_path, 16)
    assert [Path(record.name).name for record in found.records] == ["c.JPG", "d.webp", "b.png"]
    assert (found.captions, found.skipped) == ((), ())
    for record in found.records:
        path = tmp_path / record.name
        path.with_suffix(".txt").write_text(f"picture {path.stem}\n")
    assert scan(tmp_path, 16).captions == ("picture c", "picture d", "picture b")
    (tmp_path / "b.txt").unlink()
    assert scan(tmp_path, 16).captions == ()  # one lacks its caption: none are used


def test_captions_from_metadata(tmp_path: Path) -> None:
    picture(tmp_path / "x" / "a.png")
    picture(tmp_path / "b.png")
    lines = [
        {"file_name": "b.png", "text": "ein Äpfelchen"},
        {"file_name": "x/a.png", "text": "two", "more": 1},
    ]
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8"
    )
    assert scan(tmp_path, 16).captions == ("ein Äpfelchen", "two")


@pytest.mark.parametrize("line", ["{", "[]", '{"text": "a"}', '{"file_name": "/", "text": "a"}'])
def test_bad_metadata_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "one"}\n' + line + "\n"
    )
    with pytest.raises(
        InputError, match=r"metadata\.jsonl:2: (is not valid JSON|must be an object|file_name: )"
    ):
        scan(tmp_path, 16)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a.txt", r"a\.png: its caption is not UTF-8"),
        ("metadata.jsonl", r"metadata\.jsonl:1: is not UTF-8"),
    ],
)
def test_captions_that_are_not_utf8_are_named(tmp_path: Path, name: str, told: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / name).write_bytes(b"\xff\xfea")
    with pytest.raises(InputError, match=told):
        scan(tmp_path, 16)


def test_what_cannot_be_used_is_left_out_with_the_reason(tmp_path: Path) -> None:
    whole = picture(tmp_path / "a.png", (64, 64))
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("not a picture")
    picture(tmp_path / "tiny.png", (7, 40))
    found = scan(tmp_path, 16)
    assert [Path(record.name).name for record in found.records] == ["a.png"]
    assert list(map(str, found.skipped)) == [
        "2 corrupt picture (cut.png, text.jpg)",
        "1 tiny picture (tiny.png)",
    ]
    whole.unlink()
    with pytest.raises(
        InputError, match=r"a\.png: could be read a moment ago and no longer can: missing picture"
    ):
        list(found.batches([0]))


def test_pictures_become_squares_upright_and_on_white(tmp_path: Path) -> None:
    wide = Image.new("RGB", (40, 20), "blue")
    wide.paste("red", (10, 0, 30, 20))  # the centre that is kept
    wide.save(tmp_path / "wide.png")
    square = read(tmp_path / "wide.png", 10)
    assert square.shape == (3, 10, 10)
    assert square[0, 5, 1:9].min() > 250  # the resampling rings a little at the edge
    assert square[2, 5, 1:9].max() < 5
    assert read(picture(tmp_path / "clear.png", mode="RGBA", colour="#00000000"), 16).eq(255).all()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half = Image.new("RGB", (16, 16), "white")
    half.paste("black", (0, 0, 16, 8))
    half.save(tmp_path / "turned.png", exif=exif)
    assert read(tmp_path / "turned.png", 16)[0, :, 0].tolist() == [255] * 8 + [0] * 8


def test_a_picture_of_that_size_is_taken_as_it_is(tmp_path: Path) -> None:
    pixels = torch.randint(
        0, 256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    assert torch.equal(read(tmp_path / "a.png", 16), pixels.permute(2, 0, 1))


def test_the_digest_is_of_content_captions_and_size(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    first = scan(tmp_path, 16).fingerprint
    assert scan(tmp_path, 16).fingerprint == first
    assert scan(tmp_path, 32).fingerprint != first
    (tmp_path / "a.txt").write_text("a")
    assert scan(tmp_path, 16).fingerprint != first
    (tmp_path / "a.txt").unlink()
    picture(path, colour="blue")
    assert scan(tmp_path, 16).fingerprint != first


def test_pictures_are_those_of_a_study_on_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHSEARCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    picture(folder / ".hidden.png")
    numbers = np.random.default_rng(0)
    for name, shape in (("a.jpg", (70, 131, 3)), ("b.png", (33, 20, 4)), ("c.png", (24, 24))):
        pixels = (
            numbers.integers(0, 256, shape).astype(np.uint8)
            if name != "c.png"
            else numbers.integers(0, 65536, shape)
        )
        Image.fromarray(pixels.astype(np.uint16) if name == "c.png" else pixels).save(folder / name)
    rows = [
        json.dumps({"file_name": name, "caption": f"{name} "})
        for name in ("a.jpg", "b.png", "c.png")
    ]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    (folder / "again").symlink_to(folder)
    study = load_source(DataSpec(source="folder", path=str(folder), size=16))
    found = scan(folder, 16)
    assert torch.equal(next(found.batches(range(3)))[0], study.images)
    assert found.captions == study.captions == ("a.jpg", "b.png", "c.png")


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        scan(tmp_path / "nowhere", 16)
