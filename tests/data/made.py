"""Small real files for every source: picture i is one colour, its caption is ``picture i``."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image


def colour(i: int) -> tuple[int, int, int]:
    return (20 * i, 255 - 20 * i, (70 * i) % 256)


@dataclass(frozen=True)
class Made:
    """Files of a source.

    Attributes:
        keys: What the spec says of them.
        repaint: Changes one picture; None where the files are a package's.
        spoil: Breaks one picture.
    """

    keys: dict[str, Any]
    repaint: Callable[[], None] | None = None
    spoil: Callable[[], None] | None = None

    @property
    def of_a_package(self) -> bool:
        return self.repaint is None


def draw(path: Path, i: int, size: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour(i)).save(path)


def twemoji(folder: Path, n: int) -> Made:
    return Made({"limit": n})


def pictures(folder: Path, n: int) -> Made:
    """Half of the captions in metadata.jsonl, half in text files."""
    rows = []
    for i in range(n):
        draw(folder / f"{i:03}.png", i)
        if i % 2:
            rows.append(json.dumps({"file_name": f"{i:03}.png", "text": f"picture {i}"}))
        else:
            (folder / f"{i:03}.txt").write_text(f"picture {i}\n")
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return Made(
        {"path": str(folder)},
        repaint=lambda: draw(folder / "003.png", 5, 40),
        spoil=lambda: cut(folder / "003.png"),
    )


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


MAKERS: dict[str, Callable[[Path, int], Made]] = {"twemoji": twemoji, "folder": pictures}
