"""The package that docs/metrics.md shows, installed, and held to the contract."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the documented package is there as pip would lay it out."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    project = tomllib.loads(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0])["project"]
    folder = tmp_path_factory.mktemp("site")
    (folder / "archsearch_palette.py").write_text(
        re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    )
    info = folder / "archsearch_palette-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = [
        f"[{group}]\n" + "\n".join(f"{key} = {value}" for key, value in of.items())
        for group, of in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(points) + "\n")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def run(installed: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=installed,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_a_score_of_studies(installed: dict[str, str]) -> None:
    program = (
        "from archsearch.study.spec import SCORES; s = SCORES['fd_palette']; "
        "print(s.direction, s.source, s.label)"
    )
    assert (
        run(installed, "-c", program).strip()
        == "minimize sampled Fréchet distance to the train pictures on mean colours"
    )


def test_it_fulfils_the_contract(installed: dict[str, str]) -> None:
    options = [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-k",
        "fd_palette",
        "tests/metrics/test_contract.py",
    ]
    found = run(installed, "-m", "pytest", *options)
    passed = re.search(r"(\d+) passed", found)
    assert passed, found
    assert int(passed[1]) >= 12
