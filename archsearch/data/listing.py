"""What a folder or a set of files looks like from outside: enough to notice that something in it has changed."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Endings of picture files."""


def files_below(folder: Path) -> list[Path]:
    """Every file below ``folder``, hidden ones aside, in the order of their paths."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent) / name for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def listing_of(files: Iterable[Path], root: Path) -> dict[str, Any]:
    """Names, sizes and times of change of ``files`` in short: their number and one SHA-256.

    A file whose content changes while its size and time stay the same is not noticed.
    """
    digest, count = hashlib.sha256(), 0
    for path in files:
        stat = path.stat()
        digest.update(f"{path.relative_to(root).as_posix()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
        count += 1
    return {"files": count, "sha256": digest.hexdigest()}
