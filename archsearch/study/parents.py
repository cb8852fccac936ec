"""Where parents lie: those that come with archsearch, and those that a user names."""

from pathlib import Path

from archsearch.catalog import config_file
from archsearch.errors import InputError

SUFFIX = ".safetensors"
FOLDER = Path(__file__).parent.parent / "parents"
"""Where the parents lie that come with archsearch."""


def shipped_parents() -> list[str]:
    """Names of the parents that come with archsearch."""
    return sorted(each.stem for each in FOLDER.glob(f"*{SUFFIX}"))


def find_parent(name: str) -> Path:
    """The file of a parent: one that comes with archsearch by its name, else a path; or the folder
    of any trained network, archsearch's or diffusers'.

    Raises:
        InputError: There is none.
    """
    shipped = FOLDER / f"{name}{SUFFIX}"
    if shipped.is_file():
        return shipped
    path = Path(name)
    if path.is_file() or (path.is_dir() and config_file(path)):
        return path
    known = ", ".join(shipped_parents()) or "none"
    raise InputError(
        f"parent '{name}': there is no such file, nor a folder of a network with its config.json; "
        f"with archsearch come: {known}. `archsearch parent train` makes one."
    )
