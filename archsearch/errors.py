"""The errors a user can cause. The command line prints them and exits with their code."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class ArchsearchError(Exception):
    """The work failed for a reason that has a name: exit code 1."""

    exit_code = 1


class InputError(ArchsearchError):
    """What the user gave is not usable: exit code 2.

    The message names the file, the key, the value and what is allowed, as far as each applies.
    """

    exit_code = 2


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
