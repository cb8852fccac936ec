"""The command line: parse, call, print."""

import os
import sys

from archsearch.cli.app import app, complain, prepare_output
from archsearch.errors import ArchsearchError, words_of


def main() -> None:
    """Entry point. Exit code 0: done; 1: the work failed; 2: bad input; 130: interrupted."""
    prepare_output()
    try:
        app()
    except ArchsearchError as error:
        complain(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # a full disk shows as any of these; the libraries are not imported
        library = type(error).__module__.partition(".")[0]
        if not isinstance(error, OSError) and library not in ("optuna", "sqlalchemy"):
            raise
        complain(f"error: {words_of(error)}")
        sys.exit(1)
