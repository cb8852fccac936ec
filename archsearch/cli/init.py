"""``archsearch init``: the shipped files, to start from."""

from pathlib import Path
from typing import Annotated

import typer

from archsearch import resources
from archsearch.cli.app import app
from archsearch.cli.console import console, say


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="Folder to fill; files that are there already stay as they are.")]) -> None:
    """Copy the shipped search spaces, latency tables and studies into a folder, to change and run there."""
    written = resources.initialise(folder)
    for path in written:
        console.print(str(path), highlight=False)
    say(f"{len(written)} files. Next: archsearch run {folder / 'studies' / 'quickstart.yaml'}")
