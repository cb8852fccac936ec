"""A source of another package, found through its entry point."""

import os
import subprocess
import sys
from pathlib import Path

import archsearch
from tools.site import code_blocks

from .made import draw

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
LOOK = """
import sys
from archsearch.data.pictures import SOURCES, load_source
from archsearch.data.spec import DataSpec
found = load_source(DataSpec(source="plates", size=16, path=sys.argv[1]))
print(list(SOURCES)[-1], *found.captions, sep="|")
"""


def example() -> str:
    """The source that docs/data.md shows."""
    (code,) = (block.text for block in code_blocks(PAGE.read_text()) if block.language == "python")
    return code


def test_the_documented_source_of_another_package(tmp_path: Path) -> None:
    (tmp_path / "plates_guest.py").write_text(example())
    info = tmp_path / "plates_guest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plates-guest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[archsearch.sources]\nplates = plates_guest:PLATES\n")
    draw(tmp_path / "pictures" / "white-plate_0017.jpg", 1)
    draw(tmp_path / "pictures" / "blue-plate_0018.jpg", 2)
    paths = os.pathsep.join([str(tmp_path), str(Path(archsearch.__file__).parents[1])])
    # A process of its own: entry points are read once, when the registry is made.
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(tmp_path / "pictures")],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().split("|") == ["plates", "blue plate", "white plate"]
