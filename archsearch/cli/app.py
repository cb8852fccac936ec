"""The Typer application that the command modules add to."""

from typing import Annotated

import typer

import archsearch

app = typer.Typer(
    help="Neural architecture search for text-to-image UNets that must run on phones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"archsearch {archsearch.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Neural architecture search for text-to-image UNets that must run on phones."""


def group(name: str, text: str) -> typer.Typer:
    """Add a group of commands."""
    sub = typer.Typer(help=text, no_args_is_help=True, pretty_exceptions_enable=False)
    app.add_typer(sub, name=name)
    return sub
