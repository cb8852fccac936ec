"""The box of hypervolumes: its corners, and what of it trials dominate."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsearch.study.volume import Box

OBJECTIVES = {"val_loss": "minimize", "macs": "minimize", "alignment": "maximize"}
ROWS = st.lists(
    st.tuples(st.floats(0.01, 9.0), st.floats(1e3, 1e12), st.floats(-1.0, 1.0)),
    min_size=1,
    max_size=12,
)


def test_the_corners_are_the_best_values_and_a_tenth_beyond_the_worst() -> None:
    box = Box.around(OBJECTIVES, [(0.2, 1e6, 0.1), (0.7, 1e8, 0.5)])
    assert box.best == pytest.approx({"val_loss": 0.2, "macs": 1e6, "alignment": 0.5})
    assert box.reference["val_loss"] == pytest.approx(0.75)
    assert box.reference["macs"] == pytest.approx(1e8 * 100**0.1)  # on the scale of logarithms
    assert box.reference["alignment"] == pytest.approx(0.1 - 0.04)
    assert box.to_dict()["by_logarithm"] == ["macs"]


def test_a_hypervolume_is_a_share_of_the_box() -> None:
    objectives = {"val_loss": "minimize", "macs": "minimize"}
    box = Box.around(objectives, [(0.0, 100.0), (1.0, 1.0)])
    # Each of the two leaves an eleventh of one side, and all of the other.
    assert box.hypervolume([(0.0, 100.0)]) == pytest.approx(1 / 11)
    assert box.hypervolume([(0.0, 100.0), (1.0, 1.0)]) == pytest.approx(2 / 11 - 1 / 121)
    assert box.hypervolume([(0.0, 1.0)]) == pytest.approx(1.0)
    assert box.hypervolume([(0.5, 10.0)]) == pytest.approx((0.6 / 1.1) ** 2)
    assert box.hypervolume([]) == 0.0


@given(ROWS)
def test_more_trials_dominate_no_less(rows: list[tuple[float, float, float]]) -> None:
    box = Box.around(OBJECTIVES, rows)
    shares = box.growth(rows)
    assert all(a <= b for a, b in pairwise(shares))
    assert shares == pytest.approx([box.hypervolume(rows[: n + 1]) for n in range(len(rows))])
    assert 0 < shares[-1] <= 1


@given(ROWS, st.floats(0.001, 1000.0))
def test_the_unit_of_a_cost_changes_nothing(
    rows: list[tuple[float, float, float]], unit: float
) -> None:
    scaled = [(loss, macs * unit, score) for loss, macs, score in rows]
    plain, other = (Box.around(OBJECTIVES, each).hypervolume(each) for each in (rows, scaled))
    # Costs that are alike up to rounding, but not quite, become a range of their own.
    logs = [math.log(macs) for _, macs, _ in rows]
    if max(logs) == min(logs) or max(logs) - min(logs) > 1e-6:
        assert plain == pytest.approx(other, abs=1e-6)


def test_trials_that_are_all_alike_fill_their_box() -> None:
    box = Box.around(OBJECTIVES, [(0.2, 1e6, 0.1)] * 3)
    assert box.hypervolume([(0.2, 1e6, 0.1)]) == pytest.approx(1.0)
