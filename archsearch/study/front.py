"""Dominance, ranks and hypervolume of points whose every value is to be small."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def non_dominated(values: ArrayLike) -> NDArray[np.bool_]:
    """Which rows no other row dominates; of equal rows all.

    Args:
        values: (N, M), every column to be small.
    """
    points = np.asarray(values, dtype=np.float64)
    if points.shape[1] == 2:
        # By the first value, then the second: a row is dominated where a smaller first value has
        # gone with a second one as small, or an equal first value with a smaller second.
        order = np.lexsort((points[:, 1], points[:, 0]))
        first, second = points[order].T
        lowest = np.minimum.accumulate(second)
        start = np.searchsorted(first, first, side="left")  # of the rows with this first value
        before = np.where(start > 0, lowest[start - 1], np.inf)
        kept = np.empty(len(points), dtype=bool)
        kept[order] = (second < before) & (second == second[start])
        return kept
    dominated = [
        np.any(np.all(points <= row, axis=1) & np.any(points < row, axis=1)) for row in points
    ]
    return ~np.array(dominated, dtype=bool)


def ranks(values: ArrayLike) -> NDArray[np.int64]:
    """Non-dominated rank of each row, from 0: those of rank 1 are non-dominated without rank 0, and
    so on (Deb et al. 2002).

    Args:
        values: (N, M), every column to be small.
    """
    points = np.asarray(values, dtype=np.float64)
    found = np.full(len(points), -1, dtype=np.int64)
    rank = 0
    while (left := np.flatnonzero(found < 0)).size:
        found[left[non_dominated(points[left])]] = rank
        rank += 1
    return found


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Volume that the rows dominate within ``reference``, by slices along the last value
    (Zitzler 1999); exact, meant for fronts of a study: some dozens of rows, up to six values.

    Args:
        values: (N, M), every column to be small.
        reference: (M,), the corner; rows beyond it count nothing.
    """
    corner = np.asarray(reference, dtype=np.float64)
    points = np.asarray(values, dtype=np.float64).reshape(-1, len(corner))
    points = points[(points < corner).all(axis=1)]
    if not len(points):
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - points.min())
    points = points[non_dominated(points)]
    points = points[np.argsort(points[:, -1], kind="stable")]
    if len(corner) == 2:  # sorted by the second: the first falls along it
        widths = np.minimum.accumulate(np.append(corner[0], points[:, 0]))
        return float(((widths[:-1] - points[:, 0]) * (corner[1] - points[:, 1])).sum())
    tops = np.append(points[1:, -1], corner[-1])
    return float(
        sum(
            (top - row[-1]) * hypervolume(points[: i + 1, :-1], corner[:-1])
            for i, (row, top) in enumerate(zip(points, tops, strict=True))
            if top > row[-1]
        )
    )
