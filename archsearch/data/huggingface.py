"""Data sets of the ``datasets`` library: a local folder, or an id on the hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from archsearch.data.captions import KEYS, caption_of
from archsearch.data.hub import dataset_revision
from archsearch.data.listing import files_below, listing_of
from archsearch.data.record import Record, Source, opener
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError, require_extra
from archsearch.files import expanded


class HuggingFace(Source):
    """The rows of one split, streamed.

    ``data.path`` is a folder that ``save_to_disk`` wrote, any other folder that ``load_dataset`` reads (parquet files, pictures
    with metadata), or an id, ``org/name`` or ``org/name@revision``. No data set brings code of its own.
    """

    takes = frozenset({"path", "split", "image_column", "caption_column"})
    needs = frozenset({"path"})

    def versions(self) -> dict[str, str]:
        """Return the version of the rule by which pictures and captions are found."""
        _library()
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
        datasets = _library()
        with _told(spec):
            rows = _open(datasets, spec)
            columns = list(rows.features or next(iter(rows.take(1)), {}))
        image = spec.image_column or "image"
        captions = (spec.caption_column,) if spec.caption_column else KEYS
        if image not in columns:
            raise InputError(
                f"data.image_column: {spec.path} has no column '{image}'. Allowed are: {', '.join(columns) or 'none'}."
            )
        if not set(captions) & set(columns):
            raise InputError(
                f"data.caption_column: {spec.path} has no column '{' or '.join(captions)}'. Allowed are: {', '.join(columns)}."
            )
        with _told(spec):
            # Undecoded: a broken picture is then ours to count, not an error in the middle of the data.
            for index, row in enumerate(rows.cast_column(image, datasets.Image(decode=False))):
                picture = row[image] or {}
                name = f"row {index}"
                file = picture.get("bytes") or _file(picture.get("path"))
                yield Record(name, caption_of(row, spec, name), opener(file) if file else None)


def _file(path: str | None) -> Path | bytes | None:
    """A picture by its path; what lies in an archive or on the hub, ``zip://1.png::pictures.zip`` say, is read."""
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
        return datasets.load_dataset((spec.path or "").partition("@")[0], split=split, streaming=True, revision=revision)
    if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return datasets.load_dataset(str(folder), split=split, streaming=True)
    saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise InputError(f"data.split: {spec.path} has no split '{split}'. Allowed are: {', '.join(saved)}.")
        return saved[split]
    if spec.split and str(saved.split) != spec.split:
        raise InputError(f"data.split: {spec.path} was saved as one split, '{saved.split}', but split is '{spec.split}'.")
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
        raise InputError(f"data.path: {spec.path}: cannot be read as a data set ({reason}).") from error


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise require_extra("datasets", "data") from error
    return datasets
