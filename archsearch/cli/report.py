"""``archsearch report``."""

from pathlib import Path
from typing import Annotated

import typer

from archsearch.api import Study
from archsearch.cli.app import app, say
from archsearch.errors import ArchsearchError
from archsearch.report.page import REPORT, write


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")],
    others: Annotated[
        list[Path] | None, typer.Argument(help="Runs that it is compared with.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help=f"File to write (by default RUN_DIR/{REPORT}).")
    ] = None,
) -> None:
    """Write a run's report: one HTML page to pick an architecture by.

    It has the front, networks beside each other, what the knobs do, and every trial. Needs the
    extra 'report'.
    """
    compared = [Study.open(other) for other in others or ()]
    say(str(write(Study.open(run_dir), output, compared)))


def write_if_installed(study: Study) -> Path | None:
    """The report of a run that has just ended; None where the extra is not installed, or where it
    cannot be written: what the run has found is in its other files.
    """
    try:
        return write(study)
    except ArchsearchError:
        return None
