"""The documentation: its links lead somewhere, its commands parse, and what it shows of Python, the
tutorial and the notebook run.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import archsearch
from archsearch.cli.app import app
from tools.site import ROOT, anchors, code_blocks, code_spans, links, pages, rewritten

HISTORY = ("CHANGELOG.md", "LOG.md")
"""Pages that tell of what was: their commands may be those of an older version."""
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
TUTORIAL = ROOT / "docs" / "tutorial.md"

# Python in the pages. Most of it runs here, the same code with less work to do; what is the whole
# of a package or of another program runs in the test of its own.
BEFORE = """
import archsearch

network = archsearch.arch("mobilediffusion-lite")

def my_own_score(network):
    return 1e9 / archsearch.price(network).macs
"""
LESS_WORK = {
    "docs/api.md": [
        ('"search.trials": 20', '"search.trials": 12'),
        ("budget=17_280", "budget=32"),
        ("finished() < 50", "finished() < 14"),
    ],
    "docs/architectures.md": [],
    "docs/own_metric.md": [],
    "docs/scales.md": [],
}
IN_TESTS_OF_THEIR_OWN = {
    "docs/api.md": ("sys.argv", "study/test_drive.py"),
    "docs/benchmark.md": ("archsearch.benchmark.load", "benchmark/test_table.py"),
    "docs/data.md": ("class Plates", "data/test_plugins.py"),
    "docs/metrics.md": ("class FdPalette", "metrics/test_plugin.py"),
    "docs/plugins.md": ("", "runtimes/test_plugin.py"),
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


each_page = pytest.mark.parametrize("path", pages(), ids=name_of)


# Links


@each_page
def test_links_lead_to_files_and_headings(path: Path) -> None:
    broken = []
    for link in links(read(path)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = Path(os.path.normpath(path.parent / file)) if file else path
        if not target.exists():
            broken.append(f"{link}: there is no such file")
        elif anchor and anchor not in anchors(read(target)):
            broken.append(f"{link}: there is no such heading")
    assert broken == []


@each_page
def test_the_site_rewrites_every_link(path: Path) -> None:
    found = links(rewritten(read(path), name_of(path)))
    assert not [link for link in found if link.startswith(("../README", "docs/", "../docs/"))]
    files = [link for link in links(read(path)) if not (path.parent / link).is_dir()]
    assert len(found) == len(files)


def test_links_between_pages_are_those_of_the_site() -> None:
    text = "[a](docs/data.md#sources), [b](studies/README.md), ![c](docs/images/front.png)"
    assert links(rewritten(text, "README.md")) == [
        "data.md#sources",
        "studies.md",
        "images/front.png",
    ]
    text = "[a](../studies/README.md#engine) [b](../NOTICE) [c](schemas) [d](https://a.b/c.md)"
    assert links(rewritten(text, "docs/data.md")) == [
        "studies.md#engine",
        "files/NOTICE.txt",
        "https://a.b/c.md",
    ]


def test_headings_are_named_as_code_hosts_do() -> None:
    text = "# One & two\n\n## `objectives`, `report`\n\n    # no heading\n"
    assert anchors(text) == {"one--two", "objectives-report"}


# Commands


def commands(text: str) -> Iterator[list[str]]:
    """The words of every call of archsearch that a page shows, in blocks and in sentences."""
    lines = [" ".join(span.split()) for span in code_spans(text)]
    for block in code_blocks(text):
        joined = re.sub(r"\\\n\s*|\n\s*(?=\[--)", " ", block.text)
        lines += [line.strip().removeprefix("$ ") for line in joined.splitlines()]
    for line in lines:
        if line.startswith("archsearch "):
            words = [word.strip("[]") for word in shlex.split(line, comments=True)[1:]]
            yield from alternatives([word for word in words if word.strip("….")])


def alternatives(words: list[str]) -> Iterator[list[str]]:
    """``latency bundle / import`` is two commands."""
    if "/" not in words:
        yield words
        return
    before = words[: words.index("/") - 1]
    for word in words[len(before) :: 2]:
        yield [*before, word]


def refused(words: list[str]) -> str | None:
    """Why the command line does not know a command or an option; nothing is run."""
    command: Any = get_command(app)
    context = command.context_class(command)
    while hasattr(command, "list_commands") and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return f"there is no command '{words[0]}'"
        command, words = found, words[1:]
        context = command.context_class(command, parent=context)
    try:
        _, left, _ = command.make_parser(context).parse_args([*words])
    except Exception as error:
        return str(error)
    return f"too much: {' '.join(left)}" if left else None


@pytest.mark.parametrize(
    "path", [path for path in pages() if path.name not in HISTORY], ids=name_of
)
def test_commands_are_those_of_the_command_line(path: Path) -> None:
    wrong = {" ".join(words): refused(words) for words in commands(read(path))}
    assert {words: why for words, why in wrong.items() if why} == {}


def test_wrong_commands_are_seen() -> None:
    text = "`archsearch arch list / shwo`\n\n    archsearch run STUDY --trails 3  # a slip\n"
    assert [refused(words) for words in commands(text)] == [
        None,
        "there is no command 'shwo'",
        "No such option: --trails",
    ]


# Python


def python_blocks(page: str) -> list[str]:
    return [block.text for block in code_blocks(read(ROOT / page)) if block.language == "python"]


@each_page
def test_python_is_run_by_a_test(path: Path) -> None:
    page = name_of(path)
    blocks = python_blocks(page)
    if page in IN_TESTS_OF_THEIR_OWN:
        mark, test = IN_TESTS_OF_THEIR_OWN[page]
        assert any(mark in block for block in blocks)
        assert path.name in read(ROOT / "tests" / test)
        blocks = [block for block in blocks if mark not in block]
    assert not blocks or page in LESS_WORK
    for words, _ in LESS_WORK.get(page, []):
        assert any(words in block for block in blocks), f"{page} does not say {words} any more"


def test_the_reference_has_every_public_name() -> None:
    shown = re.findall(r"^::: archsearch\.(\w+)$", read(ROOT / "docs" / "reference.md"), re.M)
    assert sorted(shown) == sorted(archsearch.__all__)


def run(folder: Path, *command: object) -> str:
    """Run a command in a folder, with this checkout's archsearch; returns what it prints."""
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


ARCHSEARCH = (sys.executable, "-m", "archsearch")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the quickstart's study, its trainings of two steps, and with a run of it."""
    folder = tmp_path_factory.mktemp("docs")
    study = yaml.safe_load(read(ROOT / "studies" / "quickstart.yaml"))
    study["proxy"] |= {"width": 0.0625, "samples": 16, "draws": 16}
    study["sampling"], study["metrics"] = {"steps": 2}, {"images": 16}
    study["search"] = {"trials": 3, "enqueue": "presets", "confirm_seeds": 1}
    study["report"] = []
    (folder / "studies").mkdir()
    (folder / "studies" / "quickstart.yaml").write_text(yaml.safe_dump(study))
    run(folder, *ARCHSEARCH, "run", "studies/quickstart.yaml")
    for name in ("a", "b"):
        shutil.copytree(folder / "runs" / "quickstart", folder / "runs" / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", LESS_WORK)
def test_the_python_of_a_page_runs(page: str, begun: Path, tmp_path: Path) -> None:
    mark, _ = IN_TESTS_OF_THEIR_OWN.get(page, ("nothing of that kind", ""))
    code = "\n".join([BEFORE, *(block for block in python_blocks(page) if mark not in block)])
    for words, fewer in LESS_WORK[page]:
        code = code.replace(words, fewer)
    folder = shutil.copytree(begun, tmp_path / "here")
    (folder / "page.py").write_text(code, encoding="utf-8")
    run(folder, sys.executable, "page.py")


# The tutorial and the notebook


@pytest.mark.slow
def test_the_tutorial_ends_with_a_front(tmp_path: Path) -> None:
    """Every command of its numbered steps, in order, with the files that it shows; only the search
    is shorter.
    """
    text = read(TUTORIAL).partition("## Make it yours")[0]
    folder = tmp_path
    for block in code_blocks(text):
        if block.title:
            shorter = block.text.replace("samples: 640", "samples: 16").replace(
                "trials: 16", "trials: 4"
            )
            (folder / block.title).write_text(shorter, encoding="utf-8")
        for line in block.text.splitlines():
            if line.startswith("cd "):
                folder = folder / line.removeprefix("cd ")
            elif line.startswith("archsearch "):
                run(folder, *ARCHSEARCH, *shlex.split(line, comments=True)[1:])
    front = json.loads((folder / "runs/mine/pareto.json").read_text())["front"]
    assert front
    chosen = archsearch.arch(folder / "chosen.yaml")
    assert chosen.digest in {
        archsearch.UNetConfig.model_validate(m["config"]).digest for m in front
    }


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(read(NOTEBOOK))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert any("plot_front()" in "".join(cell["source"]) for cell in code)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [
        kind
        for cell in notebook.cells
        for out in cell.get("outputs", [])
        for kind in out.get("data", {})
    ]
    assert shown.count("image/svg+xml") == 2
    assert "text/html" in shown
