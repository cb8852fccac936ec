"""The Typer application, and what commands print with."""

import importlib
import io
import json
import logging
import math
import re
import shlex
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Self

import typer
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, JustifyMethod, OverflowMethod
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.style import Style
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_from_info, get_group_from_info

import archsearch
from archsearch.errors import InputError
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
    "pareto": ("front", "Show the Pareto front of a run."),
    "effects": ("effects", "Show what every choice of every knob costs or gains."),
    "compare": ("compare", "Compare the fronts of two or more runs."),
    "plot": ("results", "Draw pictures of a run, for a paper too."),
    "dashboard": ("dashboard", "Watch a run in the browser while it goes on, and steer it."),
    "report": ("report", "Write a run's report: one HTML page to pick an architecture by."),
    "doctor": ("doctor", "Check a run's database and files after a crash, and mend them."),
    "drive": ("drive", "Search with a sampler of another program, in JSON lines."),
    "export": ("export", "Write an architecture in another format."),
    "train": ("train", "Train one network as a study trains its candidates."),
    "distill": ("distill", "Distill a trained network to fewer steps."),
    "adapt": ("distill", "Train an adapter: a LoRA, control by edges, or inpainting."),
    "few-steps": ("distill", "Score what the front and the presets draw in few steps."),
    "generate": ("train", "Draw pictures with a trained network."),
    "evaluate": ("evaluate", "Score a folder of pictures against real ones."),
    "proxy": ("proxy", "Find out what the scores of a study's proxy can be trusted with."),
    "parent": ("parent", "Train one network that the candidates of a study start from."),
    "benchmark": ("benchmark", "Networks with recorded scores: look at them, record more."),
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


INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of the signal."""


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


def paragraph(text: str, indent: int = 0) -> None:
    """Print a long line, on a terminal broken between words, but not at no-break spaces; the lines
    after the first are indented.
    """
    if console.is_terminal:
        hanging, width = " " * indent, max(console.width, indent + 20)
        text = textwrap.fill(text, width, subsequent_indent=hanging, break_on_hyphens=False)
    say(text.replace(NO_BREAK, " "))


NO_BREAK = "\N{NO-BREAK SPACE}"
LIKE_A_NUMBER = re.compile(r"(≈ |× )?[+-]?\d[\d.,]*( [±kMG%].*)?")
UNBROKEN = 240
"""Width of a line where there is no terminal that it has to fit."""


def fits(columns: Sequence[str], cells: Sequence[Sequence[Any]]) -> bool:
    """Whether a table of these columns fits the terminal unbroken."""
    texts = ([head, *map(number, own)] for head, own in zip(columns, cells, strict=True))
    needed = sum(max(map(cell_len, each)) for each in texts) + _around(len(columns))
    return needed <= (console.width if console.is_terminal else UNBROKEN)


def _around(columns: int) -> int:
    """Characters between and around so many columns."""
    return 3 * columns + 1


def print_table(
    title: str | None,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    wide: bool = False,
) -> None:
    """Print rows; numbers are set flush right. With ``wide`` no column is narrowed to fit the
    terminal.
    """
    if title:
        paragraph(title)
    table = _table(columns, rows)
    if wide:
        return _Console(width=10 * UNBROKEN).print(table, soft_wrap=True)
    if not console.is_terminal:  # there is no width to fit: nothing is cut
        return _Console(width=UNBROKEN).print(table)
    for column, width in zip(table.columns, _widths(columns, rows, console.width), strict=True):
        column.width = width
    return console.print(table)


def _widths(columns: Sequence[str], rows: Sequence[Sequence[Any]], room: int) -> list[int]:
    """Widths of columns that fit into ``room`` characters together: the widest are narrowed first,
    between words as far as that goes.
    """
    cells = [[head, *(number(row[i]) for row in rows)] for i, head in enumerate(columns)]
    widths = [max(map(cell_len, each)) for each in cells]
    least = [max(map(cell_len, map(_longest_part, each))) for each in cells]
    numbers = [all(map(_is_number, each[1:])) for each in cells]
    spare = room - _around(len(widths))
    floors = (
        least,  # between words; then within them, in texts before numbers
        [w if n else min(w, 8) for w, n in zip(least, numbers, strict=True)],
        [1] * len(least),
    )
    for floor in floors:
        while sum(widths) > spare and any(w > f for w, f in zip(widths, floor, strict=True)):
            _, widest = max((w, i) for i, w in enumerate(widths) if w > floor[i])
            widths[widest] -= 1
    return widths


def _longest_part(text: str) -> str:
    """What of a cell cannot be broken between words."""
    return text if _is_number(text) else max(text.split(), key=cell_len, default="")


def _is_number(cell: Any) -> bool:
    text = str(cell)
    return text in ("", "–") or LIKE_A_NUMBER.fullmatch(text) is not None


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD, show_header=any(columns))
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(
            isinstance(row[index], int | float) or _is_number(row[index]) for row in rows
        )
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(number, row))
    return table


def check_file(option: str, path: Path | None, *endings: str) -> None:
    """Refuse, before any work, a file to write that is a folder, or that is called as something
    else: another kind of file is not overwritten by a slip.

    Raises:
        InputError: It is.
    """
    if path is not None and path.suffix.lower() not in endings:
        raise InputError(f"{option}: must be called *{' or *'.join(endings)}, but got {path}.")
    if path is not None and path.is_dir():
        raise InputError(f"{option}: {path} is a folder; give the path of a file.")


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


def decimals(half: float) -> int:
    """How many of a figure's decimals say something that is uncertain by ± ``half``."""
    return max(0, 1 - math.floor(math.log10(half))) if half > 0 else 4


def duration(seconds: float) -> str:
    """A time in the unit that suits it: ``40 s``, ``9.5 min``, ``2.3 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# Tells how far something is: what is being done, and the share of it that is done.
Report = Callable[[str, float], None]

PATIENCE_SECONDS, SAID_EVERY_SECONDS = 2.0, 15.0
"""Without a terminal work is told of once it has taken so long, and then so often."""


class _Said:
    """How far something is, for where there is no terminal: a line now and then, from a thread of
    its own, so that work that says nothing is told of too.
    """

    def __init__(self) -> None:
        self._words, self._fraction, self._began = "", 0.0, time.monotonic()
        self._first = (
            0.0  # where it was when first heard of: what goes on does not begin at nothing
        )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._speak, daemon=True)

    def __call__(self, description: str, fraction: float) -> None:
        if fraction < self._fraction or not self._words:  # something else has begun
            self._began, self._first = time.monotonic(), fraction
        self._words, self._fraction = description, fraction

    def _speak(self) -> None:
        pause = PATIENCE_SECONDS
        while not self._over.wait(pause):
            pause = SAID_EVERY_SECONDS
            if not self._words:
                continue
            taken, done = time.monotonic() - self._began, self._fraction
            told = f"{done:.0%}, " if done else ""
            gained = done - self._first
            known = gained > 0 and done < 1
            left = f"about {duration(taken * (1 - done) / gained)} left" if known else ""
            complain(f"{self._words} ({told}{left or f'for {duration(taken)}'})")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@contextmanager
def progress_bar() -> Iterator[Report]:
    """A progress bar on a terminal; elsewhere lines about work that takes more than two seconds."""
    if not errors.is_terminal:
        with _Said() as said:
            yield said
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as progress:
        task, reached = progress.add_task("", total=1.0), 0.0

        def report(description: str, fraction: float) -> None:
            nonlocal reached
            if fraction < reached:  # something else has begun: it takes its own time
                progress.reset(task, total=1.0)
            reached = fraction
            progress.update(task, description=printable(description), completed=fraction)

        yield report


def heed_termination() -> None:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does, so that what it has is saved."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


@contextmanager
def interruptible(command: str | None = None, kept: str = "") -> Iterator[None]:
    """Where Ctrl-C ends the block, say how to go on, and exit with 130, as shells do.

    Args:
        command: What goes on; by default the same command again.
        kept: What has become of the work so far.
    """
    try:
        yield
    except KeyboardInterrupt:
        again = command or shlex.join(["archsearch", *sys.argv[1:]])
        complain("; ".join(filter(None, ["interrupted", kept, f"to go on: {again}"])))
        raise typer.Exit(INTERRUPTED) from None
