"""Decoding, cropping, captions, what is left out, and the split."""

import logging
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from archsearch.data.pictures import (
    SOURCES,
    CaptionedImages,
    check_source,
    load_source,
    split_by_family,
)
from archsearch.data.records import Record, Source, UnusableError, choose, opener, square
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError


class Given(Source):
    """Delivers the records it is given."""

    def __init__(self, *records: Record, style: str | None = None) -> None:
        self._records, self.style = records, style

    def versions(self) -> dict[str, str]:
        return {}

    def records(self, spec: DataSpec) -> Iterator[Record]:
        yield from self._records


def read(*records: Record, **spec: object) -> CaptionedImages:
    return read_from({"given": Given(*records)}, **spec)


def read_from(sources: dict[str, Source], **spec: object) -> CaptionedImages:
    with pytest.MonkeyPatch.context() as patch:
        for name, source in sources.items():
            patch.setitem(SOURCES, name, source)
        return load_source(DataSpec.model_validate({"source": [*sources], "size": 16} | spec))


def plain(
    name: str,
    caption: str | bytes | None = "red",
    colour: str = "red",
    size: tuple[int, int] = (16, 16),
) -> Record:
    return Record(name, caption, lambda: Image.new("RGB", size, colour))


def test_pictures_lie_on_white_and_are_cut_in_the_middle() -> None:
    wide = Image.new("RGBA", (48, 16), (0, 0, 0, 0))
    wide.paste((255, 0, 0, 255), (16, 0, 32, 16))
    found = read(
        Record("clear", "clear", lambda: Image.new("LA", (32, 32), (0, 0))),
        Record("wide", "wide", lambda: wide),
        Record("large", "large", lambda: Image.new("CMYK", (100, 64), (0, 0, 0, 0))),
        Record("palette", "palette", lambda: Image.new("P", (16, 16), 0)),
    )
    assert found.images.shape == (4, 3, 16, 16)
    assert found.images[[0, 2]].eq(255).all()
    assert found.images[1, 0].eq(255).all()
    assert found.images[1, 1:].eq(0).all()
    assert found.images[3].eq(0).all()


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 16), "black")
    picture.paste("white", (0, 0, 16, 8))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "a.png", exif=exif)
    turned = read(Record("a", "a", opener(tmp_path / "a.png"))).images[0]
    assert turned[:, :8].eq(0).all()
    assert turned[:, 8:].eq(255).all()


def test_what_is_unusable_is_counted_by_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "whole.jpg").write_bytes(b"")
    records = [
        plain("good"),
        Record("cut.png", "x", opener(whole[:200])),
        Record("empty.png", "x", opener(tmp_path / "whole.jpg")),
        Record("text.png", "x", opener(b"not a picture")),
        Record("gone.png", "x", opener(tmp_path / "gone.png")),
        Record("none", "x", None),
        plain("tiny", size=(7, 100)),
        plain("blank", caption=" \n\t"),
        plain("latin", caption="caf\xe9".encode("latin-1")),
        plain("mute", caption=None),
        Record("odd", None, None, problem="an odd number"),
    ]
    with caplog.at_level(logging.WARNING):
        found = read(*records)
    assert found.captions == ("red",)
    assert {(s.reason, s.count, s.examples) for s in found.skipped} == {
        ("corrupt picture", 3, ("cut.png", "empty.png", "text.png")),
        ("missing picture", 2, ("gone.png", "none")),
        ("tiny picture", 1, ("tiny",)),
        ("empty caption", 1, ("blank",)),
        ("caption not UTF-8", 1, ("latin",)),
        ("no caption", 1, ("mute",)),
        ("an odd number", 1, ("odd",)),
    }
    assert "3 corrupt picture (cut.png, empty.png, text.png)" in caplog.text
    caplog.clear()
    assert read(*records).skipped == found.skipped  # a second call, from the cache, says it too
    assert "3 corrupt picture" in caplog.text


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_grey_of_16_bits_is_scaled_and_other_depths_are_counted(
    tmp_path: Path, ending: str
) -> None:
    Image.fromarray(np.full((16, 16), 257 * 100, dtype=np.uint16)).save(tmp_path / f"grey.{ending}")
    Image.fromarray(np.full((16, 16), 0.5, dtype=np.float32)).save(tmp_path / "float.tiff")
    Image.fromarray(np.full((16, 16), 70_000, dtype=np.int32)).save(tmp_path / "whole.tiff")
    found = read(*(Record(path.name, "x", opener(path)) for path in sorted(tmp_path.iterdir())))
    assert found.images.eq(100).all()
    assert [str(s) for s in found.skipped] == ["2 unsupported depth (float.tiff, whole.tiff)"]


def test_broken_exif_is_a_corrupt_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (16, 16)).save(
        tmp_path / "a.jpg",
    )
    for error in (struct.error("unpack"), IndexError(), TypeError(), OverflowError(), KeyError(1)):
        with monkeypatch.context() as patch:
            patch.setattr(ImageOps, "exif_transpose", Mock(side_effect=error))
            with pytest.raises(UnusableError, match="corrupt picture"):
                square(Record("a.jpg", "x", opener(tmp_path / "a.jpg")), 16, 8)


def test_half_a_character_in_a_caption_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    found = read(plain("good"), plain("half \ud83d", caption="a \ud83d"))
    assert [str(s) for s in found.skipped] == [r"1 caption not UTF-8 (half \ud83d)"]
    assert choose(["a \ud83d", "b \ud83d"], "1") in ("a \ud83d", "b \ud83d")


def test_only_a_few_names_are_told() -> None:
    found = read(plain("good"), *(plain(f"m{i}", caption=None) for i in range(9)))
    assert str(found.skipped[0]) == "9 no caption (m0, m1, m2, …)"


def test_nothing_usable_is_refused_with_the_reasons() -> None:
    with pytest.raises(
        InputError, match=r"data\.source: given: no usable picture: 2 no caption \(a, b\)"
    ):
        read(plain("a", caption=None), plain("b", caption=None))
    with pytest.raises(InputError, match="there are none"):
        read()


def test_captions_lose_line_ends_and_marks() -> None:
    assert read(plain("a", caption="\ufeffa red\r\n apple \n".encode())).captions == (
        "a red apple",
    )


def test_equal_pictures_are_a_family_unless_the_source_says_it() -> None:
    found = read(
        plain("a"),
        plain("b", colour="blue"),
        plain("c", size=(32, 32)),
        Record("d", "x", plain("d").open, family="own"),
    )
    assert found.families[0] == found.families[2] != found.families[1]
    assert found.families[3] == "own"


def test_a_limit_counts_usable_pictures() -> None:
    found = read(
        plain("a", caption=None),
        plain("b"),
        plain("c", colour="blue"),
        plain("d", colour="green"),
        limit=2,
    )
    assert len(found.images) == 2
    assert found.skipped[0].count == 1


def test_mixed_sources_come_in_turn_and_name_their_style() -> None:
    sources: dict[str, Source] = {
        "one": Given(plain("a"), plain("b"), style="flat"),
        "two": Given(plain("c", caption="blue")),
    }
    found = read_from(sources)
    assert found.captions == ("red, flat style", "blue", "red, flat style")


def test_more_than_a_batch_keeps_its_order() -> None:
    found = read(
        *(
            Record(str(i), str(i), lambda i=i: Image.new("RGB", (16, 16), (i % 256, i // 256, 0)))
            for i in range(600)
        )
    )
    assert found.captions == tuple(map(str, range(600)))
    assert torch.equal(
        found.images[:, 0, 0, 0].int() + 256 * found.images[:, 1, 0, 0].int(),
        torch.arange(600, dtype=torch.int32),
    )


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            {"source": "twemojy"},
            r"data\.source: 'twemojy' is not known\. Did you mean 'twemoji'\? "
            "Allowed are: twemoji, ",
        ),
        ({"source": "folder"}, r"data\.path: the source folder needs it"),
        (
            {"source": "folder", "path": "x", "skin_tones": True},
            r"data\.skin_tones: belongs to twemoji",
        ),
        ({"path": "x"}, r"data\.path: belongs to iconify, folder"),
        ({"images": "x"}, r"data\.images: belongs to"),
        ({"size": 80}, r"data\.size: twemoji's drawings have 72 pixels a side, but size is 80"),
    ],
)
def test_a_spec_that_does_not_fit_its_source_is_refused(spec: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        check_source(DataSpec.model_validate(spec))


def test_loading_checks_as_well() -> None:
    with pytest.raises(InputError, match=r"data\.size"):
        load_source(DataSpec(size=80))


keys_of_families = st.lists(st.text(min_size=1, max_size=6), max_size=80)
shares = st.floats(min_value=0.01, max_value=0.49)


@given(keys_of_families, shares, st.integers(0, 5))
@settings(max_examples=60)
def test_partition_in_which_no_family_straddles(keys: list[str], share: float, seed: int) -> None:
    train, held_out = split_by_family(keys, share, seed)
    both = torch.cat([train, held_out])
    assert both.dtype == torch.int64
    assert sorted(both.tolist()) == list(range(len(keys)))
    assert not {keys[i] for i in train} & {keys[i] for i in held_out}


@given(keys_of_families, keys_of_families, shares)
@settings(max_examples=60)
def test_adding_pictures_moves_no_family(keys: list[str], more: list[str], share: float) -> None:
    train, held_out = split_by_family(keys, share)
    _, after = split_by_family(keys + more, share)
    assert [i for i in after.tolist() if i < len(keys)] == held_out.tolist()
    assert torch.equal(split_by_family(keys, share)[0], train)


@given(st.lists(st.text(min_size=1, max_size=6), max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_order_does_not_matter(keys: list[str], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(keys)
    random.shuffle(shuffled)
    held = {keys[i] for i in split_by_family(keys, 0.3)[1]}
    assert {shuffled[i] for i in split_by_family(shuffled, 0.3)[1]} == held


def test_golden_share_and_seed() -> None:
    keys = [f"family-{i}" for i in range(2000)]
    held = split_by_family(keys, 0.1)[1]
    assert held[:5].tolist() == [0, 5, 38, 40, 49]  # the same on every machine
    assert 160 <= len(held) <= 240
    assert split_by_family(keys, 0.1, seed=1)[1].tolist() != held.tolist()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_refuses_a_share_outside(share: float) -> None:
    with pytest.raises(InputError, match="held_out"):
        split_by_family(["a"], share)


def test_a_picture_that_is_too_large_is_not_called_corrupt(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", 14_000, 14_000, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    found = read(plain("good"), Record("map.png", "a map", opener(png)))
    assert [str(s) for s in found.skipped] == ["1 too large picture (map.png)"]
