"""Dominance, ranks and hypervolume, against definitions written out and against Optuna's front."""

import itertools

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsearch.study.front import hypervolume, non_dominated, ranks

GRID = st.integers(0, 4)  # small whole numbers: ties are common


@st.composite
def points(draw: st.DrawFn, most: int = 7) -> list[tuple[int, ...]]:
    values = draw(st.integers(1, 4))
    return draw(st.lists(st.tuples(*[GRID] * values), min_size=1, max_size=most))


def dominated(row: tuple[int, ...], by: tuple[int, ...]) -> bool:
    return by != row and all(a <= b for a, b in zip(by, row, strict=True))


@given(points())
def test_a_row_is_kept_where_no_other_is_as_good_in_all_and_better_in_one(
    rows: list[tuple[int, ...]],
) -> None:
    wanted = [not any(dominated(row, other) for other in rows) for row in rows]
    assert non_dominated(rows).tolist() == wanted


@given(points())
def test_ranks_peel_fronts(rows: list[tuple[int, ...]]) -> None:
    found = ranks(rows)
    for row, rank in zip(rows, found, strict=True):
        above = [r for other, r in zip(rows, found, strict=True) if dominated(row, other)]
        assert rank == max(above, default=-1) + 1


@given(points())
def test_the_hypervolume_is_the_number_of_unit_cells_that_are_dominated(
    rows: list[tuple[int, ...]],
) -> None:
    size = len(rows[0])
    cells = itertools.product(range(5), repeat=size)
    count = sum(
        any(all(a <= c for a, c in zip(r, cell, strict=True)) for r in rows) for cell in cells
    )
    assert hypervolume(rows, [5] * size) == pytest.approx(count)


def test_rows_beyond_the_reference_count_nothing() -> None:
    assert hypervolume([[1.0, 9.0], [9.0, 1.0]], [5.0, 5.0]) == 0.0
    assert hypervolume(np.empty((0, 2)), [1.0, 1.0]) == 0.0


def test_the_front_is_optunas() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, (60, 2))
    study = optuna.create_study(directions=["minimize", "minimize"])
    for row in values:
        study.add_trial(optuna.trial.create_trial(values=[float(v) for v in row]))
    wanted = sorted(trial.number for trial in study.best_trials)
    assert np.flatnonzero(non_dominated(values)).tolist() == wanted
