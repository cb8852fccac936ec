"""A folder of pictures with captions in ``metadata.jsonl`` or in text files beside them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archsearch.data.captions import KEYS, caption_of
from archsearch.data.decode import GONE
from archsearch.data.listing import PICTURES, files_below, listing_of
from archsearch.data.record import Record, Source, opener
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError
from archsearch.files import expanded

METADATA = "metadata.jsonl"


class Folder(Source):
    """Every picture below ``data.path``, in the order of their paths.

    ``metadata.jsonl`` in the folder has a line a picture: ``{"file_name": "a/1.png", "text": "a red apple"}``. A picture that is
    not named there is captioned by the text file of its name, ``a/1.txt``. With both it is refused: one of them is not meant.
    """

    takes = frozenset({"path", "caption_column"})
    needs = frozenset({"path"})

    def versions(self) -> dict[str, str]:
        """Return the version of the rule by which pictures and captions are found."""
        return {"rule": "2"}

    def state(self, spec: DataSpec) -> Any:
        """Return names, sizes and times of change of the files, in short."""
        root = _root(spec)
        return listing_of(files_below(root), root)

    def records(self, spec: DataSpec) -> Iterator[Record]:
        """Yield the pictures.

        Raises:
            InputError: There is no such folder, a line of ``metadata.jsonl`` is broken, or a picture is captioned twice.
        """
        root = _root(spec)
        files = {path.relative_to(root).as_posix(): path for path in files_below(root)}
        rows = _metadata(root / METADATA, spec) if METADATA in files else {}
        pictures = {name for name, path in files.items() if path.suffix.lower() in PICTURES}
        for name in sorted(pictures | set(rows), key=lambda name: name.split("/")):
            text = Path(name).with_suffix(".txt").as_posix()
            if name in rows and text in files and name in files:
                line = rows[name].line
                raise InputError(f"{root / METADATA}:{line}: {name} is captioned here and in {text}. Take out one of the two.")
            caption = rows[name].caption if name in rows else _text(files[text]) if text in files else None
            yield Record(name, caption, opener(files[name]) if name in files else None)


@dataclass(frozen=True)
class _Row:
    line: int
    caption: str | None


def _root(spec: DataSpec) -> Path:
    root = expanded(spec.path or "")
    if not root.is_dir():
        raise InputError(f"data.path: {spec.path}: is no folder; the source folder needs one, of pictures and their captions.")
    return root


def _text(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno in GONE:
            return None
        raise


def _metadata(path: Path, spec: DataSpec) -> dict[str, _Row]:
    """The captions of a ``metadata.jsonl`` by name of the picture."""
    rows: dict[str, _Row] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: is not UTF-8 text (byte {error.start} of the line).") from error
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{where}: is not valid JSON ({error}).") from error
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise InputError(f'{where}: must be an object with "file_name" and "{spec.caption_column or KEYS[0]}".')
        name = Path(row["file_name"]).as_posix()
        if Path(name).name in ("", ".."):
            raise InputError(f'{where}: file_name: "{row["file_name"]}" is no name of a picture.')
        if name in rows:
            raise InputError(f"{where}: {name} is given twice, first in line {rows[name].line}.")
        rows[name] = _Row(number, caption_of(row, spec, name))
    return rows
