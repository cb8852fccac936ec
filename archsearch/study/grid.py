"""Networks × seeds × budgets, trained for what they say of the proxy itself rather than for a front.

A cell is one network with one seed. It is trained once, through all its budgets: a longer budget passes through the shorter one
exactly. Each cell has a file, written after every budget, and a checkpoint while it runs, so that a stop loses seconds.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from archsearch import files
from archsearch.diffusion import evaluate
from archsearch.diffusion.trainer import CHECKPOINT, Trainer, TrainingEndedError
from archsearch.study.rundir import RunDir
from archsearch.study.scoring import Scorer
from archsearch.unet.config import UNetConfig


@dataclass(frozen=True)
class Cell:
    """One network with one seed."""

    name: str
    config: UNetConfig
    seed: int
    budgets: tuple[int, ...]
    """Multiples of the study's ``proxy.samples``, rising."""
    sampled: tuple[str, ...] = ()
    """Scores that need pictures, taken at the last budget."""


@dataclass(frozen=True)
class Grid:
    """The cells of a run, and what is known of them."""

    run: RunDir
    cells: tuple[Cell, ...]
    _names: dict[tuple[str, int], str] = field(default_factory=dict, compare=False)

    @property
    def plan(self) -> Path:
        """File that tells workers what to do."""
        return self.run.path / "grid.json"

    def write_plan(self) -> None:
        """Write the plan."""
        cells = [asdict(cell) | {"config": cell.config.to_dict()} for cell in self.cells]
        files.write_json(self.plan, {"schema": 1, "cells": cells})

    @staticmethod
    def read(run: RunDir) -> "Grid":
        """Read the plan of a run."""
        grid = Grid(run, ())
        cells = json.loads(grid.plan.read_text(encoding="utf-8"))["cells"]
        lists = ("budgets", "sampled")
        return Grid(
            run,
            tuple(
                Cell(**cell | {"config": UNetConfig.model_validate(cell["config"])} | {key: tuple(cell[key]) for key in lists})
                for cell in cells
            ),
        )

    def scores(self, scorer: Scorer, cell: Cell) -> dict[int, dict[str, float]]:
        """What is known of a cell, by budget; nothing of one that has not got there or has diverged."""
        record = _read(self.path(scorer, cell))
        return {int(budget): scores for budget, scores in record["budgets"].items()}

    def path(self, scorer: Scorer, cell: Cell) -> Path:
        """File of a cell."""
        name = self._names.get((cell.config.digest, cell.seed))
        if name is None:  # asked for every cell at every look at the progress
            name = scorer.digest(scorer.setting.proxy(cell.config), cell.seed)
            self._names[cell.config.digest, cell.seed] = name
        return self.run.path / "grid" / f"{name}.json"

    def is_done(self, scorer: Scorer, cell: Cell) -> bool:
        """Whether nothing is left to do for a cell."""
        record = _read(self.path(scorer, cell))
        if record["ended"]:
            return True
        known = {int(budget): scores for budget, scores in record["budgets"].items()}
        return all(budget in known for budget in cell.budgets) and set(cell.sampled) <= known[cell.budgets[-1]].keys()

    def work(self, scorer: Scorer) -> None:
        """Train cells until none is left that no other worker is at."""
        for cell in self.cells:
            path = self.path(scorer, cell)
            try:
                with FileLock(self.run.locks / f"grid-{path.stem}.lock", timeout=0):
                    if not self.is_done(scorer, cell):
                        self._train(scorer, cell, path)
            except Timeout:
                continue

    def _train(self, scorer: Scorer, cell: Cell, path: Path) -> None:
        proxy, recipe = scorer.setting.proxy(cell.config), scorer.setting.spec.proxy.recipe
        record = _read(path) | {"name": cell.name, "network": cell.config.digest, "seed": cell.seed}
        folder = self.run.training(path.stem)
        pending = [budget for budget in cell.budgets if not self._has(record, cell, budget)]
        trainer = self._trainer(scorer, proxy, path.stem, folder)
        if trainer.samples > pending[0] * recipe.samples:  # a budget that was asked for later lies behind it
            (folder / CHECKPOINT).unlink()
            trainer = self._trainer(scorer, proxy, path.stem, folder)
        for budget in pending:
            try:
                trainer.run(recipe.steps_for(budget * recipe.samples) * recipe.batch)
            except TrainingEndedError as error:
                files.write_json(path, record | {"ended": f"{error.outcome}: {error}"})
                return
            model = trainer.averaged()
            scores = evaluate.held_out(model, scorer.data, recipe, scorer.device).scores()
            scores |= {"seconds": trainer.seconds}
            if cell.sampled and budget == cell.budgets[-1]:
                scores |= scorer.measure(model, cell.sampled, scorer.setting.spec.sampling)
            record["budgets"][str(budget)] = scores
            files.write_json(path, record)
        (folder / CHECKPOINT).unlink(missing_ok=True)

    @staticmethod
    def _has(record: dict[str, Any], cell: Cell, budget: int) -> bool:
        scores = record["budgets"].get(str(budget))
        return scores is not None and (budget != cell.budgets[-1] or set(cell.sampled) <= scores.keys())

    @staticmethod
    def _trainer(scorer: Scorer, proxy: UNetConfig, key: str, folder: Path) -> Trainer:
        return Trainer(proxy, scorer.data, scorer.setting.spec.proxy.recipe, scorer.seed_of(key), scorer.device, folder)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {"schema": 1, "budgets": {}, "ended": None}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record
