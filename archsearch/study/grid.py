"""Networks × seeds × budgets, trained for what they say of the proxy itself rather than for a
front: a loop over the store.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from archsearch import documents, files
from archsearch.diffusion.recipe import is_out_of_memory
from archsearch.diffusion.trainer import TrainingMemoryError
from archsearch.study.store import Record, Store
from archsearch.unet.config import UNetConfig

PLAN = "grid.json"


@dataclass(frozen=True)
class Cell:
    """One network with one seed."""

    name: str
    network: UNetConfig
    seed: int
    budgets: tuple[int, ...]
    """Multiples of the study's ``proxy.samples``, rising."""
    metrics: tuple[str, ...] = ()
    """Scores that are taken of the trained network, at the last budget."""


class Grid:
    """The cells of a run, and what is known of them."""

    def __init__(self, store: Store, cells: Sequence[Cell]) -> None:
        self.store, self.cells = store, tuple(cells)
        self._keys = {
            cell: store.key(store.setting.proxy(cell.network), cell.seed) for cell in self.cells
        }

    def write_plan(self) -> None:
        """Tell workers what to do."""
        cells = [asdict(cell) | {"network": cell.network.to_dict()} for cell in self.cells]
        files.write_json(self.store.run.path / PLAN, {"schema": 2, "cells": cells})

    @staticmethod
    def read(store: Store) -> "Grid":
        """Read the plan of the store's run."""
        plan = documents.read(store.run.path / PLAN).data
        return Grid(
            store,
            [
                Cell(
                    cell["name"],
                    UNetConfig.model_validate(cell["network"]),
                    cell["seed"],
                    tuple(cell["budgets"]),
                    tuple(cell["metrics"]),
                )
                for cell in plan["cells"]
            ],
        )

    def records(self, cell: Cell) -> dict[int, Record]:
        """What there is of a cell, by budget."""
        samples = self.store.setting.spec.proxy.samples
        found = {b: self.store.find(self._keys[cell], b * samples) for b in cell.budgets}
        return {budget: record for budget, record in found.items() if record is not None}

    def scores(self, cell: Cell) -> dict[int, dict[str, float]]:
        """The scores of a cell by budget; nothing of one that has not got there, has diverged or
        was capped. ``seconds`` is what its training took.
        """
        found = {}
        for budget, record in self.records(cell).items():
            if record.counts:
                found[budget] = record.scores | {"seconds": record.details["train_seconds"]}
                if budget == cell.budgets[-1] and cell.metrics:
                    for values in self.store.known_metrics(record, cell.metrics).values():
                        found[budget] |= values
        return found

    def is_done(self, cell: Cell) -> bool:
        """Whether nothing is left to do for a cell: it has its scores, or has ended for good."""
        records = self.records(cell)
        if any(not record.counts for record in records.values()):
            return True
        if len(records) < len(cell.budgets):
            return False
        known = self.store.known_metrics(records[cell.budgets[-1]], cell.metrics)
        return known.keys() >= set(cell.metrics)

    def work(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Train cells until none is left that no other worker is at.

        Args:
            is_over: Asked between two cells: whether to end although there is more to do.
        """
        for cell in self.cells:
            if is_over():
                return
            with self.store.claims.held(f"cell {self._keys[cell]}", wait=False) as mine:
                if mine and not self.is_done(cell):
                    self._train(cell)

    def _train(self, cell: Cell) -> None:
        """Train a cell. Without memory it is left as it is, for another time."""
        store, samples = self.store, self.store.setting.spec.proxy.samples
        try:
            for budget in cell.budgets:
                record = store.score(cell.network, budget * samples, cell.seed)
                if not record.counts:
                    return
                if budget != cell.budgets[-1]:  # the checkpoint stays, for the next budget
                    store.files.drop(record.name, checkpoint=False)
            if cell.metrics:
                store.metrics(record, cell.metrics)
        except (RuntimeError, MemoryError, TrainingMemoryError) as error:
            if not isinstance(error, TrainingMemoryError) and not is_out_of_memory(error):
                raise
            print(
                f"{cell.name}, seed {cell.seed}: left out, memory ran out: {error}", file=sys.stderr
            )
