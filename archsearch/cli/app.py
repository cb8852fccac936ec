"""The Typer application, and what commands print with."""

import importlib
import io
import json
import logging
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, JustifyMethod, OverflowMethod
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.style import Style
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_from_info, get_group_from_info

import archsearch
from archsearch.files import UNPRINTABLE, printable

# Every command: the module that holds it, and what it does. A module is imported when one of its
# commands is called, so that the others cost no time.
COMMANDS = {
    "init": ("export", "Copy the shipped search spaces, latency tables and studies into a folder."),
    "arch": ("arch", "List, show, compare and edit architectures."),
    "space": ("space", "Look at a search space and draw from it."),
    "latency": ("latency", "Build latency tables, prove them, and look at them."),
    "data": ("data", "Prepare and look at a study's captioned pictures."),
    "run": ("run", "Search: train and score candidates, keep the Pareto front."),
    "status": ("results", "Show how far a run is."),
    "pareto": ("results", "Show the Pareto front of a run."),
    "effects": ("effects", "Show what every choice of every knob costs or gains."),
    "compare": ("compare", "Compare the fronts of two or more runs."),
    "plot": ("results", "Draw pictures of a run, for a paper too."),
    "dashboard": ("dashboard", "Watch a run in the browser while it goes on, and steer it."),
    "report": ("report", "Write a run's report: one HTML page to pick an architecture by."),
    "doctor": ("doctor", "Check a run's database and files after a crash, and mend them."),
    "drive": ("drive", "Search with a sampler of another program, in JSON lines."),
    "export": ("export", "Write an architecture in another format."),
    "train": ("train", "Train one network as a study trains its candidates."),
    "generate": ("train", "Draw pictures with a trained network."),
    "evaluate": ("evaluate", "Score a folder of pictures against real ones."),
    "proxy": ("proxy", "Find out what the scores of a study's proxy can be trusted with."),
}


class _Lazy(TyperGroup):
    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, text = COMMANDS[cmd_name]
        if self._listing:
            return TyperCommand(cmd_name, help=text)
        importlib.import_module(f"archsearch.cli.{module}")
        options: dict[str, Any] = {"pretty_exceptions_short": False, "rich_markup_mode": None}
        for sub in app.registered_groups:
            if sub.name == cmd_name:
                return get_group_from_info(sub, suggest_commands=True, **options)
        for command in app.registered_commands:
            called = command.name or getattr(command.callback, "__name__", "")
            if called == cmd_name:
                return get_command_from_info(command, **options)
        raise AssertionError(f"archsearch.cli.{module} has no command {cmd_name}")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False


app = typer.Typer(
    cls=_Lazy,
    help="Neural architecture search for text-to-image UNets that must run on phones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"archsearch {archsearch.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Neural architecture search for text-to-image UNets that must run on phones."""


def group(name: str, text: str) -> typer.Typer:
    """Add a group of commands."""
    sub = typer.Typer(help=text, no_args_is_help=True, pretty_exceptions_enable=False)
    app.add_typer(sub, name=name)
    return sub


class _Console(Console):
    """A console that takes every string as it is: no markup, no emoji, no highlighting."""

    def render_str(
        self,
        text: str,
        *,
        style: str | Style = "",
        justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None,
        **_: Any,
    ) -> Text:
        return Text(printable(text), style, justify=justify, overflow=overflow)


class _LogFormatter(logging.Formatter):
    """The same for what libraries, ours among them, have to warn of."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def prepare_output() -> None:
    """Let standard output and error take whatever is printed: what they cannot spell is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort:
        logging.lastResort.setFormatter(_LogFormatter())


console = _Console()
errors = _Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key of the study, e.g. proxy.samples=800."
    ),
]


def print_json(value: Any) -> None:
    """Print plain data as JSON on standard output, for programs."""
    spelled = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, indent=1, ensure_ascii=not spelled)
    # in JSON these stand in strings alone, where each can be written as an escape
    typer.echo(UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def quoted(path: Path) -> str:
    """A path as a word of a command that is suggested: for a shell to take it as it is."""
    return shlex.quote(str(path))


def say(text: str) -> None:
    """Print a line as it is; nothing is wrapped."""
    console.print(text, soft_wrap=True)


def complain(text: str) -> None:
    """The same on standard error."""
    errors.print(text, soft_wrap=True)


def print_table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows; numbers are set flush right."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(
            isinstance(row[index], int | float) or row[index] in ("", "–") for row in rows
        )
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(number, row))
    # Without a terminal there is no width to fit: nothing is cut.
    (console if console.is_terminal else _Console(width=240)).print(table)


def number(value: Any) -> str:
    """A cell as text: whole numbers with separators, others to four significant digits."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return (
            f"{value:,.0f}"
            if value.is_integer() and abs(value) >= 10_000
            else f"{value:,.4g}"
            if abs(value) < 10_000
            else f"{value:,.0f}"
        )
    return str(value)


# Tells how far something is: what is being done, and the share of it that is done.
Report = Callable[[str, float], None]


@contextmanager
def progress_bar() -> Iterator[Report]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not errors.is_terminal:
        yield lambda description, fraction: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("", total=1.0)

        def report(description: str, fraction: float) -> None:
            progress.update(task, description=printable(description), completed=fraction)

        yield report


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
        complain(words)
        raise typer.Exit(1) from None
