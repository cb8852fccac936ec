"""``archsearch[all]`` can be installed on every Python that it is for."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WITHOUT_WHEELS = ("fvcore", "iopath")
"""Their makers release source alone. They are pure Python: a wheel built here is one anywhere."""
OTHERS = [
    version
    for version in ("3.11", "3.12", "3.13")
    if version != f"{sys.version_info.major}.{sys.version_info.minor}"
]
"""On the running Python everything is installed already."""

pytestmark = pytest.mark.slow


def python(*command: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of archsearch, of what has none, and an empty one of torch: it is installed first, as
    a step of its own, and is hundreds of megabytes.
    """
    folder = tmp_path_factory.mktemp("wheels")
    python("build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    constraints = ("-c", ROOT / "constraints.txt")
    python("pip", "wheel", "--no-deps", "--wheel-dir", folder, *constraints, *WITHOUT_WHEELS)
    pinned = (ROOT / "constraints.txt").read_text().split("\ntorch==")[1].split()[0]
    info, version = f"torch-{pinned}+empty.dist-info", f"{pinned}+empty"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder


@pytest.mark.parametrize("version", OTHERS)
def test_all_extras_resolve_from_wheels(version: str, wheels: Path, tmp_path: Path) -> None:
    """With the versions that the tests have seen, and without a compiler."""
    (archsearch,) = wheels.glob("archsearch-*.whl")
    resolved = python(
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        f"--python-version={version}",
        "--only-binary=:all:",
        f"--find-links={wheels}",
        f"--constraint={ROOT / 'constraints.txt'}",
        f"--target={tmp_path}",
        f"{archsearch}[all]",
    )
    last = resolved.splitlines()[-1]
    assert last.startswith("Would install")
    for name in ("ray", "coremltools", "datasets", "psycopg-binary", "altair", "optuna-dashboard"):
        assert f" {name}-" in last
