"""Being told to stop: what is under way is kept, and the user told how to go on."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from archsearch.cli.console import errors


def heed_termination() -> None:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does, so that what it has is saved."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


@contextmanager
def told(words: str) -> Iterator[None]:
    """Where Ctrl-C ends the block, end with these words."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print(words, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
