"""Where an export goes: nothing is overwritten unasked, and nobody sees half of a file or folder."""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from archsearch.errors import ArchsearchError, InputError

PACKAGE_SUFFIX = ".mlpackage"
"""The one kind of folder that is an export by its name and may be replaced."""


def check_target(path: Path, force: bool) -> None:
    """Refuse to overwrite.

    Raises:
        InputError: ``path`` is there and ``force`` is not given, or it is a folder that no export has written.
    """
    if path.is_dir() and path.suffix != PACKAGE_SUFFIX:
        raise InputError(f"{path}: is a folder; give the path of the file to write.")
    if os.path.lexists(path) and not force:
        raise InputError(f"{path}: is there already; give another path, or --force to overwrite it.")


def check_folder(path: Path, force: bool, files: Collection[str]) -> None:
    """Refuse to overwrite, where the export is a folder of ``files``: a folder that holds anything else is nobody's export.

    Raises:
        InputError: ``path`` is there and ``force`` is not given, or it is a folder with something else in it.
    """
    if path.is_dir() and (others := sorted(item.name for item in path.iterdir() if item.name not in files)):
        raise InputError(f"{path}: is a folder that holds {others[0]}; only a folder of {' and '.join(files)} is replaced.")
    if os.path.lexists(path) and not force:
        raise InputError(f"{path}: is there already; give another path, or --force to overwrite it.")


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a folder beside ``path`` to write in; what is called as ``path`` in it, and all else in it, then takes its place.

    Raises:
        ArchsearchError: The folder of ``path`` cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise ArchsearchError(f"{path}: cannot be written: {error.strerror or error}.") from error
    try:
        yield folder
        made = [folder / path.name, *(item for item in sorted(folder.iterdir()) if item.name != path.name)]
        # What the main file refers to goes first, so that it never points to nothing.
        for item in reversed(made):
            _replace(item, path.parent / item.name, folder)
    except OSError as error:
        raise ArchsearchError(f"{path}: cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(new: Path, path: Path, folder: Path) -> None:
    """Rename ``new`` to ``path``. Where one of them is a folder, what is there is moved aside first: no rename replaces it."""
    if os.path.lexists(path) and (new.is_dir() or path.is_dir()):
        os.replace(path, folder / f".old.{path.name}")
    os.replace(new, path)
