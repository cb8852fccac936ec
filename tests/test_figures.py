"""Every figure of the front page was measured, and says with which command."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
FIGURE = re.compile(
    r"\d[\d,.]*\s(?:%|×|ms|seconds|minutes|GB|MB|GMACs|million|parameters)"  # with a unit
    r"|±\s\d[\d.]*"
    r"|\b0\.\d{3,}"
)
DEMO = "## In one minute", "The paper chose these steps"  # printed by a command, and counted


def measured() -> str:
    page = (TOP / "benchmarks" / "README.md").read_text(encoding="utf-8")
    _, _, table = page.partition("## Figures in the README")
    return table


def figures() -> list[str]:
    page = (TOP / "README.md").read_text(encoding="utf-8")
    before, _, rest = page.partition(DEMO[0])
    page = before + rest.partition(DEMO[1])[2]
    page = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    return sorted({" ".join(match.group().split()) for match in FIGURE.finditer(page)})


@pytest.mark.skipif(not (TOP / "benchmarks").is_dir(), reason="benchmarks stay in the repository")
def test_every_figure_of_the_readme_has_a_row() -> None:
    known = " ".join(measured().split())
    found = figures()
    assert len(found) > 10
    assert [figure for figure in found if figure not in known] == []


@pytest.mark.skipif(not (TOP / "benchmarks").is_dir(), reason="benchmarks stay in the repository")
def test_every_row_has_a_command_a_machine_and_a_spread() -> None:
    rows = [line for line in measured().splitlines() if line.startswith("| ")][1:]
    assert rows
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 6, row
        assert all(cells), row
        assert "`" in cells[2], row
