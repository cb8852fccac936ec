"""A study of the quickstart's space whose scores were told, with everything that a report shows: a
front, a preset, a trial that diverged, pictures, names with markup in them.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from archsearch import Study

EVIL = "<script>alert(1)</script> & <b>bold</b>"
CAPTIONS = ["red heart", EVIL, *(f"caption {number}" for number in range(14))]
OVERRIDES = {
    "search.sampler": {"name": "random"},
    "search.minutes": None,
    "search.rungs.count": 1,
    "search.trials": 100,
}


def tell_trials(study: Study, count: int, loss: Callable[[float, int], float]) -> None:
    """Ask for ``count`` candidates and tell each a loss that falls with its latency."""
    for _ in range(count):
        asked = study.ask()
        latency = asked.candidate.costs.scores["latency_ms"]
        study.tell(asked, {"val_loss": loss(latency, asked.number)})


def made_up_loss(latency: float, number: int) -> float:
    return float(0.2 + 40 / latency + 0.01 * np.random.default_rng(number).random())


def draw_pictures(study: Study, number: int, scale: int = 3) -> None:
    """A sheet of sixteen pictures, as a run draws them."""
    small = np.random.default_rng(number).integers(0, 255, (64, 256, 3), dtype=np.uint8)
    folder = study.run_dir.trial(number)
    size = (256 * scale, 64 * scale)
    Image.fromarray(small).resize(size, Image.Resampling.NEAREST).save(folder / "samples.png")
    (folder / "samples.json").write_text(
        json.dumps({"schema": 1, "captions": CAPTIONS, "columns": 8})
    )


@pytest.fixture(scope="session")
def told_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study with sixteen scored trials; not to be changed."""
    study = Study("quickstart", tmp_path_factory.mktemp("told") / "run", OVERRIDES)
    tell_trials(study, 16, made_up_loss)
    bad = study.ask()
    study.results.trials.end(bad.number, "diverged", f"the loss is nan {EVIL}")
    for member in study.results.shown():
        draw_pictures(study, member.number)
    return study.folder


@pytest.fixture
def run_copy(told_run: Path, tmp_path: Path) -> Path:
    """The same, to change."""
    return Path(shutil.copytree(told_run, tmp_path / "run"))
