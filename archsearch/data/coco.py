"""COCO captions: an annotation file and a folder of pictures."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from archsearch.data.captions import choose
from archsearch.data.listing import files_below, listing_of
from archsearch.data.record import Record, Source, opener
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError
from archsearch.files import expanded


class Coco(Source):
    """The pictures of a COCO caption file, such as ``captions_val2017.json``, in the order of their ids.

    A picture has several captions there; one of them is taken, always the same one. The annotation file is held in memory, the
    pictures are not.
    """

    takes = frozenset({"path", "images"})
    needs = frozenset({"path", "images"})

    def versions(self) -> dict[str, str]:
        """Return the version of the rule by which a caption is chosen."""
        return {"rule": "2"}

    def state(self, spec: DataSpec) -> Any:
        """Return size and time of change of the annotation file and of the pictures, in short."""
        annotations, images = _places(spec)
        return [listing_of([annotations], annotations.parent), listing_of(files_below(images), images)]

    def records(self, spec: DataSpec) -> Iterator[Record]:
        """Yield the pictures that the annotation file lists.

        Raises:
            InputError: The file is not there or not of COCO's form.
        """
        annotations, images = _places(spec)
        names, captions = _read(annotations)
        for key in sorted(names):
            path = images / names[key]
            yield Record(names[key], choose(captions.get(key, []), str(key)), opener(path))


def _places(spec: DataSpec) -> tuple[Path, Path]:
    annotations, images = expanded(spec.path or ""), expanded(spec.images or "")
    if not annotations.is_file():
        raise InputError(
            f"data.path: {spec.path}: is no file; the source coco needs its annotations, such as captions_val2017.json."
        )
    if not images.is_dir():
        raise InputError(f"data.images: {spec.images}: is no folder; the source coco needs the one that its pictures lie in.")
    return annotations, images


def _read(path: Path) -> tuple[dict[int, str], dict[int, list[str]]]:
    """File names and captions by id of the picture. Captions of pictures that the file does not list are left out."""
    try:
        content = json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start}).") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON ({error}). Is the file truncated?") from error
    images = _rows(path, content, "images", {"id": int, "file_name": str})
    names = {row["id"]: row["file_name"] for row in images}
    if len(names) < len(images):
        ids = [row["id"] for row in images]
        raise InputError(f"{path}: images: the id {next(i for i in ids if ids.count(i) > 1)} is given twice.")
    captions: dict[int, list[str]] = {}
    for row in _rows(path, content, "annotations", {"image_id": int, "caption": str}):
        captions.setdefault(row["image_id"], []).append(row["caption"])
    return names, captions


def _rows(path: Path, content: Any, key: str, fields: dict[str, type]) -> list[dict[str, Any]]:
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise InputError(f"{path}: {key}: must be a list, as in COCO's captions; found {type(rows).__name__}.")
    for index, row in enumerate(rows):
        for field, kind in fields.items():
            if not isinstance(row, dict) or not isinstance(row.get(field), kind):
                kinds = {int: "a whole number", str: "text"}
                hint = " Is it a file of captions?" if field == "caption" else ""
                raise InputError(f"{path}: {key}[{index}]: needs '{field}', {kinds[kind]}.{hint}")
    return rows
