"""The known sources of captioned pictures."""

from archsearch.data.coco import Coco
from archsearch.data.folder import Folder
from archsearch.data.huggingface import HuggingFace
from archsearch.data.openmoji import OpenMoji
from archsearch.data.pictures import CaptionedImages, Progress, read_pictures
from archsearch.data.record import Record, Source
from archsearch.data.shards import WebDataset
from archsearch.data.spec import SOURCE_KEYS, DataSpec
from archsearch.data.twemoji import Twemoji
from archsearch.errors import InputError, nearest
from archsearch.plugins import load_plugins

__all__ = ["SOURCES", "CaptionedImages", "Record", "Source", "check_source", "load_source"]

_OWN: dict[str, Source] = {
    "twemoji": Twemoji(),
    "openmoji": OpenMoji(),
    "folder": Folder(),
    "coco": Coco(),
    "webdataset": WebDataset(),
    "huggingface": HuggingFace(),
}
_ATTRIBUTES = ("takes", "needs", "style", "largest", "versions", "state", "records")
SOURCES: dict[str, Source] = _OWN | load_plugins("archsearch.sources", _ATTRIBUTES, _OWN)


def check_source(spec: DataSpec) -> dict[str, Source]:
    """Return the sources that ``spec`` names, in their order.

    Raises:
        InputError: One is not known, a key is missing or belongs to none of them, or the pictures would have to be enlarged.
    """
    for name in spec.sources:
        if name not in SOURCES:
            raise InputError(f"data.source: '{name}' is not known.{nearest(name, SOURCES)} Allowed are: {', '.join(SOURCES)}.")
    sources = {name: SOURCES[name] for name in spec.sources}
    for key in SOURCE_KEYS:
        takers = [name for name, source in sources.items() if key in source.takes]
        given = getattr(spec, key) not in (None, False)
        if given and not takers:
            owners = ", ".join(name for name, source in SOURCES.items() if key in source.takes)
            raise InputError(f"data.{key}: belongs to {owners or 'no source'}, but data.source is {', '.join(sources)}.")
        if key != "skin_tones" and len(takers) > 1:
            raise InputError(f"data.source: {' and '.join(takers)} both take data.{key}, which is one; mix at most one of them.")
        if not given and (needing := [name for name in takers if key in sources[name].needs]):
            raise InputError(f"data.{key}: the source {needing[0]} needs it, but it is not given.")
    for name, source in sources.items():
        if source.largest is not None and spec.size > source.largest:
            raise InputError(f"data.size: {name}'s drawings have {source.largest} pixels a side, but size is {spec.size}.")
    return sources


def load_source(spec: DataSpec, report: Progress | None = None) -> CaptionedImages:
    """Load the pictures of ``spec``; from the cache if this was done before and nothing has changed since.

    Raises:
        InputError: The spec does not fit its source, or no picture is usable.
        ArchsearchError: The cache cannot be written.
    """
    return read_pictures(spec, check_source(spec), report or (lambda description, fraction: None))
