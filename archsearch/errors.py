"""The errors a user can cause. The command line prints them and exits with their code."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


class ArchsearchError(Exception):
    """The work failed for a reason that has a name: exit code 1."""

    exit_code = 1


class InputError(ArchsearchError):
    """What the user gave is not usable: exit code 2.

    The message names the file, the key, the value and what is allowed, as far as each applies.
    """

    exit_code = 2


def words_of(error: BaseException) -> str:
    """What a library's error says, in a line: the database's own words where it wraps these."""
    inner: BaseException | None = error
    while inner is not None:
        if own := getattr(inner, "orig", None):  # SQLAlchemy's, of the driver
            error = own
            break
        inner = inner.__cause__
    return (str(error) or type(error).__name__).splitlines()[0]


@contextmanager
def located(where: str) -> Iterator[None]:
    """Let input errors that are raised within begin with ``where``; they end with a full stop."""
    try:
        yield
    except InputError as error:
        end = "" if str(error).endswith((".", "?")) else "."
        raise InputError(f"{where}: {error}{end}") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the known word closest to ``word``, or an empty string."""
    matches = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def check_known(word: str, known: Iterable[str], unknown: str) -> None:
    """Refuse a word that is none of the known ones.

    Raises:
        InputError: The sentence ``unknown``, those that are allowed, and the nearest of them.
    """
    words = list(known)
    if word not in words:
        raise InputError(f"{unknown}; allowed are {', '.join(words)}.{nearest(word, words)}")


def require_extra(module: str, extra: str) -> InputError:
    """Build the error for an optional dependency that is not installed."""
    return InputError(
        f"{module} is not installed. Install it with: pip install 'archsearch[{extra}]'"
    )


def import_package(module: str, package: str | None = None, extra: str | None = None) -> Any:
    """Import a library that not every environment has.

    Args:
        module: What to import.
        package: What pip calls it, where that is another name, dashes for underscores aside.
        extra: The extra of archsearch that installs it; None for a library that lives in an
            environment of its own.

    Raises:
        InputError: It is not installed in this Python, or something that it imports is not.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = package or module.replace("_", "-")
        if extra:
            raise require_extra(package, extra) from error
        raise InputError(
            f"{package} cannot be imported here ({error}). It is kept out of archsearch's own "
            f"environment: install it in another one (pip install {package}, beside torch, numpy "
            "and pydantic) and name that one's Python: --runtime-python PYTHON."
        ) from error
