import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from archsearch.plugins import load_plugins

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package of one module ``guest``, with entry points, as pip would lay it out."""

    def lay_out(module: str, points: str) -> None:
        (tmp_path / "guest.py").write_text(module)
        info = tmp_path / "guest-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[archsearch.metrics]\n{points}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "guest", raising=False)

    return lay_out


def test_an_installed_package_adds_to_a_registry(install: Install) -> None:
    install("class Thing:\n    version = 3\n\nTHING = Thing()\n", "thing = guest:THING")
    found = load_plugins("archsearch.metrics", ["version"], known=["fid"])
    assert {name: value.version for name, value in found.items()} == {"thing": 3}
    assert "thing" not in load_plugins("archsearch.sources", ["version"], known=[])


@pytest.mark.parametrize(
    ("module", "point", "reason"),
    [
        ("raise ValueError('no such card')", "thing = guest:Thing", "does not load: no such card"),
        ("", "thing = guest:Thing", "does not load"),
        ("Thing = 'a card'", "thing = guest:Thing", "has no version"),
        ("import sys; Thing = sys", "fid = guest:Thing", "the name is taken"),
        ("class Thing: version = 1", "thing = guest:Thing", "it is a class; name an object of it"),
    ],
)
def test_what_cannot_be_used_is_left_out_and_named(
    module: str, point: str, reason: str, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install(module, point)
    with caplog.at_level(logging.WARNING):
        assert (
            not {"thing", "fid"}
            & load_plugins("archsearch.metrics", ["version"], known=["fid"]).keys()
        )
    assert "of package guest is left out" in caplog.text
    assert reason in caplog.text
