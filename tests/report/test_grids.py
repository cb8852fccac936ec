"""optuna-dashboard on a run's storage, with the sample pictures: Optuna's study gets them once, and
nothing else of it changes.
"""

import sys
import threading
from pathlib import Path

import pytest
from optuna.artifacts import get_all_artifact_meta

from archsearch.api import Study
from archsearch.report.live.grids import FOLDER, attach_pictures, optuna_page
from archsearch.report.live.server import bind
from archsearch.study.results import Results
from tests.conftest import Cli
from tests.report.test_server import Client, made, results
from tests.study.conftest import own_cache

__all__ = ["made", "own_cache", "results"]  # fixtures


@pytest.fixture
def drawn(results: Results) -> Results:
    """A run in which pictures of two trials were drawn."""
    for number in (0, 2):
        (results.run.trial(number) / "samples.png").write_bytes(b"picture of %d" % number)
    return results


def attached(found: Results) -> dict[str, bytes]:
    """What lies in the folder for Optuna, by the name that Optuna shows."""
    folder = found.run.path / FOLDER
    metas = get_all_artifact_meta(found.trials.study)
    assert len(metas) == len({meta.filename for meta in metas})
    return {meta.filename: (folder / meta.artifact_id).read_bytes() for meta in metas}


def test_pictures_are_attached_once_and_trials_stay_as_they_are(drawn: Results) -> None:
    before, attrs = drawn.trials.all(), drawn.trials.study.user_attrs
    assert attach_pictures(drawn.trials) == 2
    assert attach_pictures(Study.open(drawn.run.path).results.trials) == 0
    assert attached(drawn) == {"trial 0.png": b"picture of 0", "trial 2.png": b"picture of 2"}
    assert (drawn.trials.all(), drawn.trials.study.user_attrs) == (before, attrs)


def test_pictures_that_were_drawn_again_or_lost_are_put_in_their_place(drawn: Results) -> None:
    attach_pictures(drawn.trials)
    (drawn.run.trial(0) / "samples.png").write_bytes(b"drawn again")
    for meta in get_all_artifact_meta(drawn.trials.study):
        if meta.filename == "trial 2.png":
            (drawn.run.path / FOLDER / meta.artifact_id).unlink()
    assert attach_pictures(drawn.trials) == 0
    assert attached(drawn) == {"trial 0.png": b"drawn again", "trial 2.png": b"picture of 2"}


def test_without_the_package_the_extra_is_named(
    drawn: Results, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    code, _, err = cli("dashboard", drawn.run.path, "--optuna")
    assert code == 2
    assert "optuna-dashboard is not installed" in err
    assert "archsearch[dashboard]" in err
    assert not (drawn.run.path / FOLDER).exists()


@pytest.mark.slow
def test_optunas_dashboard_shows_the_run_and_changes_nothing(
    drawn: Results, tmp_path: Path
) -> None:
    pytest.importorskip("optuna_dashboard")
    study = Study.open(drawn.run.path)
    server, guard = bind(optuna_page(study), "127.0.0.1", 0, writes=False)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    client = Client(guard.port, guard.token)
    (listed,) = client.ask("/api/studies").said["study_summaries"]
    shown = client.ask(f"/api/studies/{listed['study_id']}?after=0").said
    assert listed["study_name"] == "small"
    assert len(shown["trials"]) == 3
    names = {each["filename"]: each["artifact_id"] for each in shown["artifacts"]}
    assert set(names) == {"trial 0.png", "trial 2.png"}
    picture = client.ask(f"/artifacts/{listed['study_id']}/{names['trial 2.png']}")
    assert (picture.body, picture.headers["Content-Type"]) == (b"picture of 2", "image/png")
    assert client.ask("/dashboard").status == 200
    for method in ("DELETE", "POST", "PUT"):
        assert client.ask(f"/api/studies/{listed['study_id']}", method).status == 405
    assert client.ask("/api/studies", Cookie=None).status == 403
    assert client.ask("/api/studies", Host="example.org").status == 403
    assert Study.open(drawn.run.path).results.trials.all() == drawn.trials.all()
    server.shutdown()
    server.server_close()
