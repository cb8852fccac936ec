"""Sources that a user brings: folders, COCO captions, WebDataset shards, data sets of the hub."""

import glob
import os
import re
import tarfile
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from typing_extensions import override

from archsearch.data.archives import content_of, members_of, open_archive
from archsearch.data.hub import dataset_revision, first_line
from archsearch.data.records import (
    GONE,
    OTHER_PICTURES,
    REFUSED,
    UNREAD,
    Record,
    Source,
    caption_of,
    choose,
    files_below,
    listing_of,
    match_names,
    opener,
    picture_endings,
)
from archsearch.data.spec import DataSpec
from archsearch.documents import parse_json
from archsearch.errors import InputError, import_package
from archsearch.files import expanded, read_bytes

METADATA = "metadata.jsonl"
MOST_SHARDS = 1_000_000
CAPTION_BYTES = 1024**2
DATA_BYTES = 4 * 1024**3
"""So large a file of captions may be, which is held in memory: COCO's have some 100 MB."""


# A source of files under ``data.path``.
#
# Attributes:
#     module: What of the extra ``data`` reads them, if anything.
class _Files(Source):
    takes = frozenset({"path", "caption_column"})
    needs = frozenset({"path"})
    module: str | None = None

    def versions(self) -> dict[str, str]:
        if self.module:
            import_package(self.module, extra="data")
        return {"rule": "2"}

    def state(self, spec: DataSpec) -> Any:
        root, files = self.files(spec)
        return listing_of(files, root)

    def files(self, spec: DataSpec) -> tuple[Path, list[Path]]:
        root = _place(
            spec, "path", "folder", "the source folder needs one, of pictures and their captions"
        )
        return root, files_below(root)


def _place(spec: DataSpec, key: str, kind: Literal["file", "folder"], needed: str) -> Path:
    given = getattr(spec, key) or ""
    path = expanded(given)
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        raise InputError(f"data.{key}: {given}: is no {kind}; {needed}.")
    return path


class Folder(_Files):
    """Every picture below ``data.path``, in the order of their paths.

    ``metadata.jsonl`` in the folder has a line a picture: ``{"file_name": "a/1.png", "text": "a red
    apple"}``. A picture that is not named there is captioned by the text file of its name,
    ``a/1.txt``. With both it is refused: one of them is not meant. How names are matched:
    ``match_names``. Captions without a picture, and pictures in formats that are not read, are
    counted.
    """

    @override
    def records(self, spec: DataSpec) -> Iterator[Record]:
        root, paths = self.files(spec)
        files = {path.relative_to(root).as_posix(): path for path in paths}
        metadata = match_names([METADATA], files).get(METADATA)
        rows = self._metadata(files[metadata], spec, files) if metadata else {}
        endings = picture_endings()
        read = {name for name, path in files.items() if path.suffix.lower() in endings}
        other = {name for name, path in files.items() if path.suffix.lower() in OTHER_PICTURES}
        named = {name: Path(name).with_suffix(".txt").as_posix() for name in read | other | {*rows}}
        known = match_names(named.values(), files)
        texts = {name: known[text] for name, text in named.items() if text in known}
        alone = {name for name, path in files.items() if path.suffix.lower() == ".txt"}
        alone -= set(texts.values())
        every = read | other | alone | set(rows)
        for name in sorted(every, key=lambda name: name.split("/")):
            text = texts.get(name)
            caption: str | bytes | None = None
            if name in alone:
                yield Record(name, None, None, problem="caption without a picture")
                continue
            if name in other:
                yield Record(name, None, None, problem=UNREAD)
                continue
            problem: str | None = None
            if name in rows:
                line, caption = rows[name]
                if text and name in files:
                    raise InputError(
                        f"{root / METADATA}:{line}: {name} is captioned here and in {text}. Take "
                        "out one of the two."
                    )
            elif text:
                try:
                    caption = read_bytes(files[text], CAPTION_BYTES)
                except OSError as error:
                    problem = REFUSED.get(error.errno or 0)
                    if problem is None and error.errno not in GONE:
                        raise
                    problem = problem and f"caption {problem}"
            picture = opener(files[name]) if name in files else None
            yield Record(name, caption, picture, problem=problem)

    def _metadata(
        self, path: Path, spec: DataSpec, files: Collection[str]
    ) -> dict[str, tuple[int, str | None]]:
        # By the picture's name.
        lines: dict[int, tuple[str, dict[str, Any]]] = {}
        for number, line in enumerate(read_bytes(path, DATA_BYTES).splitlines(), 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            row = parse_json(line, path, number)
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                raise InputError(
                    f'{where}: must be an object with "file_name" and "{spec.caption_keys[0]}".'
                )
            if Path(row["file_name"]).name in ("", ".."):
                raise InputError(
                    f'{where}: file_name: "{row["file_name"]}" is no name of a picture.'
                )
            lines[number] = row["file_name"], row
        found = match_names((name for name, _ in lines.values()), files)
        rows: dict[str, tuple[int, str | None]] = {}
        for number, (given, row) in lines.items():
            name = found.get(given) or Path(given).as_posix()
            if name in rows:
                raise InputError(
                    f"{path}:{number}: {name} is given twice, first in line {rows[name][0]}."
                )
            rows[name] = number, caption_of(row, spec, name)
        return rows


class Coco(_Files):
    """The pictures of a COCO caption file, such as ``captions_val2017.json``, in the order of their
    ids.

    A picture has several captions there; one of them is taken, always the same one. The annotation
    file is held in memory, the pictures are not.
    """

    takes = frozenset({"path", "images"})
    needs = frozenset({"path", "images"})

    @override
    def state(self, spec: DataSpec) -> Any:
        annotations, images = self._places(spec)
        return [
            listing_of([annotations], annotations.parent),
            listing_of(files_below(images), images),
        ]

    @override
    def records(self, spec: DataSpec) -> Iterator[Record]:
        path, images = self._places(spec)
        content = parse_json(read_bytes(path, DATA_BYTES), path)
        files: dict[int, str | None] = {}
        for row in self._rows(path, content, "images", {"id": int, "file_name": str}):
            if row["id"] in files:
                raise InputError(f"{path}: images: the id {row['id']} is given twice.")
            files[row["id"]] = row["file_name"]
        captions: dict[int, list[str]] = {}
        for row in self._rows(path, content, "annotations", {"image_id": int, "caption": str}):
            if row["caption"] is not None:
                captions.setdefault(row["image_id"], []).append(row["caption"])
        there = [each.relative_to(images).as_posix() for each in files_below(images)]
        found = match_names(filter(None, files.values()), there)
        for key, name in sorted(files.items()):
            if name is None:
                yield Record(f"id {key}", None, None, problem="no file name")
                continue
            file = images / found.get(name, name)
            yield Record(name, choose(captions.get(key, []), str(key)), opener(file))

    def _places(self, spec: DataSpec) -> tuple[Path, Path]:
        needs = "the source coco needs"
        return (
            _place(spec, "path", "file", f"{needs} its annotations, such as captions_val2017.json"),
            _place(spec, "images", "folder", f"{needs} the one that its pictures lie in"),
        )

    def _rows(
        self, path: Path, content: Any, key: str, fields: dict[str, type]
    ) -> list[dict[str, Any]]:
        # The list under ``key``, whose rows have all ``fields``; a text may be null.
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise InputError(
                f"{path}: {key}: must be a list, as in COCO's captions; found "
                f"{type(rows).__name__}."
            )
        for index, row in enumerate(rows):
            for field, kind in fields.items():
                if isinstance(row, dict) and kind is str and field in row and row[field] is None:
                    continue
                if not isinstance(row, dict) or not isinstance(row.get(field), kind):
                    wanted = "a whole number" if kind is int else "text"
                    hint = " Is it a file of captions?" if field == "caption" else ""
                    raise InputError(f"{path}: {key}[{index}]: needs '{field}', {wanted}.{hint}")
        return rows


class WebDataset(_Files):
    """The samples of local shards, shard after shard by name, in the order in which they were
    written.

    A sample is the files of one name in a shard, up to its first dot, wherever in the shard they
    lie: a picture, and its caption as ``.txt`` or in a ``.json``. Nothing else in it is read,
    ``0.mask.png`` neither, and no hidden file, such as a Mac's ``._0.png``. A shard without samples
    is counted.
    """

    module = "braceexpand"

    @override
    def records(self, spec: DataSpec) -> Iterator[Record]:
        for shard in self.files(spec)[1]:
            if not shard.stat().st_size:
                yield Record(shard.name, None, None, problem="empty shard")
                continue
            with open_archive(shard) as archive:
                samples = self._samples(members_of(archive, shard))
                for name, parts in samples.items():
                    yield self._record(archive, f"{shard.name}:{name}", parts, spec)
            if not samples:
                yield Record(shard.name, None, None, problem="empty shard")

    def _samples(self, members: Iterable[tarfile.TarInfo]) -> dict[str, dict[str, tarfile.TarInfo]]:
        # The parts of every sample by their endings. Headers alone are read for it.
        found: dict[str, dict[str, tarfile.TarInfo]] = {}
        for member in members:
            folder, slash, file = member.name.removeprefix("./").rpartition("/")
            name, _, ending = unicodedata.normalize("NFC", file).partition(".")
            if any(part.startswith(".") for part in (*folder.split("/"), file)):
                continue
            found.setdefault(f"{folder}{slash}{name}", {})[ending.lower()] = member
        return found

    def _record(
        self,
        archive: tarfile.TarFile,
        name: str,
        parts: dict[str, tarfile.TarInfo],
        spec: DataSpec,
    ) -> Record:
        # 0.mask.png is the part mask.png, and no picture.
        picture = next((end[1:] for end in picture_endings() if end[1:] in parts), None)
        caption: str | bytes | None = None
        if "txt" in parts and not spec.caption_column:
            caption = content_of(archive, parts["txt"], CAPTION_BYTES)
            if caption is None:
                return Record(name, None, None, problem="caption too large")
        elif "json" in parts:
            written = content_of(archive, parts["json"], CAPTION_BYTES)
            if written is None:
                return Record(name, None, None, problem="caption too large")
            try:
                row = parse_json(written, name)
            except InputError:
                return Record(name, None, None, problem="broken JSON")
            if isinstance(row, dict):
                caption = caption_of(row, spec, name.partition(":")[2])
        if picture is None and any(f".{part}" in OTHER_PICTURES for part in parts):
            return Record(name, None, None, problem=UNREAD)
        if picture is None:
            return Record(name, caption, None)
        content = content_of(archive, parts[picture])
        if content is None:
            return Record(name, None, None, problem="picture too large")
        return Record(name, caption, opener(content))

    @override
    def files(self, spec: DataSpec) -> tuple[Path, list[Path]]:
        # A folder's .tar files, or those of a pattern with {000..012}, * and ?.
        given = expanded(spec.path or "")
        if given.is_dir():
            found = {*given.glob("*.tar")}
        else:
            _check_braces(spec)
            try:
                patterns = list(import_package("braceexpand", extra="data").braceexpand(str(given)))
            except ValueError as error:
                raise InputError(
                    f"data.path: {spec.path}: has a brace too many or too few."
                ) from error
            matches = {pattern: glob.glob(pattern) for pattern in patterns}
            missing = [pattern for pattern, names in matches.items() if not names]
            if missing and len(missing) < len(matches):
                raise InputError(f"data.path: {spec.path}: there is no {missing[0]}.")
            found = {Path(name) for names in matches.values() for name in names}
        if not found:
            raise InputError(
                f"data.path: {spec.path}: no shards there; give a folder of .tar files or a "
                "pattern such as a/{000..012}.tar."
            )
        return Path(os.path.commonpath([shard.parent for shard in found])), sorted(found)


_BRACES, _RANGE = re.compile(r"\{([^{}]*)\}"), re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})")


def _check_braces(spec: DataSpec) -> None:
    # Before they are written out: {0..999999999} is short.
    pattern, count = spec.path or "", 1
    while groups := _BRACES.findall(pattern):  # the innermost first
        for group in groups:
            ends = _RANGE.match(group)
            count *= abs(int(ends[2]) - int(ends[1])) + 1 if ends else 1 + group.count(",")
        pattern = _BRACES.sub("", pattern)
    if count > MOST_SHARDS:
        raise InputError(
            f"data.path: {spec.path}: its braces may mean more than {MOST_SHARDS:,} files; give a "
            "folder, or * and ?."
        )


class HuggingFace(_Files):
    """The rows of one split, streamed.

    ``data.path`` is a folder that ``save_to_disk`` wrote, any other folder that ``load_dataset``
    reads (parquet files, pictures with metadata), or an id, ``org/name`` or ``org/name@revision``.
    No data set brings code of its own.
    """

    takes = frozenset({"path", "split", "image_column", "caption_column"})
    module = "datasets"

    @override
    def state(self, spec: DataSpec) -> Any:
        if expanded(spec.path or "").is_dir():
            return super().state(spec)
        return dataset_revision("data.path", spec.path or "")

    @override
    def records(self, spec: DataSpec) -> Iterator[Record]:
        image = spec.image_column or "image"
        try:
            rows = self._open(spec)
            columns = list(rows.features or next(iter(rows.take(1)), {}))
            needed = {"image_column": (image,), "caption_column": spec.caption_keys}
            for key, wanted in needed.items():
                if not set(wanted) & set(columns):
                    raise InputError(
                        f"data.{key}: {spec.path} has no column '{' or '.join(wanted)}'. Allowed "
                        f"are: {', '.join(columns) or 'none'}."
                    )
            # Undecoded: a broken picture is then ours to count, not an error in the middle of the
            # data.
            undecoded = import_package("datasets", extra="data").Image(decode=False)
            for index, row in enumerate(rows.cast_column(image, undecoded)):
                name, picture = f"row {index}", row[image] or {}
                file = picture.get("bytes") or self._file(picture.get("path"))
                yield Record(name, caption_of(row, spec, name), opener(file) if file else None)
        except InputError:
            raise
        except Exception as error:  # of pyarrow, fsspec, the hub, and builders of their own
            raise InputError(
                f"data.path: {spec.path}: cannot be read as a data set ({first_line(error)})."
            ) from error

    def _open(self, spec: DataSpec) -> Any:
        # The rows of the split, which can be iterated and know their features.
        datasets, split = import_package("datasets", extra="data"), spec.split or "train"
        folder = expanded(spec.path or "")
        if not folder.is_dir():
            revision = dataset_revision("data.path", spec.path or "")
            name = (spec.path or "").partition("@")[0]
            return datasets.load_dataset(name, split=split, streaming=True, revision=revision)
        if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return datasets.load_dataset(str(folder), split=split, streaming=True)
        saved = datasets.load_from_disk(str(folder))
        if isinstance(saved, datasets.DatasetDict):
            if split not in saved:
                raise InputError(
                    f"data.split: {spec.path} has no split '{split}'. Allowed are: "
                    f"{', '.join(saved)}."
                )
            return saved[split]
        if spec.split and str(saved.split) != spec.split:
            raise InputError(
                f"data.split: {spec.path} was saved as one split, '{saved.split}', but split is "
                f"'{spec.split}'."
            )
        return saved

    def _file(self, path: str | None) -> Path | bytes | None:
        # A picture by its path; what lies in an archive or on the hub,
        # ``zip://1.png::pictures.zip`` say, is read.
        if not path or "://" not in path:
            return Path(path) if path else None
        import fsspec

        try:
            with fsspec.open(path, "rb") as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None
