"""What a source delivers: one captioned picture at a time, and the interface that every source has."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from archsearch.data.spec import DataSpec
from archsearch.errors import InputError


@dataclass(frozen=True)
class Record:
    """One picture and its caption, not decoded yet.

    Attributes:
        name: What a message calls it: a file's name, a key.
        caption: The caption; bytes are read as UTF-8. None where there is none.
        open: Decodes the picture; may raise what Pillow raises. None where there is no picture.
        family: Near-duplicates share a key, and a family never straddles the split. None: pictures that are equal at the
            size of the data are a family.
        problem: Why it cannot be used, where the source knows that already: it is then skipped and counted.
    """

    name: str
    caption: str | bytes | None
    open: Callable[[], Image.Image] | None
    family: str | None = None
    problem: str | None = None


class Source(Protocol):
    """Delivers captioned pictures in an order that never changes. A class that names this one as its base gets the defaults.

    Attributes:
        takes: Which of the keys in :data:`archsearch.data.spec.SOURCE_KEYS` belong to it.
        needs: Those that it cannot do without.
        style: What captions call its style where sources are mixed; None where they call it nothing, or always do.
        largest: Largest size in pixels that its pictures are good for, or None.
    """

    takes: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    style: str | None = None
    largest: int | None = None

    def versions(self) -> dict[str, str]:
        """Return what decides the pictures besides the spec and the user's files: versions of packages and of rules.

        Raises:
            InputError: A package is missing.
        """
        ...

    def state(self, spec: DataSpec) -> Any:
        """Return what changes when the user's files do, as a JSON value: the cache is used only while it stays the same.

        Raises:
            InputError: There is nothing under ``spec.path``.
        """
        return None

    def records(self, spec: DataSpec) -> Iterator[Record]:
        """Yield the pictures one after the other.

        Raises:
            InputError: The files have not the form that the source reads.
        """
        ...


def records_of(name: str, source: Source, spec: DataSpec) -> Iterator[Record]:
    """The records of the source called ``name``; what cannot be read is told as the user's file, not as ours.

    Raises:
        InputError: A file cannot be read, or has not the form that the source reads.
    """
    try:
        yield from source.records(spec)
    except OSError as error:
        where = error.filename or f"data.source: {name}"
        raise InputError(f"{where}: cannot be read: {error.strerror or error}.") from error


def opener(picture: Path | bytes) -> Callable[[], Image.Image]:
    """What decodes a picture file, or the bytes of one, when it is called."""
    return lambda: Image.open(picture if isinstance(picture, Path) else io.BytesIO(picture))
