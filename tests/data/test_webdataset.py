import gzip
import os
import pickle
from pathlib import Path

import pytest

from archsearch.data import archives
from archsearch.data.pictures import load_source
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError

from .made import colour, encoded, tar

pytest.importorskip("braceexpand")


def spec(path: Path | str, **more: object) -> DataSpec:
    return DataSpec.model_validate({"source": "webdataset", "size": 16, "path": str(path)} | more)


def test_what_a_sample_may_hold(tmp_path: Path) -> None:
    samples = {
        "deep/1.mask.png": encoded(9),
        "deep/1.png": encoded(1),
        "deep/1.txt": b"one",
        "2.PNG": encoded(2),
        "2.json": b'{"text": ["two", " "], "words": "zwei"}',
        "3.txt": b"no picture",
        "4.png": encoded(4),
        "5.png": encoded(5),
        "5.json": b"{",
        "6.png": encoded(6),
        "6.txt": b"caf\xe9",
        "7.seg.png": encoded(7),
        "7.txt": b"a mask alone",
    }
    tar(tmp_path / "a.tar", samples)
    loaded = load_source(spec(tmp_path))
    assert loaded.captions == ("one", "two")
    assert loaded.images[0, :, 0, 0].tolist() == list(colour(1))
    assert {s.reason: s.examples for s in loaded.skipped} == {
        "missing picture": ("a.tar:3", "a.tar:7"),
        "no caption": ("a.tar:4",),
        "broken JSON": ("a.tar:5",),
        "caption not UTF-8": ("a.tar:6",),
    }
    assert load_source(spec(tmp_path, caption_column="words")).captions == ("zwei",)


def test_nothing_else_in_a_sample_is_read(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "exploded",))  # type: ignore[return-value]

    tar(tmp_path / "a.tar", {"1.png": encoded(1), "1.txt": b"one", "1.pyd": pickle.dumps(Bomb())})
    assert load_source(spec(tmp_path)).captions == ("one",)
    assert not (tmp_path / "exploded").exists()


def test_empty_shards_are_counted(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"1.png": encoded(1), "1.txt": b"one"})
    tar(tmp_path / "b.tar", {})
    (tmp_path / "c.tar").write_bytes(b"")
    loaded = load_source(spec(tmp_path / "?.tar"))
    assert [str(s) for s in loaded.skipped] == ["2 empty shard (b.tar, c.tar)"]


def test_only_empty_shards_are_refused(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {})
    with pytest.raises(
        InputError, match=r"data\.path: .*no usable picture: 1 empty shard \(a\.tar\)"
    ):
        load_source(spec(tmp_path))


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_a_torn_shard_is_named(tmp_path: Path, damage: str) -> None:
    tar(tmp_path / "a.tar", {"1.png": encoded(1, 200), "1.txt": b"one"})
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes({"cut": content[:700], "noise": b"x" * 3000}[damage])
    with pytest.raises(InputError, match=r"a\.tar: cannot be read as an archive"):
        load_source(spec(tmp_path))


def test_what_would_unpack_to_anything_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {"1.png": encoded(1), "1.txt": b"one", "2.png": encoded(2), "2.txt": b"two"}
    tar(tmp_path / "a.tar", whole | {"3.png": encoded(3), "3.txt": bytes(1024**2 + 1)})
    (tmp_path / "zero.tar").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.tar")
    loaded = load_source(spec(tmp_path))
    assert loaded.captions == ("one", "two")
    reasons = {each.reason: each.examples for each in loaded.skipped}
    assert reasons["caption too large"] == ("a.tar:3",)
    assert reasons["empty shard"] == ("pipe.tar", "zero.tar")
    monkeypatch.setattr(archives, "UNPACKED_BYTES", 1000)
    packed = gzip.compress((tmp_path / "a.tar").read_bytes())
    (tmp_path / "a.tar").write_bytes(packed)
    monkeypatch.setattr(archives, "RATIO", 2)
    with pytest.raises(InputError, match=r"a\.tar: unpacks to more than"):
        load_source(spec(tmp_path))


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("nowhere", "no shards there"),
        ("*.tar", "no shards there"),
        ("a-{0..2}.tar", r"there is no .*a-1\.tar"),
        ("pipe:echo", "no shards there"),
        ("{0..999999999}.tar", "its braces may mean more than 1,000,000 files"),
        ("{0..9999}{a,b}{0..99}.tar", "its braces may mean more than 1,000,000 files"),
    ],
)
def test_a_pattern_without_files_is_refused(tmp_path: Path, pattern: str, told: str) -> None:
    if pattern.startswith("a-"):
        tar(tmp_path / "a-0.tar", {"1.png": encoded(1)})
    with pytest.raises(InputError, match=rf"data\.path: .*{told}"):
        load_source(spec(pattern if pattern.startswith("pipe") else tmp_path / pattern))


def test_parts_of_a_sample_may_lie_anywhere_in_the_shard(tmp_path: Path) -> None:
    pictures = {f"{i}.png": encoded(i) for i in range(4)}
    captions = {f"{i}.txt": f"picture {i}".encode() for i in (2, 0, 1)}
    tar(tmp_path / "a.tar", pictures | captions)
    loaded = load_source(spec(tmp_path))
    assert loaded.captions == ("picture 0", "picture 1", "picture 2")
    assert loaded.images[2, :, 0, 0].tolist() == list(colour(2))
    assert [str(each) for each in loaded.skipped] == ["1 no caption (a.tar:3)"]


@pytest.mark.parametrize("folder", ["", "./", "data/", "./data.v1/"])
def test_hidden_files_of_a_mac_are_set_aside(tmp_path: Path, folder: str) -> None:
    samples = {}
    for name, content in {"0001.jpg": encoded(1), "0001.txt": b"one"}.items():
        samples |= {f"{folder}._{name}": b"Mac OS X", f"{folder}{name}": content}
    tar(tmp_path / "a.tar", samples | {".DS_Store": b"", ".hidden/2.png": encoded(2)})
    loaded = load_source(spec(tmp_path))
    assert (loaded.captions, loaded.skipped) == (("one",), ())


def test_pictures_that_are_not_read_are_counted(tmp_path: Path) -> None:
    samples = {"1.png": encoded(1), "1.txt": b"one", "2.heic": b"", "2.txt": b"two"}
    samples |= {f"{'Bär'}.png": encoded(3), "Ba\u0308r.txt": b"a bear"}
    tar(tmp_path / "a.tar", samples)
    loaded = load_source(spec(tmp_path))
    assert loaded.captions == ("one", "a bear")
    told = [str(each) for each in loaded.skipped]
    assert told == ["1 picture in a format that is not read (a.tar:2)"]


def test_a_member_that_is_too_large_is_not_unpacked(tmp_path: Path) -> None:
    """Three gigabytes of zeros are three megabytes of an archive."""
    samples = {
        "1.png": encoded(1),
        "1.txt": b"one",
        "2.png": encoded(2),
        "2.txt": b" " * 2 * 1024**2,
    }
    tar(tmp_path / "a.tar", samples)
    with gzip.open(tmp_path / "b.tar", "wb") as archive:
        archive.write((tmp_path / "a.tar").read_bytes())
    for shard in ("a.tar", "b.tar"):
        loaded = load_source(spec(tmp_path / shard))
        assert loaded.captions == ("one",)
        assert [str(each) for each in loaded.skipped] == [f"1 caption too large ({shard}:2)"]
