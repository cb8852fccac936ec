"""Networks × seeds × budgets, trained for what they say of the proxy itself rather than for a
front.

A cell is one network with one seed. It is trained once, through all its budgets: a longer budget
passes through the shorter one exactly. Each cell has a file, written after every budget, and a
checkpoint while it runs, so that a stop loses seconds.
"""

import json
import math
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from archsearch import files
from archsearch.diffusion import evaluate
from archsearch.diffusion.recipe import is_out_of_memory
from archsearch.diffusion.trainer import CHECKPOINT, DivergedError, Trainer, TrainingMemoryError
from archsearch.study import scoring
from archsearch.study.rundir import RunDir
from archsearch.study.scoring import Scorer
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet


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
    keep: bool = False
    """Whether the weights after the last budget are kept, so that further scores need no second
    training.
    """


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
                Cell(
                    **cell
                    | {"config": UNetConfig.model_validate(cell["config"])}
                    | {key: tuple(cell[key]) for key in lists}
                )
                for cell in cells
            ),
        )

    def scores(self, scorer: Scorer, cell: Cell) -> dict[int, dict[str, float]]:
        """What is known of a cell, by budget; nothing of one that has not got there or has
        diverged.
        """
        record = _read(self.path(scorer, cell))
        known = {int(budget): scores for budget, scores in record["budgets"].items()}
        if last := known.get(cell.budgets[-1]):
            for values in self._sampled(scorer, cell).values():
                last |= values
        return known

    def path(self, scorer: Scorer, cell: Cell) -> Path:
        """File of a cell."""
        name = self._names.get((cell.config.digest, cell.seed))
        if name is None:  # asked for every cell at every look at the progress
            name = scorer.digest(scorer.setting.proxy(cell.config), cell.seed)
            self._names[cell.config.digest, cell.seed] = name
        return self.run.path / "grid" / f"{name}.json"

    def is_done(self, scorer: Scorer, cell: Cell) -> bool:
        """Whether nothing is left to do for a cell: it has its scores, or has ended for good."""
        record = _read(self.path(scorer, cell))
        return record["ended"] is not None or not self._pending(scorer, cell, record)

    def work(self, scorer: Scorer) -> None:
        """Train cells until none is left that no other worker is at."""
        for cell in self.cells:
            path = self.path(scorer, cell)
            try:
                with FileLock(self.run.locks / f"grid-{path.stem}.lock", timeout=0):
                    if not self.is_done(scorer, cell):
                        self._guarded(scorer, cell, path)
            except Timeout:
                continue

    def _guarded(self, scorer: Scorer, cell: Cell, path: Path) -> None:
        """Train a cell. Without memory it is left as it is, for another time; what diverges has
        ended for good.
        """
        try:
            self._train(scorer, cell, path)
        except DivergedError as error:
            files.write_json(path, _read(path) | {"ended": f"{error.outcome}: {error}"})
        except (RuntimeError, MemoryError, TrainingMemoryError) as error:
            if not isinstance(error, TrainingMemoryError) and not is_out_of_memory(error):
                raise
            print(
                f"{cell.name}, seed {cell.seed}: left out, memory ran out: {error}", file=sys.stderr
            )

    def _train(self, scorer: Scorer, cell: Cell, path: Path) -> None:
        proxy, recipe = scorer.setting.proxy(cell.config), scorer.setting.spec.proxy.recipe
        record = _read(path) | {"name": cell.name, "network": cell.config.digest, "seed": cell.seed}
        folder = self.run.training(path.stem)
        pending = self._pending(scorer, cell, record)
        if str(pending[0]) in record["budgets"] and (
            kept := scorer.kept(proxy, self._weights(cell, path))
        ):
            self._sample(scorer, cell, path, kept)
            (folder / CHECKPOINT).unlink(missing_ok=True)
            return
        trainer = self._trainer(scorer, proxy, path.stem, folder)
        if trainer.step > recipe.steps_for(
            pending[0] * recipe.samples
        ):  # a budget that was asked for later lies behind it
            (folder / CHECKPOINT).unlink()
            trainer = self._trainer(scorer, proxy, path.stem, folder)
        for budget in pending:
            if not trainer.run(budget * recipe.samples):
                files.write_json(
                    path,
                    record | {"ended": f"capped at {trainer.samples} samples by proxy.max_seconds"},
                )
                return
            model = trainer.averaged()
            scores = evaluate.held_out(model, scorer.data, recipe, scorer.device).scores()
            if not math.isfinite(scores["val_loss"]):
                raise DivergedError(f"the held-out loss is {scores['val_loss']}")
            record["budgets"][str(budget)] = scores | {"seconds": trainer.seconds}
            last = budget == cell.budgets[-1]
            if last and cell.keep:
                scorer.keep(model, self._weights(cell, path), path.stem)
            files.write_json(path, record)
            if last:
                self._sample(scorer, cell, path, model)
        (folder / CHECKPOINT).unlink(missing_ok=True)

    def _sample(self, scorer: Scorer, cell: Cell, path: Path, model: UNet) -> None:
        """Take the scores of a trained cell that lack."""
        if missing := self._missing(scorer, cell):
            found = scorer.measure(model, missing)
            scoring.add(
                self._sampled_path(scorer, cell),
                path.stem,
                scorer.setting.spec,
                None,
                scorer.networks,
                found,
            )

    def _weights(self, cell: Cell, path: Path) -> Path:
        return self.run.weights / f"{path.stem}-{cell.budgets[-1]}.safetensors"

    def _pending(self, scorer: Scorer, cell: Cell, record: dict[str, Any]) -> list[int]:
        """Budgets of a cell that lack a score."""
        lacking = [budget for budget in cell.budgets if str(budget) not in record["budgets"]]
        last = cell.budgets[-1]
        return [*lacking, last] if last not in lacking and self._missing(scorer, cell) else lacking

    def _missing(self, scorer: Scorer, cell: Cell) -> tuple[str, ...]:
        known = self._sampled(scorer, cell)
        return tuple(name for name in cell.sampled if name not in known)

    def _sampled(self, scorer: Scorer, cell: Cell) -> dict[str, dict[str, float]]:
        """Those of the cell's sampled scores that are what the study would compute now."""
        if not cell.sampled:  # asked for every cell at every look at the progress
            return {}
        return scoring.read(
            self._sampled_path(scorer, cell), scorer.setting.spec, names=cell.sampled
        )

    def _sampled_path(self, scorer: Scorer, cell: Cell) -> Path:
        path = self.path(scorer, cell)
        return path.with_name(f"{path.stem}-{cell.budgets[-1]}.sampled.json")

    @staticmethod
    def _trainer(scorer: Scorer, proxy: UNetConfig, key: str, folder: Path) -> Trainer:
        return Trainer(
            proxy,
            scorer.data,
            scorer.setting.spec.proxy.recipe,
            scorer.seed_of(key),
            scorer.device,
            folder,
        )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {"schema": 1, "budgets": {}, "ended": None}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record
