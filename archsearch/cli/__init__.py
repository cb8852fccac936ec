"""The command line: parse, call, print."""

import sys

from archsearch.cli.app import app
from archsearch.cli.console import errors
from archsearch.errors import ArchsearchError


def main() -> None:
    """Entry point. Exit code 0: done; 1: the work failed; 2: bad input."""
    from archsearch.cli import arch, data, export, init, latency, run, space  # noqa: F401  (each adds its commands to the app)

    try:
        app()
    except ArchsearchError as error:
        errors.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        errors.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
