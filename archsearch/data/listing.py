"""What a folder or a set of files looks like from outside: enough to notice that something in it has changed."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Endings of picture files."""


def files_below(folder: Path) -> list[Path]:
    """Every file below ``folder``, hidden ones aside, in the order of their paths.

    Links are followed, but not into a folder that the link lies in. One that leads nowhere is listed as well: it is a missing file.
    """
    found: list[Path] = []
    above = {str(folder): {os.path.realpath(folder)}}  # real paths of a folder and of those that it lies in
    for parent, folders, names in os.walk(folder, followlinks=True):
        around = above.pop(parent)
        real = {name: os.path.realpath(os.path.join(parent, name)) for name in folders if not name.startswith(".")}
        folders[:] = [name for name, path in real.items() if path not in around]
        above |= {os.path.join(parent, name): around | {real[name]} for name in folders}
        found += [Path(parent) / name for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def listing_of(files: Iterable[Path], root: Path) -> dict[str, Any]:
    """Names, sizes and times of change of ``files`` in short: their number and one SHA-256.

    A file whose content changes while its size and time stay the same is not noticed. A link that leads nowhere has neither.
    """
    digest, count = hashlib.sha256(), 0
    for path in files:
        try:
            stat = path.stat()
            seen = f"{stat.st_size}\0{stat.st_mtime_ns}"
        except OSError:
            seen = "gone"
        digest.update(f"{path.relative_to(root).as_posix()}\0{seen}\n".encode(errors="surrogateescape"))
        count += 1
    return {"files": count, "sha256": digest.hexdigest()}
