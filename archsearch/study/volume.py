"""Hypervolume of trials: on which scale, and within which box.

Every objective is turned so that less is better; costs are taken by their logarithm, so that
halving a cost counts the same for a small network as for a large one, qualities as they are. The
box reaches from the best value of each objective to a reference point: the worst value plus a
tenth of the range between the two. A hypervolume is the share of the box that a front dominates,
a number between 0 and 1 without a unit. Two hypervolumes compare only within one box.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archsearch.study.front import hypervolume, non_dominated
from archsearch.study.spec import OF_PROXY, Direction, score_of

MARGIN = 0.1
"""How far the reference point lies beyond the worst value, as a share of the range."""
LEAST = 1e-12
"""What a cost counts that is not positive: it has no logarithm."""


def by_logarithm(name: str) -> bool:
    """Whether an objective is taken by its logarithm: costs are, qualities are not."""
    return score_of(name).source not in OF_PROXY


@dataclass(frozen=True)
class Box:
    """The box that hypervolumes are shares of."""

    objectives: Mapping[str, Direction]
    best: Mapping[str, float]
    """Of each objective, the best value there is."""
    reference: Mapping[str, float]
    """The reference point: values beyond it count nothing."""

    @classmethod
    def around(cls, objectives: Mapping[str, Direction], values: ArrayLike) -> Self:
        """The box around trials.

        Args:
            objectives: Names and directions, (M).
            values: (N, M) with N ≥ 1, in the objectives' own units.
        """
        rows = _small(objectives, values)
        best, worst = rows.min(0), rows.max(0)
        # All alike: some width is needed, and any will do.
        reference = worst + MARGIN * np.where(worst > best, worst - best, 1.0)
        return cls(objectives, _plain(objectives, best), _plain(objectives, reference))

    def hypervolume(self, values: ArrayLike) -> float:
        """The share of the box that trials dominate.

        Args:
            values: (N, M), in the objectives' own units; none dominate nothing.
        """
        rows = self._scaled(values)
        return min(1.0, hypervolume(rows, np.ones(rows.shape[1])))  # rounding

    def growth(self, values: ArrayLike) -> list[float]:
        """The share that is dominated after the first trial, after the second, and so on; it never
        falls.

        Args:
            values: (N, M), in the order in which they came.
        """
        rows, share, found = self._scaled(values), 0.0, []
        front = rows[:0]
        for row in rows:
            if not (front <= row).all(1).any():
                front = np.vstack([front, row])
                front = front[non_dominated(front)]
                share = max(share, min(1.0, hypervolume(front, np.ones(len(row)))))
            found.append(share)
        return found

    def _scaled(self, values: ArrayLike) -> NDArray[np.float64]:
        """Values (N, M) on the scale on which the box reaches from 0 to 1."""
        corners = [list(corner.values()) for corner in (self.best, self.reference)]
        best, reference = _small(self.objectives, corners)
        scaled: NDArray[np.float64] = (_small(self.objectives, values) - best) / (reference - best)
        return scaled

    def to_dict(self) -> dict[str, Any]:
        """The two corners, and which objectives are taken by their logarithm."""
        return {
            "best": dict(self.best),
            "reference": dict(self.reference),
            "by_logarithm": [name for name in self.objectives if by_logarithm(name)],
        }


def _small(objectives: Mapping[str, Direction], values: ArrayLike) -> NDArray[np.float64]:
    """Values (N, M) so that less is better, costs by their logarithm."""
    rows = np.array(values, dtype=np.float64).reshape(-1, len(objectives))
    for column, (name, direction) in enumerate(objectives.items()):
        if by_logarithm(name):
            rows[:, column] = np.log(np.maximum(rows[:, column], LEAST))
        elif direction == "maximize":
            rows[:, column] *= -1
    return rows


def _plain(objectives: Mapping[str, Direction], row: NDArray[np.float64]) -> dict[str, float]:
    """The inverse of ``_small``, for one row."""
    return {
        name: float(np.exp(value) if by_logarithm(name) else value)
        * (-1.0 if direction == "maximize" else 1.0)
        for (name, direction), value in zip(objectives.items(), row, strict=True)
    }
