"""How much a quality scatters between seeds, and which members of the front differ by no more."""

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import IntDistribution
from optuna.trial import create_trial

from archsearch.cli import front as shown
from archsearch.metrics.registry import METRICS
from archsearch.report.front import draw_front
from archsearch.study.results import Noise, Results, ScoredTrial, not_told_from, pooled_deviation

from .conftest import WriteStudy, put, started

OBJECTIVES = {"val_loss": "minimize", "macs": "minimize"}
SAMPLED = {"kid_effnet": "minimize", "macs": "minimize"}
FRONT = {0: (0.30, 100), 1: (0.29, 200), 2: (0.20, 300), 3: (0.195, 400)}
"""Quality and cost of four trials, none better in both."""
Search = Callable[..., Results]


@pytest.fixture
def search(write_study: WriteStudy, tmp_path: Path) -> Search:
    """A run with four trials that are its front, searching for these objectives."""

    def search(objectives: dict[str, str] = OBJECTIVES) -> Results:
        _, results = started(write_study(objectives=objectives, report=[]), tmp_path / "run")
        for number, (loss, macs) in FRONT.items():
            attrs = {"key": f"net{number}-0", "digest": f"d{number}"}
            attrs |= {"val_loss": loss, "macs": macs, "params": 10 * macs}
            results.trials.study.add_trial(
                create_trial(
                    values=[loss, macs],
                    params={"x": number},
                    distributions={"x": IntDistribution(0, 9)},
                    user_attrs=attrs,
                )
            )
        return results

    return search


def member(number: int, loss: float) -> ScoredTrial:
    return ScoredTrial(number, None, "", "", {}, {"val_loss": loss})


def test_pools_deviations_within_networks(search: Search) -> None:
    results = search()
    first, second = [0.30, 0.31, 0.29], [0.20, 0.22]
    put(results.store, "net0", first)
    put(results.store, "net2", second)
    put(results.store, "net1", [0.29])
    noise = results.noise()
    assert noise
    expected = math.sqrt((2 * statistics.variance(first) + statistics.variance(second)) / 3)
    assert noise.seed_deviation == pytest.approx(expected)
    assert (noise.score, noise.repetitions, noise.networks) == ("val_loss", 5, 2)
    assert noise.least_difference == pytest.approx(1.96 * math.sqrt(2) * expected)
    assert noise.margin == pytest.approx(1.96 * expected)


def test_counts_networks_that_no_trial_has_too(search: Search) -> None:
    """A validation in the run's folder trains others under the same conditions."""
    results = search()
    put(results.store, "net0", [0.30, 0.31])
    put(results.store, "drawn", [0.40, 0.42])
    noise = results.noise()
    assert noise
    assert (noise.repetitions, noise.networks) == (4, 2)


def test_other_conditions_do_not_count(search: Search) -> None:
    results = search()
    put(results.store, "net0", [0.30, 0.31])
    alone = results.noise()
    put(results.store, "net2", [0.90, 0.10], data="another")
    put(results.store, "net2", [0.90, 0.10], budget=64)
    put(results.store, "net1", [math.nan, 0.3, math.nan])
    assert results.noise() == alone


def test_a_sampled_quality_is_found_beside_its_training(search: Search) -> None:
    results = search(SAMPLED)
    for record, distance in zip(put(results.store, "net0", [0.30, 0.31]), (1.0, 1.2), strict=True):
        results.store.keep_metric(record, "kid_effnet", {"kid_effnet": distance})
    noise = results.noise()
    assert noise == Noise("kid_effnet", pytest.approx(statistics.stdev([1.0, 1.2])), 2, 1)  # type: ignore[arg-type]


def test_sampled_scores_of_another_version_are_not_mixed_in(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = search(SAMPLED)
    first, second = put(results.store, "net0", [0.30, 0.31])
    results.store.keep_metric(first, "kid_effnet", {"kid_effnet": 1.0})
    with monkeypatch.context() as patch:
        patch.setitem(METRICS, "kid_effnet", replace(METRICS["kid_effnet"], version=1000))
        results.store.keep_metric(second, "kid_effnet", {"kid_effnet": 9.0})
    assert results.noise() == Noise("kid_effnet", None, 0, 0)


def test_one_seed_each_leaves_it_unknown(search: Search) -> None:
    results = search()
    for number, (loss, _) in FRONT.items():
        put(results.store, f"net{number}", [loss])
    noise = results.noise()
    assert noise == Noise("val_loss", None, 0, 0)
    assert noise.least_difference is noise.margin is None
    assert not_told_from([member(0, 0.3), member(1, 0.3)], noise) == {0: None, 1: None}


def test_nothing_in_the_store_leaves_it_unknown(search: Search) -> None:
    assert search().noise() == Noise("val_loss", None, 0, 0)


def test_without_a_quality_there_is_no_noise(search: Search) -> None:
    assert search({"macs": "minimize", "params": "minimize"}).noise() is None
    assert not_told_from([member(0, 0.3)], None) == {0: None}


def test_says_which_neighbours_are_within_the_noise() -> None:
    noise = Noise("val_loss", 0.01 / (1.96 * math.sqrt(2)), 6, 2)
    members = [member(4, 0.300), member(7, 0.2905), member(2, 0.282), member(9, 0.20)]
    assert not_told_from(members, noise) == {4: [7], 7: [4, 2], 2: [7], 9: []}


def test_a_sampled_quality_is_compared_too() -> None:
    noise = Noise("kid_effnet", 1.0, 4, 2)
    members = [
        ScoredTrial(n, None, "", "", {}, {}, {"kid_effnet": value})
        for n, value in ((0, 5.0), (1, 7.0), (2, 10.0))
    ]
    assert not_told_from(members, noise) == {0: [1], 1: [0], 2: []}


def test_pooling_needs_two_of_one() -> None:
    assert pooled_deviation([1.0], [2.0]) is None
    assert pooled_deviation([1.0, 3.0], [5.0]) == pytest.approx(math.sqrt(2))


def test_the_front_shows_it_in_csv_and_table(
    search: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    results = search()
    shown.print_front(results, [], wide=True)
    printed = capsys.readouterr().out
    assert "no network was trained with a second seed" in printed
    assert "same as" not in printed
    assert list(results.front_table()["not_told_from"]) == ["unknown"] * 4

    put(results.store, "net0", [0.30, 0.306])
    assert list(results.front_table()["not_told_from"]) == ["1", "0", "3", "2"]
    shown.print_front(results, [], wide=True)
    printed = capsys.readouterr().out
    assert "same as" in printed
    line = next(line for line in printed.splitlines() if "d1" in line)
    assert "#1" in line
    assert "#0" in line
    assert "seed deviation 0.0042, from 2 trainings of 1 network)" in printed


def test_plots_carry_bars(search: Search) -> None:
    """A quality that is no objective has no model: bars are what seeds differ by."""
    results = search()
    for number, (loss, _) in FRONT.items():
        (record,) = put(results.store, f"net{number}", [loss])
        results.store.keep_metric(record, "kid_effnet", {"kid_effnet": loss})

    def drawn() -> tuple[list[Any], list[str]]:
        figure = draw_front(results, "macs", "kid_effnet")
        return figure.axes[0].containers, [t.get_text() for t in figure.legends[0].get_texts()]

    bars, legend = drawn()
    assert not bars
    assert "one seed each: spread not known" in legend
    _, again = put(results.store, "net0", [0.30, 0.31])
    results.store.keep_metric(again, "kid_effnet", {"kid_effnet": 0.31})
    (bar,), legend = drawn()
    margin = 1.96 * statistics.stdev([0.30, 0.31])
    spans = [(segment[0][1], segment[1][1]) for segment in bar.lines[2][0].get_segments()]
    assert spans == [pytest.approx((d - margin, d + margin)) for d, _ in FRONT.values()]
    assert "± 1.96 standard deviations\nbetween seeds (0.0071)" in legend
