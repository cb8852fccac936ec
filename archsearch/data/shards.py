"""WebDataset: pictures and captions in tar files."""

import glob
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from archsearch.data.captions import caption_of
from archsearch.data.listing import PICTURES, listing_of
from archsearch.data.record import Record, Source, opener
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError, require_extra
from archsearch.files import expanded


class WebDataset(Source):
    """The samples of local shards, shard after shard by name, in the order in which they were written.

    A sample is the files of one name in a shard, up to its first dot: a picture, and its caption as ``.txt`` or in a ``.json``.
    Nothing else in it is read, ``0.mask.png`` neither. A shard without samples is counted.
    """

    takes = frozenset({"path", "caption_column"})
    needs = frozenset({"path"})

    def versions(self) -> dict[str, str]:
        """Return the version of the rule by which pictures and captions are found."""
        _library()
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
        webdataset = _library()
        for shard in _shards(spec):
            if not shard.stat().st_size:
                yield Record(shard.name, None, None, problem="empty shard")
                continue
            empty = True
            try:
                # Samples are taken as bytes: webdataset's own decoder reads pickles too.
                for sample in webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False):
                    empty = False
                    yield _record(f"{shard.name}:{sample['__key__']}", sample, spec)
            except (tarfile.TarError, OSError, EOFError, ValueError) as error:
                reason = error.args[0] if error.args else type(error).__name__
                raise InputError(f"{shard}: cannot be read as a shard ({reason}). Is the file truncated?") from error
            if empty:
                yield Record(shard.name, None, None, problem="empty shard")


def _record(name: str, sample: Mapping[str, Any], spec: DataSpec) -> Record:
    parts = {key.lower(): value for key, value in sample.items()}  # 0.mask.png is the part mask.png, and no picture
    picture = next((parts[end[1:]] for end in PICTURES if end[1:] in parts), None)
    caption: str | bytes | None = None if spec.caption_column else parts.get("txt")
    if caption is None and "json" in parts:
        try:
            row = json.loads(parts["json"])
        except (ValueError, RecursionError):
            return Record(name, None, None, problem="broken JSON")
        caption = caption_of(row, spec, name.partition(":")[2]) if isinstance(row, dict) else None
    return Record(name, caption, None if picture is None else opener(picture))


def _library() -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise require_extra("webdataset", "data") from error
    return webdataset


def _shards(spec: DataSpec) -> list[Path]:
    """The files that ``data.path`` means: a folder's .tar files, or a pattern with {000..012}, * and ?."""
    given = expanded(spec.path or "")
    if given.is_dir():
        found = sorted(given.glob("*.tar"))
    else:
        _library()  # which brings braceexpand
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
            f"data.path: {spec.path}: no shards there; give a folder of .tar files or a pattern such as a/{{000..012}}.tar."
        )
    return found
