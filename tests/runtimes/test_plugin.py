"""The package of docs/plugins.md, taken from there, installed with pip, and measured with."""

import json
import os
import re
import subprocess
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

import archsearch
from archsearch.runtimes import registry

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
SPACE = {
    "schema": 1,
    "base": {
        "schema": 1,
        "norm_groups": 8,
        "sample_size": 16,
        "stages": [
            {"channels": 16, "down": [{}], "up": [{"transformers": 1, "layers": ["sa", "ff"]}]}
        ],
    },
    "dimensions": {"outer": {"path": "stages[0].channels", "choices": [16, 32]}},
}
CHECK = """
import sys
from pathlib import Path
from tests.runtimes.test_contract import MODULES, get_runtime
from tests.runtimes.test_contract import test_converts_and_computes_what_torch_computes as check
for index, thing in enumerate(MODULES):
    folder = Path(sys.argv[1]) / str(index)
    folder.mkdir()
    check(get_runtime("torchscript"), thing, folder)
print(len(MODULES), "computed")
"""

Python = Callable[..., "subprocess.CompletedProcess[str]"]


def _block(file: str) -> str:
    """What the page shows as a file."""
    found = re.search(
        rf"^`{re.escape(file)}`\n\n```\w+\n(.*?)^```",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert found, f"{PAGE} shows no {file}"
    return found[1]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Python:
    """A Python of an environment on top of this one, with the page's package installed in it."""
    folder = tmp_path_factory.mktemp("plugin")
    project, environment = folder / "project", folder / "environment"
    project.mkdir()
    for file in ("pyproject.toml", "archsearch_torchscript.py"):
        (project / file).write_text(_block(file))
    venv.create(environment, with_pip=False, symlinks=True)
    site = Path(
        sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)})
    )
    (site / "this_environment.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    )
    root = Path(archsearch.__file__).parents[1]

    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        command = [str(environment / "bin" / "python"), *map(str, arguments)]
        variables = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, capture_output=True, text=True, env=variables, cwd=root, check=False
        )

    installed = run(
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        site,
        project,
    )
    assert installed.returncode == 0, installed.stderr
    assert (site / "archsearch_torchscript-1.0.dist-info" / "entry_points.txt").is_file()
    return run


def test_an_installed_runtime_measures_a_table(python: Python, tmp_path: Path) -> None:
    space, table = tmp_path / "tiny.yaml", tmp_path / "cpu-torchscript-fp32.json"
    space.write_text(json.dumps(SPACE))
    options = ("--runs", 2, "--warmup", 0, "--seconds", 0, "--max-drift", 1e9, "--json")
    done = python(
        "-m",
        "archsearch",
        "latency",
        "measure",
        "--runtime",
        "torchscript",
        "--space",
        space,
        "--output",
        table,
        *options,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] == []
    written = json.loads(table.read_text())
    assert written["graph_level"] == "torchscript, frozen and optimised for inference"
    assert written["runtime"].startswith("torch ")
    assert {entry["kind"] for entry in written["entries"]} >= {
        "input",
        "residual",
        "self_attention",
        "feed_forward",
    }


def test_an_installed_runtime_keeps_the_contract(python: Python, tmp_path: Path) -> None:
    done = python("-c", CHECK, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "computed" in done.stdout


def test_a_runtime_by_another_name_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "guest_runtime.py").write_text(_block("archsearch_torchscript.py"))
    info = tmp_path / "guest_runtime-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest-runtime\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[archsearch.runtimes]\nscripted = guest_runtime:RUNTIME\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert registry._plugins({}) == {}
    assert "'scripted' is left out, it calls itself 'torchscript'" in caplog.text
    (info / "entry_points.txt").write_text(
        "[archsearch.runtimes]\ntorchscript = guest_runtime:RUNTIME\n"
    )
    assert registry._plugins({}).keys() == {"torchscript"}
    assert registry._plugins({"torchscript": registry.RUNTIMES["torch"]}) == {}
