import pytest
import torch

from archsearch.metrics.base import (
    jackknife,
    mean_resamples,
    multiplicities,
    resamples,
    with_interval,
)


def test_resamples_are_the_same_ones_each_time_and_of_one_size() -> None:
    state = torch.get_rng_state()
    first = resamples(7, 50)
    assert torch.equal(first, resamples(7, 50))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (50, 7)
    assert (multiplicities(first).sum(1) == 7).all()
    assert multiplicities(torch.tensor([[0, 2, 2]])).tolist() == [[1, 0, 2]]


def test_a_mean_has_the_error_of_a_mean() -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    expected = float(values.std()) / 200**0.5
    assert float(mean_resamples(values).std()) == pytest.approx(expected, rel=0.1)
    result = with_interval("x", float(values.mean()), mean_resamples(values))
    assert result["x_high"] - result["x_low"] == pytest.approx(2 * 1.96 * expected, rel=0.1)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(1)
    hits = 0
    for _ in range(300):
        values = torch.rand(40, generator=generator)
        result = with_interval("x", float(values.mean()), mean_resamples(values, 200))
        hits += result["x_low"] <= 0.5 <= result["x_high"]
    assert 0.90 < hits / 300 < 0.98


def test_the_interval_ends_where_the_score_does() -> None:
    spread = torch.tensor([0.0, 2.0])
    assert with_interval("x", 0.5, spread, 0.0, 1.0) == {"x": 0.5, "x_low": 0.0, "x_high": 1.0}
    assert (
        with_interval("x", -0.1, spread, 0.0, 1.0)["x_low"] == -0.1
    )  # rounding below zero: still inside
    assert with_interval("x", 3.0, torch.ones(5)) == {"x": 3.0, "x_low": 3.0, "x_high": 3.0}


@pytest.mark.parametrize("count", [2, 3, 60, 100, 101, 199, 250])
def test_the_jackknife_of_a_mean_has_the_error_of_a_mean(count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    kept, factor = jackknife(count)
    assert len(kept) <= 100
    assert all(len(set(rows.tolist())) == kept.shape[1] < count for rows in kept)
    error = float(values.std()) / count**0.5
    assert factor * float(values[kept].mean(1).std()) == pytest.approx(
        error, rel=1e-9 if count <= 100 else 0.2
    )
