import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsearch.study.agreement import correlate, within_thirds
from archsearch.study.validation import spread

rankings = st.permutations(range(8))


@given(rankings)
@settings(max_examples=10, deadline=None)
def test_equal_rankings_agree_and_opposite_ones_do_not(x: list[int]) -> None:
    same, opposite = (
        correlate(x, [2 * value + 1 for value in x]),
        correlate(x, [-value for value in x]),
    )
    assert same is not None
    assert opposite is not None
    assert same.tau == pytest.approx(1)
    assert same.spearman == pytest.approx(1)
    assert opposite.tau == pytest.approx(-1)
    assert same.low == pytest.approx(1)


def test_tau_counts_pairs() -> None:
    found = correlate([1, 2, 3, 4], [1, 2, 4, 3])
    assert found is not None
    assert found.tau == pytest.approx((5 - 1) / 6)
    assert found.count == 4


def test_chance_is_told_from_agreement() -> None:
    rng = random.Random(0)
    x, y = ([rng.random() for _ in range(40)] for _ in range(2))
    found = correlate(x, y)
    assert found is not None
    assert found.low < 0 < found.high


@pytest.mark.parametrize("x", [[1.0, 2.0], [1.0, 1.0, 1.0, 1.0], []])
def test_what_ranks_nothing_has_no_agreement(x: list[float]) -> None:
    assert correlate(x, x) is None


def test_within_thirds_size_explains_nothing_any_more() -> None:
    size = [float(i) for i in range(12)]
    falling = [-value for value in size]
    assert within_thirds(falling, falling, size) == pytest.approx(1)
    inside = [
        value + (3 if i % 2 else 0) for i, value in enumerate(falling)
    ]  # follows size between thirds, not inside
    whole = correlate(inside, falling)
    assert whole is not None
    found = within_thirds(inside, falling, size)
    assert found is not None
    assert found < whole.tau
    assert within_thirds([1.0] * 12, falling, size) is None


def test_spread_between_networks_and_between_seeds() -> None:
    found = spread({"a": [1.0, 1.2], "b": [3.0, 3.2], "only one seed": [9.0]})
    assert found is not None
    assert found.between == pytest.approx(2.0)
    assert found.within == pytest.approx(0.02)
    assert found.ratio == pytest.approx(100)
    assert spread({"a": [1.0, 2.0]}) is None
    certain = spread({"a": [1.0, 1.0], "b": [2.0, 2.0]})
    assert certain is not None
    assert math.isinf(certain.ratio)
