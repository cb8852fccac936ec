"""The command line: parse, call, print."""

import os
import sys

from optuna.exceptions import OptunaError
from sqlalchemy.exc import SQLAlchemyError

from archsearch.cli.app import app, errors
from archsearch.errors import ArchsearchError


def main() -> None:
    """Entry point. Exit code 0: done; 1: the work failed; 2: bad input."""
    from archsearch.cli import (
        arch,  # noqa: F401
        data,  # noqa: F401
        evaluate,  # noqa: F401
        export,  # noqa: F401
        latency,  # noqa: F401
        proxy,  # noqa: F401
        results,  # noqa: F401
        run,  # noqa: F401
        space,  # noqa: F401
        train,  # noqa: F401
    )

    try:
        app()
    except ArchsearchError as error:
        errors.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, OptunaError, SQLAlchemyError) as error:  # a full disk shows as any of these
        words = (str(getattr(error, "orig", None) or error) or type(error).__name__).splitlines()[0]
        errors.print(f"error: {words}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
