"""Text on a terminal is data: names and messages show as they are, whatever is in them."""

import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from archsearch.catalog import packaged
from archsearch.cli.app import app, print_table, quoted, say
from archsearch.export.formats import EXPORTERS
from archsearch.files import write_json
from archsearch.unet.presets import preset
from tests.conftest import Cli

ODD_NAMES = ["net[v2]", "[best] :fire: x", "a:1234:b", "[red]not red", "x $y$ `z`", ":100:"]


def slow(*values: str) -> list[Any]:
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    write_json(tmp_path / "net.json", preset("mobilediffusion-lite").to_dict())
    return tmp_path / "net.json"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_printed_as_they_are(name: str, cli: Cli, network: Path, tmp_path: Path) -> None:
    path = network.rename(tmp_path / f"{name}.json")
    _, out, _ = cli("arch", "show", path)
    assert out.splitlines()[0].startswith(f"{name}  ")
    _, out, _ = cli("arch", "diff", "sd15", path)
    assert name in out
    code, out, _ = cli("export", path, "--format", "yaml", "--output", tmp_path / f"{name}.yaml")
    assert code == 0
    assert str(tmp_path / f"{name}.yaml") in out
    assert (tmp_path / f"{name}.yaml").is_file()
    code, _, err = cli("arch", "show", tmp_path / f"{name} gone.json")
    assert (code, f"{name} gone.json" in err) == (2, True)


def test_a_space_and_a_folder_of_odd_names(cli: Cli, tmp_path: Path) -> None:
    space = tmp_path / "spacey name [x].yaml"
    space.write_bytes((packaged() / "search_spaces" / "lite-inner.yaml").read_bytes())
    _, out, _ = cli("space", "show", space)
    assert "spacey name [x]" in out
    code, out, _ = cli("init", tmp_path / "[best] :fire: x?")
    assert code == 0
    *paths, last = out.splitlines()
    assert paths
    assert all(Path(path).is_file() for path in paths)
    command = shlex.split(last.partition("Next: ")[2])
    assert command[:2] == ["archsearch", "run"]
    assert Path(command[2]).is_file()


@pytest.mark.parametrize("broken", [100, 1234])
def test_lines_of_a_file_are_numbers(broken: int, cli: Cli, tmp_path: Path) -> None:
    rows = [json.dumps({"file_name": f"{i}.png", "text": "x"}) for i in range(1, broken)]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "metadata.jsonl").write_text("\n".join([*rows, '{"file_name": ']))
    sets = ("--set", "data.source=folder", "--set", f"data.path={pictures}")
    code, _, err = cli("data", "show", "quickstart", *sets)
    assert code == 2
    assert f"metadata.jsonl:{broken}: is not valid JSON" in err


def test_control_characters_are_escaped_wherever_they_are_from(
    cli: Cli, network: Path, tmp_path: Path
) -> None:
    name = "a\x1b[2J\x07\x9b31m\u202eb"
    path = network.rename(tmp_path / f"{name}.json")
    shown = r"a\x1b[2J\x07\x9b31m\u202eb"
    _, out, _ = cli("arch", "show", path)
    assert out.startswith(f"{shown}  ")
    _, out, _ = cli("arch", "diff", "sd15", path)
    assert shown in out
    _, _, err = cli("arch", "show", f"{path}.gone")
    assert shown in err
    _, out, _ = cli("arch", "show", path, "--json")
    assert json.loads(out)["name"] == shown
    for text in (out, err):
        assert not any(each in text for each in "\x1b\x07\x9b\u202e")


def test_a_table_takes_titles_columns_and_cells_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = [*ODD_NAMES, "1.5", "'x' 10", "http://x"]
    print_table("title :fire: [b]", texts, [texts])
    out = capsys.readouterr().out
    assert "title :fire: [b]" in out
    assert all(out.count(text) >= 2 for text in texts)


def test_a_terminal_gets_no_colour_for_what_is_in_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    printing = sys.modules["archsearch.cli.app"]  # where the name of the module is the program's
    monkeypatch.setattr(printing.console, "_file", file)
    monkeypatch.setattr(printing.console, "_force_terminal", True)
    say("12 'text' True [bold]x[/bold] :fire: /a/path http://x \x1b[31m")
    assert file.getvalue() == ("12 'text' True [bold]x[/bold] :fire: /a/path http://x \\x1b[31m\n")


def commands_below(
    command: Any, context: typer.Context | None = None
) -> Iterator[tuple[Any, typer.Context]]:
    here = typer.Context(command, parent=context, info_name=command.name or "archsearch")
    yield command, here
    for name in command.list_commands(here) if hasattr(command, "list_commands") else ():
        yield from commands_below(command.get_command(here, name), here)


def test_help_shows_every_letter_of_every_option() -> None:
    seen = 0
    for command, context in commands_below(get_command(app)):
        text = "".join(command.get_help(context).split())
        for option in command.params:
            assert "".join((option.help or "").split()) in text
            seen += 1
    assert seen > 100


def test_help_keeps_what_looks_like_markup(cli: Cli) -> None:
    probe = typer.Typer(rich_markup_mode=app.rich_markup_mode, pretty_exceptions_enable=False)

    @probe.command()
    def command(
        folder: str = typer.Option("x", help="Folder of the run [runs/NAME]. One :fire: goes on."),
    ) -> None:
        """Do [bold]nothing[/bold]."""

    out = CliRunner().invoke(probe, ["--help"]).output
    assert "[runs/NAME]. One :fire: goes" in " ".join(out.split())
    assert "[bold]nothing[/bold]" in out


def printed(encoding: str, *arguments: str | bytes) -> bytes:
    """What a command prints on a terminal of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "archsearch", *arguments],
        env=os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("format", [pytest.param("yaml"), *slow("json", "diffusers", "onnx")])
def test_a_name_that_is_not_utf_8(format: str, tmp_path: Path) -> None:
    path, target = os.fsencode(tmp_path) + b"/n\xff.yaml", os.fsencode(tmp_path) + b"/o\xfe"
    small = {"schema": 1, "sample_size": 8, "norm_groups": 8}
    small |= {"stages": [{"channels": 16, "down": [{}], "up": [{}, {}]}]}
    Path(os.fsdecode(path)).write_text(json.dumps(small))
    if EXPORTERS[format].suffix:
        target += EXPORTERS[format].suffix.encode()
    out = printed("utf-8", "export", path, "--format", format, "--output", target)
    assert os.path.exists(target)
    assert rb"n\xff" in out
    assert rb"o\xfe" in out


def test_a_terminal_that_knows_few_letters() -> None:
    assert rb"\xd7" in printed("ascii", "arch", "show", "sd15")
    assert json.loads(printed("ascii", "arch", "show", "sd15", "--json"))["name"] == "sd15"


@pytest.mark.parametrize("path", ["runs/what?", "a b", "$(x)", "~x", "it's", "-x", "a;b"])
def test_a_path_in_a_suggested_command_is_one_word(path: str) -> None:
    assert shlex.split(f"archsearch export {quoted(Path(path))} --knee")[2] == path
