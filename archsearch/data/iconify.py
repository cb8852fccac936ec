"""Iconify's icon sets: drawings as SVG bodies with names, a style a set.

Each set is a package of the npm registry, ``@iconify-json/noto`` for example, with the drawings in
``icons.json``, the code points that they stand for in ``chars.json``, and the licence in
``info.json``.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import emoji
from PIL import Image
from typing_extensions import override

from archsearch.data.archives import content_of, members_of, open_archive
from archsearch.data.emoji import SKIN_TONES, caption, family_key, versions_of
from archsearch.data.records import Record, Source, listing_of
from archsearch.data.spec import DataSpec
from archsearch.documents import parse_json
from archsearch.errors import InputError, import_package
from archsearch.files import expanded, read_bytes

ICONS, CHARS, INFO = "icons.json", "chars.json", "info.json"
LARGEST = 128 * 2**20
"""Bytes that a file of a set may have, unpacked; the largest set known has 15 million."""
_OUTSIDE = re.compile(r"<(image|script|foreignObject)\b|href\s*=\s*[\"'](?!#)|url\(\s*[\"']?(?!#)")
"""A drawing may refer to its own parts only."""


@dataclass(frozen=True)
class IconSet:
    """One set as its files have it.

    Attributes:
        place: Where it lies, for messages.
        prefix: Its name, ``fluent-emoji-flat``.
        icons: By name: ``body``, and what of its box is not the set's.
        box: ``left``, ``top``, ``width`` and ``height`` where an icon says nothing.
        points: By an icon's name: the code points that it draws, where the set says them.
        licence: Its title, with the author.
    """

    place: str
    prefix: str
    icons: Mapping[str, Mapping[str, Any]]
    box: Mapping[str, float]
    points: Mapping[str, tuple[int, ...]]
    licence: str


class Iconify(Source):
    """The icons of the sets under ``data.path``: an ``icons.json``, the packed archive of a set
    (``.tgz``), its unpacked folder, or a folder of several of these.

    An icon is drawn at twice the size of the data, and captioned by the name of its emoji, else by
    its own, and the style: ``red heart, fluent emoji flat style``. Emoji of one family are one
    family in every set, and in Twemoji and OpenMoji, so that a concept is on one side of the split.
    """

    takes = frozenset({"path", "skin_tones"})
    needs = frozenset({"path"})

    @override
    def versions(self) -> dict[str, str]:
        import_package("resvg_py", extra="data")
        return versions_of("resvg-py", "emoji") | {"rule": "1"}

    @override
    def state(self, spec: DataSpec) -> Any:
        root, places = _places(spec)
        return listing_of([file for place in places for file in _files(place)], root)

    @override
    def licences(self, spec: DataSpec) -> dict[str, str]:
        return {each.prefix: each.licence for each in map(_read, _places(spec)[1])}

    @override
    def records(self, spec: DataSpec) -> Iterator[Record]:
        seen: dict[str, str] = {}
        for place in _places(spec)[1]:
            icons = _read(place)
            if icons.prefix in seen:
                raise InputError(
                    f"{icons.place}: holds the set '{icons.prefix}', and so does "
                    f"{seen[icons.prefix]}. Take out one of the two."
                )
            seen[icons.prefix] = icons.place
            for name in sorted(icons.icons):
                points = icons.points.get(name) or _named().get(_squeezed(name), ())
                if spec.skin_tones or SKIN_TONES.isdisjoint(points):
                    yield _record(icons, name, points, 2 * spec.size)


def _record(icons: IconSet, name: str, points: tuple[int, ...], size: int) -> Record:
    icon, called = icons.icons[name], f"{icons.prefix}:{name}"
    said = (caption(points) if points else None) or name.replace("-", " ")
    family = family_key(points) if points else f"icon-{_squeezed(name)}"
    text = f"{said}, {icons.prefix.replace('-', ' ')} style"
    body = icon.get("body") if isinstance(icon, dict) else None
    if not isinstance(body, str):
        return Record(called, text, None, family, problem="no body")
    if _OUTSIDE.search(body):
        return Record(called, text, None, family, problem="refers to something outside")
    return Record(called, text, _drawing(body, {**icons.box, **icon}, size), family)


def _drawing(body: str, box: Mapping[str, Any], size: int) -> Callable[[], Image.Image]:
    def draw() -> Image.Image:
        left, top, width, height = (float(box[key]) for key in ("left", "top", "width", "height"))
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left:g} {top:g} {width:g} {height:g}">{body}</svg>'
        )
        scale = size / max(width, height)
        # Without the system's fonts: the same drawing on every machine.
        png = import_package("resvg_py", extra="data").svg_to_bytes(
            svg_string=svg,
            width=max(1, round(scale * width)),
            height=max(1, round(scale * height)),
            skip_system_fonts=True,
        )
        return Image.open(io.BytesIO(png))

    return draw


# Names


def _squeezed(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


@cache
def _named() -> dict[str, tuple[int, ...]]:
    """Code points by the squeezed name of their emoji, for sets that do not say them."""
    found: dict[str, tuple[int, ...]] = {}
    for text, entry in emoji.EMOJI_DATA.items():
        points = tuple(map(ord, text))
        for name in (entry["en"], *entry.get("alias", ())):
            found.setdefault(_squeezed(name), points)
    return found


# Files


def _places(spec: DataSpec) -> tuple[Path, list[Path]]:
    """The folder that everything lies in, and each set's file or folder."""
    path = expanded(spec.path or "")
    if path.is_file():
        return path.parent, [path]
    if not path.is_dir():
        raise InputError(
            f"data.path: {spec.path}: is neither a file nor a folder; the source iconify needs an "
            "icons.json, the .tgz archive of a set, or a folder of these. `npm pack "
            "@iconify-json/noto` fetches one."
        )
    if (path / ICONS).is_file():
        return path, [path]
    inner = [folder for folder in sorted(path.iterdir()) if folder.is_dir()]
    found = [
        *sorted(path.glob("*.tgz")),
        *(each for folder in inner for each in (folder, folder / "package") if _has_icons(each)),
    ]
    if not found:
        raise InputError(
            f"data.path: {spec.path}: holds no icon set: no icons.json, no .tgz archive, no folder "
            "with an icons.json."
        )
    return path, found


def _has_icons(folder: Path) -> bool:
    return (folder / ICONS).is_file()


def _files(place: Path) -> list[Path]:
    if place.is_dir():
        return [place / name for name in (ICONS, CHARS, INFO) if (place / name).is_file()]
    beside = (place.with_name(name) for name in (CHARS, INFO) if place.name == ICONS)
    return [place, *(other for other in beside if other.is_file())]


def _read(place: Path) -> IconSet:
    packed = place.is_file() and place.suffix in (".tgz", ".gz", ".tar")
    texts = _unpacked(place) if packed else {path.name: _bytes(path) for path in _files(place)}
    if place.is_file() and not packed:
        texts[ICONS] = texts.pop(place.name)
    if ICONS not in texts:
        raise InputError(f"{place}: holds no icons.json. Is it the archive of an icon set?")
    content = _object(texts[ICONS], f"{place}: {ICONS}")
    icons, prefix = content.get("icons"), content.get("prefix")
    if not isinstance(icons, dict) or not isinstance(prefix, str) or not icons:
        raise InputError(
            f"{place}: {ICONS}: needs 'prefix', the name of the set, and 'icons', an object by "
            "name."
        )
    box = {"left": 0.0, "top": 0.0, "width": 16.0, "height": 16.0}  # Iconify's own defaults
    box |= {key: content[key] for key in box if isinstance(content.get(key), int | float)}
    info = _object(texts[INFO], f"{place}: {INFO}") if INFO in texts else content.get("info", {})
    chars = _object(texts[CHARS], f"{place}: {CHARS}") if CHARS in texts else {}
    return IconSet(str(place), prefix, icons, box, _code_points(chars, place), _licence(info))


def _code_points(chars: Mapping[str, Any], place: Path) -> dict[str, tuple[int, ...]]:
    """By an icon's name, from ``{"1f947": "1st-place-medal"}``; the longest of several, which has
    every joiner.
    """
    found: dict[str, tuple[int, ...]] = {}
    for text, name in chars.items():
        try:
            points = tuple(int(part, 16) for part in text.split("-"))
        except ValueError as error:
            raise InputError(
                f"{place}: {CHARS}: '{text}' must be code points in hexadecimal, joined by '-'."
            ) from error
        if isinstance(name, str) and len(points) > len(found.get(name, ())):
            found[name] = points
    return found


def _licence(info: Mapping[str, Any]) -> str:
    licence, author = info.get("license"), info.get("author")
    title = licence.get("spdx") or licence.get("title") if isinstance(licence, dict) else licence
    name = author.get("name") if isinstance(author, dict) else author
    return ", ".join(str(part) for part in (title or "licence not said", name) if part)


def _object(text: bytes, where: str) -> dict[str, Any]:
    content = parse_json(text, where)
    if not isinstance(content, dict):
        raise InputError(f"{where}: must be an object, but is {type(content).__name__}.")
    return content


def _bytes(path: Path) -> bytes:
    try:
        return read_bytes(path, LARGEST)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _unpacked(place: Path) -> dict[str, bytes]:
    """The three files of a packed set, by name."""
    found: dict[str, bytes] = {}
    with open_archive(place) as archive:
        for member in members_of(archive, place):
            name = member.name.rpartition("/")[2]
            if name not in (ICONS, CHARS, INFO):
                continue
            content = content_of(archive, member, LARGEST)
            if content is None:
                raise InputError(
                    f"{place}: {member.name} has more than {LARGEST:,} bytes, which no icon set "
                    "has."
                )
            found[name] = content
    return found
