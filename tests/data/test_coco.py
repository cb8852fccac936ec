import json
from pathlib import Path
from typing import Any

import pytest

from archsearch.data.pictures import load_source
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError

from .made import draw

IMAGES = [{"id": 7, "file_name": "b.png"}, {"id": 3, "file_name": "a.png"}]
CAPTIONS = [
    {"image_id": 3, "caption": "a dog"},
    {"image_id": 3, "caption": "one dog"},
    {"image_id": 7, "caption": "a cat"},
    {"image_id": 99, "caption": "of a picture that is not listed"},
]


def spec(folder: Path) -> DataSpec:
    return DataSpec(
        source="coco", size=16, path=str(folder / "captions.json"), images=str(folder / "images")
    )


def write(folder: Path, content: Any) -> DataSpec:
    for i, name in enumerate(("a.png", "b.png")):
        draw(folder / "images" / name, i)
    (folder / "captions.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )
    return spec(folder)


def test_one_caption_a_picture_in_the_order_of_the_ids(tmp_path: Path) -> None:
    first = load_source(write(tmp_path, {"images": IMAGES, "annotations": CAPTIONS}))
    assert first.captions[0] in ("a dog", "one dog")
    assert first.captions[1] == "a cat"
    again = load_source(write(tmp_path, {"images": IMAGES[::-1], "annotations": CAPTIONS[::-1]}))
    assert again.captions == first.captions


def test_a_picture_without_caption_or_file_is_counted(tmp_path: Path) -> None:
    images = [*IMAGES, {"id": 8, "file_name": "gone.png"}, {"id": 9, "file_name": "b.png"}]
    captions = [*CAPTIONS, {"image_id": 8, "caption": "gone"}]
    assert {
        s.reason: s.examples
        for s in load_source(write(tmp_path, {"images": images, "annotations": captions})).skipped
    } == {
        "missing picture": ("gone.png",),
        "no caption": ("b.png",),
    }


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", r"captions\.json:1: is not valid JSON"),
        ([], r"captions\.json: images: must be a list"),
        ({"annotations": []}, r"captions\.json: images: must be a list, .* found NoneType"),
        ({"images": IMAGES, "annotations": {}}, r"annotations: must be a list"),
        ({"images": [{"id": 1}], "annotations": []}, r"images\[0\]: needs 'file_name', text"),
        ({"images": [IMAGES[0], IMAGES[0]], "annotations": []}, r"images: the id 7 is given twice"),
        (
            {"images": IMAGES, "annotations": [CAPTIONS[0], {"image_id": 3, "bbox": []}]},
            r"annotations\[1\]: needs 'caption', text\. Is it a file of captions\?",
        ),
        (
            {"images": IMAGES, "annotations": [{"image_id": "3", "caption": "x"}]},
            r"annotations\[0\]: needs 'image_id', a whole number",
        ),
    ],
)
def test_another_form_is_refused(tmp_path: Path, content: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_source(write(tmp_path, content))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.path: .*captions\.json: is no file"):
        load_source(spec(tmp_path))
    (tmp_path / "captions.json").write_text("{}")
    with pytest.raises(InputError, match=r"data\.images: .*images: is no folder"):
        load_source(spec(tmp_path))


def test_null_is_a_counted_skip_and_not_the_end(tmp_path: Path) -> None:
    images = [*IMAGES, {"id": 8, "file_name": None}, {"id": 9, "file_name": "b.png"}]
    captions = [*CAPTIONS, {"image_id": 9, "caption": None}, {"image_id": 3, "caption": None}]
    loaded = load_source(write(tmp_path, {"images": images, "annotations": captions}))
    assert len(loaded.captions) == 2
    assert {s.reason: s.examples for s in loaded.skipped} == {
        "no file name": ("id 8",),
        "no caption": ("b.png",),
    }


def test_names_of_windows_and_a_mark_before_the_file(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "sub" / "c.png", 3)
    images = [{"id": 1, "file_name": "sub\\c.png"}, {"id": 2, "file_name": "A.PNG"}]
    captions = [{"image_id": 1, "caption": "one"}, {"image_id": 2, "caption": "two"}]
    content = "\ufeff" + json.dumps({"images": images, "annotations": captions})
    loaded = load_source(write(tmp_path, content))
    assert (loaded.captions, loaded.skipped) == (("one", "two"), ())
