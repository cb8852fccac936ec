"""The built wheel works in an empty folder, without the checkout."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = {"search_spaces": "*.yaml", "latency_tables": "*.json", "studies": "*.yaml"}

pytestmark = pytest.mark.slow


def build(kind: str, source: Path, folder: Path) -> Path:
    """Build the ``wheel`` or ``sdist`` of a source tree into an empty folder."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir"]
    subprocess.run([*command, str(folder), str(source)], check=True, capture_output=True, text=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source tree that the sdist holds."""
    sdist = build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with nothing but the wheel; what it depends on comes from the environment of the
    tests.
    """
    folder = tmp_path_factory.mktemp("installed")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(folder),
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder


def run(installed: Path, folder: Path, *command: str) -> str:
    """Run Python with the installed wheel before everything else; return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shipped(folder: Path) -> dict[str, bytes]:
    return {
        f"{name}/{path.name}": path.read_bytes()
        for name, glob in SHIPPED.items()
        for path in sorted((folder / name).glob(glob))
    }


def test_wheel_holds_spaces_tables_studies_and_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for folder in SHIPPED:
        assert any(name.startswith(f"archsearch/packaged/{folder}/") for name in names), folder
    assert "archsearch/py.typed" in names
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_the_sdist_makes_the_same_wheel(wheel: Path, unpacked: Path, tmp_path: Path) -> None:
    again = zipfile.ZipFile(build("wheel", unpacked, tmp_path))
    built = zipfile.ZipFile(wheel)
    assert again.namelist() == built.namelist()
    assert all(again.read(name) == built.read(name) for name in built.namelist())


def test_the_sdist_holds_what_its_tests_read(unpacked: Path) -> None:
    """The tests of pages and schemas read the most that lies outside the package."""
    tests = ["tests/test_docs.py", "tests/test_schemas.py", "tests/test_files.py"]
    command = [sys.executable, "-m", "pytest", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        command, cwd=unpacked, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_code_and_files_are_the_wheels(installed: Path, tmp_path: Path) -> None:
    program = """
import archsearch, json
from archsearch.catalog import find, packaged
found = packaged(), find("space", "quickstart"), find("study", "quickstart")
print(json.dumps([archsearch.__file__, *map(str, found)]))
"""
    found = json.loads(run(installed, tmp_path, "-c", program))
    assert all(Path(path).is_relative_to(installed) for path in found), found


def test_space_show_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    shown = json.loads(
        run(installed, tmp_path, "-m", "archsearch", "space", "show", "quickstart", "--json")
    )
    assert shown["name"] == "quickstart"
    assert shown["valid"] > 0
    assert not list(tmp_path.iterdir())


def test_init_fills_an_empty_folder_with_what_the_checkout_ships(
    installed: Path, tmp_path: Path
) -> None:
    run(installed, tmp_path, "-m", "archsearch", "init", "mine")
    copied = shipped(tmp_path / "mine")
    assert copied == shipped(ROOT)
    assert {name.split("/")[0] for name in copied} == set(SHIPPED)


def test_init_leaves_what_is_there(installed: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine/studies/quickstart.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("schema: 1\n")
    run(installed, tmp_path, "-m", "archsearch", "init", "mine")
    assert mine.read_text() == "schema: 1\n"
    assert (tmp_path / "mine/search_spaces/quickstart.yaml").is_file()


def test_a_study_runs_from_what_init_copied(installed: Path, tmp_path: Path) -> None:
    run(installed, tmp_path, "-m", "archsearch", "init", "mine")
    small = (
        "--trials",
        "1",
        "--set",
        "proxy.samples=16",
        "--set",
        "proxy.draws=16",
        "--set",
        "report=[]",
        "--set",
        "sampling.steps=2",
    )
    study = (
        "-m",
        "archsearch",
        "run",
        "mine/studies/quickstart.yaml",
        "--output",
        "mine/run",
        *small,
    )
    run(installed, tmp_path, *study, "--dry-run")
    assert not (tmp_path / "mine/run").exists()
    run(installed, tmp_path, *study, "--set", "search.confirm_seeds=1")
    front = json.loads((tmp_path / "mine/run/pareto.json").read_text())["front"]
    assert [member["preset"] for member in front] == ["mobilediffusion-lite"]
