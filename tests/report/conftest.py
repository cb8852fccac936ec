"""A study like the quickstart, with four of its knobs, whose scores were told; with everything that
a report shows: a front, a preset, a trial that diverged, pictures, names with markup in them.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from archsearch import Study
from archsearch.study.derived import Derived

EVIL = "<script>alert(1)</script> & <b>bold</b>"
CAPTIONS = ["red heart", EVIL, *(f"caption {number}" for number in range(14))]
SPACE: dict[str, Any] = {
    "schema": 1,
    "base": "mobilediffusion-lite",
    "dimensions": {
        "outer_width": {"path": "stages[0].channels", "choices": [128, 256, 320]},
        "outer_up": {"path": "stages[0].up.length", "choices": [1, 2, 3]},
        "inner_width": {"path": "stages[2].channels", "choices": [512, 640, 864, 1024]},
        "inner_conv": {"path": "stages[2].conv", "choices": ["full", "separable"]},
    },
}
OVERRIDES: dict[str, Any] = {
    "search.sampler": {"name": "random"},
    "search.minutes": None,
    "search.rungs.count": 1,
    "search.trials": 100,
}


def small_study(folder: Path, **changes: Any) -> Study:
    """A study in ``folder / "run"``, not begun yet; ``changes`` are of its keys, _ for dots."""
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE, sort_keys=False))
    changed = {key.replace("_", "."): value for key, value in changes.items()}
    overrides = OVERRIDES | {"space": str(folder / "space.yaml")} | changed
    return Study("quickstart", folder / "run", overrides)


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


STEPS = (50, 8, 4, 1)
DISTILLED: dict[str, Any] = {
    "method": "progressive",
    "to": 4,
    "from": 16,
    "guidance": None,
    "samples": 320,
    "learning_rate": 0.0003,
    "seed": 0,
}
ADAPTED: dict[str, Any] = {
    "method": "lora",
    "rank": 8,
    "samples": 160,
    "learning_rate": 0.001,
    "seed": 0,
}


def told_quality(place: int, steps: int, distilled: bool = False) -> float:
    """What is told of the network at a place of the front, cheapest first: the dearer, the better
    in any number of steps, and the distilled in the order turned around.
    """
    return 0.5 + 1 / steps + (place if distilled else -place) / 100


def tell_after(study: Study) -> None:
    """Tell a study what was done to its front: scores in few steps, distilled networks, LoRAs."""
    store = study.store
    for place, trial in enumerate(study.results.shown()):
        training = Derived(trial.key, trial.key, trial.budget, "distill", {}, [], "")
        for steps in STEPS:
            store.keep_metric(
                training, "kid_effnet", {"kid_effnet": told_quality(place, steps)}, steps
            )
        rounds = [{"steps": None}, *({"steps": n, "error": n / 100} for n in (8, 4))]
        made = store.derived.keep(trial.key, trial.budget, "distill", DISTILLED, rounds)
        value = told_quality(place, 8, distilled=True)
        store.keep_metric(made, "kid_effnet", {"kid_effnet": value}, 8)
        found = {"val_loss_without": 0.5, "val_loss": 0.4 - place / 100, "params": 1234}
        row = found | {"share_of_network": 0.05, "samples": 160, "seconds": 1.0}
        store.derived.keep(trial.key, trial.budget, "adapt", ADAPTED, [row])


@pytest.fixture(scope="session")
def told_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study with sixteen scored trials; not to be changed."""
    study = small_study(tmp_path_factory.mktemp("told"))
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
