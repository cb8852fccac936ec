"""Sources of captioned pictures: folders, COCO captions, WebDataset shards, data sets of the hub."""

import glob
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archsearch.data.hub import dataset_revision
from archsearch.data.records import (
    GONE,
    KEYS,
    PICTURES,
    Record,
    Source,
    caption_of,
    choose,
    files_below,
    listing_of,
    opener,
)
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError, require_extra
from archsearch.files import expanded

METADATA = "metadata.jsonl"


class Folder(Source):
    """Every picture below ``data.path``, in the order of their paths.

    ``metadata.jsonl`` in the folder has a line a picture: ``{"file_name": "a/1.png", "text": "a red
    apple"}``. A picture that is not named there is captioned by the text file of its name,
    ``a/1.txt``. With both it is refused: one of them is not meant.
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
            InputError: There is no such folder, a line of ``metadata.jsonl`` is broken, or a
                picture is captioned twice.
        """
        root = _root(spec)
        files = {path.relative_to(root).as_posix(): path for path in files_below(root)}
        rows = _metadata(root / METADATA, spec) if METADATA in files else {}
        pictures = {name for name, path in files.items() if path.suffix.lower() in PICTURES}
        for name in sorted(pictures | set(rows), key=lambda name: name.split("/")):
            text = Path(name).with_suffix(".txt").as_posix()
            if name in rows and text in files and name in files:
                line = rows[name].line
                raise InputError(
                    f"{root / METADATA}:{line}: {name} is captioned here and in {text}. Take "
                    "out one of the two."
                )
            caption = (
                rows[name].caption
                if name in rows
                else _text(files[text])
                if text in files
                else None
            )
            yield Record(name, caption, opener(files[name]) if name in files else None)


@dataclass(frozen=True)
class _Row:
    line: int
    caption: str | None


def _root(spec: DataSpec) -> Path:
    root = expanded(spec.path or "")
    if not root.is_dir():
        raise InputError(
            f"data.path: {spec.path}: is no folder; the source folder needs one, of pictures "
            "and their captions."
        )
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
            raise InputError(
                f"{where}: is not UTF-8 text (byte {error.start} of the line)."
            ) from error
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{where}: is not valid JSON ({error}).") from error
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise InputError(
                f'{where}: must be an object with "file_name" and '
                f'"{spec.caption_column or KEYS[0]}".'
            )
        name = Path(row["file_name"]).as_posix()
        if Path(name).name in ("", ".."):
            raise InputError(f'{where}: file_name: "{row["file_name"]}" is no name of a picture.')
        if name in rows:
            raise InputError(f"{where}: {name} is given twice, first in line {rows[name].line}.")
        rows[name] = _Row(number, caption_of(row, spec, name))
    return rows


class Coco(Source):
    """The pictures of a COCO caption file, such as ``captions_val2017.json``, in the order of their
    ids.

    A picture has several captions there; one of them is taken, always the same one. The annotation
    file is held in memory, the pictures are not.
    """

    takes = frozenset({"path", "images"})
    needs = frozenset({"path", "images"})

    def versions(self) -> dict[str, str]:
        """Return the version of the rule by which a caption is chosen."""
        return {"rule": "2"}

    def state(self, spec: DataSpec) -> Any:
        """Return size and time of change of the annotation file and of the pictures, in short."""
        annotations, images = _places(spec)
        return [
            listing_of([annotations], annotations.parent),
            listing_of(files_below(images), images),
        ]

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
            f"data.path: {spec.path}: is no file; the source coco needs its annotations, such "
            "as captions_val2017.json."
        )
    if not images.is_dir():
        raise InputError(
            f"data.images: {spec.images}: is no folder; the source coco needs the one that its "
            "pictures lie in."
        )
    return annotations, images


def _read(path: Path) -> tuple[dict[int, str], dict[int, list[str]]]:
    """File names and captions by id of the picture. Captions of pictures that the file does not
    list are left out.
    """
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
        raise InputError(
            f"{path}: images: the id {next(i for i in ids if ids.count(i) > 1)} is given twice."
        )
    captions: dict[int, list[str]] = {}
    for row in _rows(path, content, "annotations", {"image_id": int, "caption": str}):
        captions.setdefault(row["image_id"], []).append(row["caption"])
    return names, captions


def _rows(path: Path, content: Any, key: str, fields: dict[str, type]) -> list[dict[str, Any]]:
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise InputError(
            f"{path}: {key}: must be a list, as in COCO's captions; found {type(rows).__name__}."
        )
    for index, row in enumerate(rows):
        for field, kind in fields.items():
            if not isinstance(row, dict) or not isinstance(row.get(field), kind):
                kinds = {int: "a whole number", str: "text"}
                hint = " Is it a file of captions?" if field == "caption" else ""
                raise InputError(f"{path}: {key}[{index}]: needs '{field}', {kinds[kind]}.{hint}")
    return rows


class WebDataset(Source):
    """The samples of local shards, shard after shard by name, in the order in which they were
    written.

    A sample is the files of one name in a shard, up to its first dot: a picture, and its caption as
    ``.txt`` or in a ``.json``. Nothing else in it is read, ``0.mask.png`` neither. A shard without
    samples is counted.
    """

    takes = frozenset({"path", "caption_column"})
    needs = frozenset({"path"})

    def versions(self) -> dict[str, str]:
        """Return the version of the rule by which pictures and captions are found."""
        _webdataset()
        return {"rule": "2"}

    def state(self, spec: DataSpec) -> Any:
        """Return sizes and times of change of the shards, in short."""
        shards = _shards(spec)
        return listing_of(shards, Path(os.path.commonpath([shard.parent for shard in shards])))

    def records(self, spec: DataSpec) -> Iterator[Record]:
        """Yield the samples.

        Raises:
            InputError: There are no shards, or one is no tar file or cut short.
        """
        webdataset = _webdataset()
        for shard in _shards(spec):
            if not shard.stat().st_size:
                yield Record(shard.name, None, None, problem="empty shard")
                continue
            empty = True
            try:
                # Samples are taken as bytes: webdataset's own decoder reads pickles too.
                for sample in webdataset.WebDataset(
                    str(shard), shardshuffle=False, empty_check=False
                ):
                    empty = False
                    yield _record(f"{shard.name}:{sample['__key__']}", sample, spec)
            except (tarfile.TarError, OSError, EOFError, ValueError) as error:
                reason = error.args[0] if error.args else type(error).__name__
                raise InputError(
                    f"{shard}: cannot be read as a shard ({reason}). Is the file truncated?"
                ) from error
            if empty:
                yield Record(shard.name, None, None, problem="empty shard")


def _record(name: str, sample: Mapping[str, Any], spec: DataSpec) -> Record:
    parts = {
        key.lower(): value for key, value in sample.items()
    }  # 0.mask.png is the part mask.png, and no picture
    picture = next((parts[end[1:]] for end in PICTURES if end[1:] in parts), None)
    caption: str | bytes | None = None if spec.caption_column else parts.get("txt")
    if caption is None and "json" in parts:
        try:
            row = json.loads(parts["json"])
        except (ValueError, RecursionError):
            return Record(name, None, None, problem="broken JSON")
        caption = caption_of(row, spec, name.partition(":")[2]) if isinstance(row, dict) else None
    return Record(name, caption, None if picture is None else opener(picture))


def _webdataset() -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise require_extra("webdataset", "data") from error
    return webdataset


def _shards(spec: DataSpec) -> list[Path]:
    """The files that ``data.path`` means: a folder's .tar files, or a pattern with {000..012}, *
    and ?.
    """
    given = expanded(spec.path or "")
    if given.is_dir():
        found = sorted(given.glob("*.tar"))
    else:
        _webdataset()  # which brings braceexpand
        from braceexpand import braceexpand

        try:
            patterns = list(braceexpand(str(given)))
        except ValueError as error:
            raise InputError(f"data.path: {spec.path}: has a brace too many or too few.") from error
        missing = [pattern for pattern in patterns if not glob.glob(pattern)]
        if missing and len(missing) < len(patterns):
            raise InputError(f"data.path: {spec.path}: there is no {missing[0]}.")
        found = sorted({Path(name) for pattern in patterns for name in glob.glob(pattern)})
    if not found:
        raise InputError(
            f"data.path: {spec.path}: no shards there; give a folder of .tar files or a pattern "
            f"such as a/{{000..012}}.tar."
        )
    return found


class HuggingFace(Source):
    """The rows of one split, streamed.

    ``data.path`` is a folder that ``save_to_disk`` wrote, any other folder that ``load_dataset``
    reads (parquet files, pictures with metadata), or an id, ``org/name`` or ``org/name@revision``.
    No data set brings code of its own.
    """

    takes = frozenset({"path", "split", "image_column", "caption_column"})
    needs = frozenset({"path"})

    def versions(self) -> dict[str, str]:
        """Return the version of the rule by which pictures and captions are found."""
        _datasets()
        return {"rule": "2"}

    def state(self, spec: DataSpec) -> Any:
        """Return names, sizes and times of change of the files in short, or the commit of an id."""
        folder = expanded(spec.path or "")
        if folder.is_dir():
            return listing_of(files_below(folder), folder)
        return dataset_revision("data.path", spec.path or "")

    def records(self, spec: DataSpec) -> Iterator[Record]:
        """Yield the rows.

        Raises:
            InputError: The data set cannot be read, or has no such split or column.
        """
        datasets = _datasets()
        with _told(spec):
            rows = _open(datasets, spec)
            columns = list(rows.features or next(iter(rows.take(1)), {}))
        image = spec.image_column or "image"
        captions = (spec.caption_column,) if spec.caption_column else KEYS
        if image not in columns:
            raise InputError(
                f"data.image_column: {spec.path} has no column '{image}'. Allowed are: "
                f"{', '.join(columns) or 'none'}."
            )
        if not set(captions) & set(columns):
            raise InputError(
                f"data.caption_column: {spec.path} has no column '{' or '.join(captions)}'. "
                f"Allowed are: {', '.join(columns)}."
            )
        with _told(spec):
            # Undecoded: a broken picture is then ours to count, not an error in the middle of the
            # data.
            for index, row in enumerate(rows.cast_column(image, datasets.Image(decode=False))):
                picture = row[image] or {}
                name = f"row {index}"
                file = picture.get("bytes") or _file(picture.get("path"))
                yield Record(name, caption_of(row, spec, name), opener(file) if file else None)


def _file(path: str | None) -> Path | bytes | None:
    """A picture by its path; what lies in an archive or on the hub, ``zip://1.png::pictures.zip``
    say, is read.
    """
    if not path or "://" not in path:
        return Path(path) if path else None
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            return bytes(file.read())
    except FileNotFoundError:
        return None


def _open(datasets: Any, spec: DataSpec) -> Any:
    """The rows of the split, which can be iterated and know their features."""
    folder, split = expanded(spec.path or ""), spec.split or "train"
    if not folder.is_dir():
        revision = dataset_revision("data.path", spec.path or "")
        return datasets.load_dataset(
            (spec.path or "").partition("@")[0], split=split, streaming=True, revision=revision
        )
    if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return datasets.load_dataset(str(folder), split=split, streaming=True)
    saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise InputError(
                f"data.split: {spec.path} has no split '{split}'. Allowed are: {', '.join(saved)}."
            )
        return saved[split]
    if spec.split and str(saved.split) != spec.split:
        raise InputError(
            f"data.split: {spec.path} was saved as one split, '{saved.split}', but split is "
            f"'{spec.split}'."
        )
    return saved


@contextmanager
def _told(spec: DataSpec) -> Iterator[None]:
    """Turn whatever the library raises into one sentence."""
    try:
        yield
    except (InputError, GeneratorExit):
        raise
    except Exception as error:  # builders raise errors of pyarrow, fsspec, the hub and their own
        lines = str(error).strip().splitlines()
        reason = lines[0].rstrip(". ") if lines else type(error).__name__
        raise InputError(
            f"data.path: {spec.path}: cannot be read as a data set ({reason})."
        ) from error


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise require_extra("datasets", "data") from error
    return datasets
