"""Where spaces, recipes, tables and studies lie: beside the file that names them, in the working folder, or in the package."""

import os
from pathlib import Path

from archsearch.errors import InputError, nearest
from archsearch.files import write_bytes

FOLDERS = {"space": "search_spaces", "recipe": "search_spaces/recipes", "table": "latency_tables", "study": "studies"}
SUFFIX = {"space": ".yaml", "recipe": ".yaml", "table": ".json", "study": ".yaml"}
FILES = (".yaml", ".yml", ".json")
"""Endings by which a path is told from a name."""


def packaged() -> Path:
    """Folder that holds the shipped ``search_spaces``, ``latency_tables`` and ``studies``."""
    inside_wheel = Path(__file__).parent / "packaged"
    return inside_wheel if inside_wheel.is_dir() else Path(__file__).parent.parent


def inside_wheel(path: Path) -> bool:
    """Whether a file belongs to an installed package, where nothing is to be written."""
    return (Path(__file__).parent / "packaged").resolve() in path.resolve().parents


def find(kind: str, name: str, near: Path | None = None) -> Path:
    """Find a space, recipe, table or study by path or by name.

    A path is taken as it is. A name is looked for in ``search_spaces/`` (``latency_tables/``, ``studies/``) beside the folder
    of ``near`` (the file that names it), in the working folder, then in the package.

    Raises:
        InputError: There is none; the message lists the names there are.
    """
    given = Path(name)
    if given.suffix in FILES or len(given.parts) > 1:
        for candidate in (*([near.parent / given] if near else []), given):
            if candidate.is_file():
                return candidate
        raise InputError(f"{kind} '{name}': there is no such file.")
    # Not near.parent.parent: of "study.yaml" that would be the working folder again.
    bases = [*([Path(os.path.normpath(near.parent / "..")), near.parent] if near else []), Path(), packaged()]
    for base in bases:
        candidate = base / FOLDERS[kind] / f"{name}{SUFFIX[kind]}"
        if candidate.is_file():
            return candidate
    known = sorted(
        {file.stem for base in bases for file in (base / FOLDERS[kind]).glob(f"*{SUFFIX[kind]}") if ".partial" not in file.name}
    )
    raise InputError(f"{kind} '{name}' is not known; there are: {', '.join(known) or 'none'}.{nearest(name, known)}")


def initialise(folder: Path) -> list[Path]:
    """Copy the shipped spaces, recipes, tables and studies into ``folder``; files that are there already are left alone.

    Returns:
        The files that were written.
    """
    written = []
    for name in FOLDERS.values():
        for source in sorted((packaged() / name).glob("*")):
            target = folder / name / source.name
            if source.is_file() and ".partial" not in source.name and not target.exists():
                write_bytes(target, source.read_bytes())
                written.append(target)
    return written
