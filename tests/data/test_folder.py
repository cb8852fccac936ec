import errno
import json
import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from archsearch.data import sources
from archsearch.data.pictures import load_source
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError


def spec(path: Path, **more: object) -> DataSpec:
    return DataSpec.model_validate({"source": "folder", "path": str(path), "size": 8} | more)


def draw(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), colour).save(path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for name, colour in (
        ("b.png", "red"),
        ("a/1.jpg", "blue"),
        ("a/2.webp", "green"),
        (".hidden/3.png", "black"),
    ):
        draw(folder / name, colour)
    (folder / "b.txt").write_text("a red square\n")
    (folder / "notes.md").write_text("no picture")
    return folder


def test_captions_from_both_kinds_of_files(pictures: Path) -> None:
    rows = [
        {"file_name": "a/1.jpg", "text": "a blue square"},
        {"file_name": "a/2.webp", "caption": "a green square"},
    ]
    (pictures / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    assert load_source(spec(pictures)).captions == (
        "a blue square",
        "a green square",
        "a red square",
    )


def test_another_column(pictures: Path) -> None:
    (pictures / "metadata.jsonl").write_text(
        '{"file_name": "a/1.jpg", "text": "wrong", "words": ["right"]}'
    )
    loaded = load_source(spec(pictures, caption_column="words"))
    assert loaded.captions == ("right", "a red square")
    assert loaded.skipped[0].reason == "no caption"


def test_unusable_files_are_counted(pictures: Path) -> None:
    (pictures / "metadata.jsonl").write_text(
        '{"file_name": "gone.png", "text": "gone"}\n{"file_name": "a/1.jpg", "text": ""}'
    )
    (pictures / "a" / "2.txt").write_bytes(b"caf\xe9")
    assert {s.reason: s.examples for s in load_source(spec(pictures)).skipped} == {
        "missing picture": ("gone.png",),
        "empty caption": ("a/1.jpg",),
        "caption not UTF-8": ("a/2.webp",),
    }


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            b'{"file_name": "b.png", "text": "x"}\n{"file_name": ',
            r"metadata\.jsonl:2: is not valid JSON",
        ),
        (
            b'{"file_name": "b.png"}\n["b.png"]',
            r"metadata\.jsonl:2: must be an object with \"file_name\" and \"text\"",
        ),
        (b'{"text": "x"}', r"metadata\.jsonl:1: must be an object"),
        (b'\n{"file_name": "a/1.jpg", "text": "caf\xe9"}', r"metadata\.jsonl:2: is not UTF-8"),
        (
            b'{"file_name": "a/1.jpg", "text": "x"}\n{"file_name": "a/1.jpg", "text": "y"}',
            r"metadata\.jsonl:2: a/1\.jpg is given twice, first in line 1",
        ),
        (
            b'{"file_name": "", "text": "x"}',
            r'metadata\.jsonl:1: file_name: "" is no name of a picture',
        ),
        (
            b'\n{"file_name": "/", "text": "x"}',
            r'metadata\.jsonl:2: file_name: "/" is no name of a picture',
        ),
        (
            b'{"file_name": "b.png", "text": "x"}',
            r"metadata\.jsonl:1: b\.png is captioned here and in b\.txt",
        ),
    ],
)
def test_a_broken_caption_file_is_refused_with_its_line(
    pictures: Path, lines: bytes, told: str
) -> None:
    (pictures / "metadata.jsonl").write_bytes(lines)
    with pytest.raises(InputError, match=told):
        load_source(spec(pictures))


def test_no_folder_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.path: .*nowhere: is no folder"):
        load_source(spec(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"data\.path: .*empty: no usable picture: there are none"):
        load_source(spec(tmp_path / "empty"))


def test_links_that_lead_nowhere_or_in_circles(pictures: Path) -> None:
    (pictures / "gone.png").symlink_to(pictures / "nowhere.png")
    (pictures / "gone.txt").write_text("gone")
    (pictures / "itself.png").symlink_to(pictures / "itself.png")
    (pictures / "a" / "1.txt").symlink_to(pictures / "nowhere.txt")
    (pictures / "a" / "around").symlink_to(pictures)
    (pictures / "again").symlink_to(pictures / "a")  # no circle: its pictures are there twice
    (pictures / "itself.txt").write_text("itself")
    loaded = load_source(spec(pictures))
    assert loaded.captions == ("a red square",)
    assert {s.reason: s.examples for s in loaded.skipped} == {
        "no caption": ("a/1.jpg", "a/2.webp", "again/1.jpg"),
        "missing picture": ("gone.png", "itself.png"),
    }
    (pictures / "nowhere.png").write_bytes(
        (pictures / "b.png").read_bytes()
    )  # noticed, though the link is the same
    assert load_source(spec(pictures)).captions == ("a red square", "gone")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
@pytest.mark.parametrize("name", ["b.txt", "metadata.jsonl"])
def test_a_caption_file_that_may_not_be_read_is_named(pictures: Path, name: str) -> None:
    (pictures / name).write_text("")
    (pictures / name).chmod(0)
    with pytest.raises(InputError, match=rf"{name}: cannot be read: Permission denied\.$"):
        load_source(spec(pictures))


def test_an_error_of_the_disk_is_not_the_caches(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, limit: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(sources, "read_bytes", broken)
    with pytest.raises(InputError, match=r"b\.txt: cannot be read: Input/output error\.$"):
        load_source(spec(pictures))


def test_the_home_of_nobody(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.path: ~nosuchuser/x: is no folder"):
        load_source(spec(Path("~nosuchuser/x")))


@pytest.mark.parametrize("ending", ["jfif", "jpe", "avif", "webp", "jp2", "ppm", "tga", "qoi"])
def test_every_format_that_pillow_decodes_is_read(tmp_path: Path, ending: str) -> None:
    draw(tmp_path / f"a.{ending}")
    (tmp_path / "a.txt").write_text("a red square")
    loaded = load_source(spec(tmp_path))
    assert (loaded.captions, loaded.skipped) == (("a red square",), ())


def test_pictures_that_are_not_read_and_captions_without_one_are_counted(pictures: Path) -> None:
    for name in ("c.HEIC", "d.svg", "d.txt", "e.txt"):
        (pictures / name).write_text("something")
    draw(pictures / "a" / "3.png")
    loaded = load_source(spec(pictures))
    assert loaded.captions == ("a red square",)
    assert {s.reason: s.examples for s in loaded.skipped} == {
        "no caption": ("a/1.jpg", "a/2.webp", "a/3.png"),
        "picture in a format that is not read": ("c.HEIC", "d.svg"),
        "caption without a picture": ("e.txt",),
    }


COMPOSED, TAKEN_APART = (unicodedata.normalize(form, "Bär") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("picture", "named"),
    [
        ("IMG_0.JPG", "IMG_0.TXT"),
        ("img_0.jpg", "IMG_0.txt"),
        (f"{TAKEN_APART}.png", f"{COMPOSED}.txt"),
        (f"sub/{COMPOSED}.png", f"SUB/{TAKEN_APART}.txt"),
        (f"{TAKEN_APART}.png", f"{COMPOSED}.png"),
        ("IMG_0.JPG", "img_0.jpg"),
        ("sub/a.png", "sub\\a.png"),
        ("sub/a.png", ".\\Sub\\A.PNG"),
        ("sub/a.png", "./sub/a.png"),
    ],
)
def test_names_are_matched_as_other_systems_mean_them(
    tmp_path: Path, picture: str, named: str
) -> None:
    draw(tmp_path / picture)
    if named.lower().endswith(".txt"):
        (tmp_path / named).parent.mkdir(exist_ok=True)
        (tmp_path / named).write_text("a red square")
    else:
        row = json.dumps({"file_name": named, "text": "a red square"})
        (tmp_path / "metadata.jsonl").write_text(row)
    loaded = load_source(spec(tmp_path))
    assert (loaded.captions, loaded.skipped) == (("a red square",), ())


def test_names_that_only_look_alike_keep_their_own_captions(tmp_path: Path) -> None:
    """Identifiers, where upper and lower case are different letters."""
    draw(tmp_path / "aB3.png", "red")
    draw(tmp_path / "Ab3.png", "blue")
    (tmp_path / "aB3.txt").write_text("red")
    loaded = load_source(spec(tmp_path))
    assert loaded.captions == ("red",)
    assert loaded.images[0, :, 0, 0].tolist() == [255, 0, 0]
    assert [str(each) for each in loaded.skipped] == ["1 no caption (Ab3.png)"]


def test_a_mark_of_windows_before_the_captions_is_no_part_of_them(pictures: Path) -> None:
    rows = [
        {"file_name": "a/1.jpg", "text": "blue"},
        {"file_name": "a/2.webp", "text": "green"},
    ]
    content = "\ufeff" + "\r\n".join(map(json.dumps, rows))
    (pictures / "metadata.jsonl").write_text(content, encoding="utf-8")
    assert load_source(spec(pictures)).captions == ("blue", "green", "a red square")


def test_only_regular_files_are_read(pictures: Path) -> None:
    """A pipe without a writer would hang, a link to a device never end."""
    os.mkfifo(pictures / "pipe.png")
    (pictures / "pipe.txt").write_text("a pipe")
    (pictures / "zero.png").symlink_to("/dev/zero")
    (pictures / "zero.txt").write_text("zeros")
    draw(pictures / "endless.png", "red")
    (pictures / "endless.txt").symlink_to("/dev/zero")
    draw(pictures / "waiting.png", "red")
    os.mkfifo(pictures / "waiting.txt")
    draw(pictures / "novel.png", "red")
    (pictures / "novel.txt").write_bytes(b"x" * (1024**2 + 1))
    loaded = load_source(spec(pictures))
    assert loaded.captions == ("a red square",)
    skipped = {each.reason: set(each.examples) for each in loaded.skipped}
    assert skipped["picture not a regular file"] == {"pipe.png", "zero.png"}
    assert skipped["caption not a regular file"] == {"endless.png", "waiting.png"}
    assert skipped["caption too large"] == {"novel.png"}


def test_a_caption_file_that_is_no_regular_file(pictures: Path) -> None:
    (pictures / "metadata.jsonl").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"metadata\.jsonl: cannot be read: is not a regular file"):
        load_source(spec(pictures))
