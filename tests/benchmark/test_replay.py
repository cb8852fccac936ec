"""Searches repeated on recorded scores."""

import pytest

from archsearch.benchmark.replay import SAMPLERS, Replay, summarise
from archsearch.benchmark.table import Benchmark
from archsearch.errors import InputError

from .conftest import NETWORKS


@pytest.fixture(scope="module")
def replay(table: Benchmark) -> Replay:
    return Replay(table)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_trains_each_network_once_and_ends_with_all(replay: Replay, sampler: str) -> None:
    found = replay.run(sampler, 14)
    assert len(set(found.chosen)) == 14
    assert set(found.chosen) <= set(replay.networks)
    assert all(0 <= share <= 1 + 1e-9 for share in (*found.raw, *found.believed))
    assert replay.run(sampler, 14).chosen == found.chosen


def test_after_all_networks_the_best_front_is_nearly_found(replay: Replay) -> None:
    found = replay.run("random", 10**6)
    assert len(found.chosen) == NETWORKS
    assert found.raw[-1] > 0.9


def test_an_evolution_goes_on_from_what_it_was_told(replay: Replay) -> None:
    evolved, drawn = (replay.run(name, NETWORKS, 3).chosen for name in ("nsga2", "random"))
    assert evolved != drawn
    assert evolved[:8] == drawn[:8]  # its first generation is drawn


def test_quartiles_are_over_seeds(replay: Replay) -> None:
    found = [replay.run("random", 6, seed) for seed in range(4)]
    summary = summarise(found, target=0.0)["random"]
    assert summary["seeds"] == 4
    assert summary["raw"]["trainings_to_target"] == 1
    assert summary["core_minutes"] == sorted(summary["core_minutes"], key=lambda m: m or 1e9)
    low, high = summary["raw"]["quartiles"]
    assert all(a <= b for a, b in zip(low, high, strict=True))


def test_a_search_is_told_one_loss_and_judged_by_another(table: Benchmark) -> None:
    rows = table.rows.assign(val_loss_coarse=1 - table.rows["val_loss"])
    misled = Replay(Benchmark(rows), score="val_loss_coarse").run("random", NETWORKS)
    told = Replay(Benchmark(rows)).run("random", NETWORKS)
    assert misled.chosen == told.chosen
    assert misled.raw[-1] < told.raw[-1] - 0.1


def test_core_minutes_are_those_of_the_trainings_and_of_the_search(replay: Replay) -> None:
    found = replay.run("random", 10**6)
    seconds = [[s for (d, _), s in replay.seconds.items() if d == each] for each in found.chosen]
    low, high = sum(map(min, seconds)) / 60, sum(map(max, seconds)) / 60
    assert low <= found.minutes[-1] < high + 1
    assert list(found.minutes) == sorted(found.minutes)
    assert found.minutes_to(0.0) == found.minutes[0]
    assert found.minutes_to(1.1) == float("inf")


def test_what_is_not_there_is_named(table: Benchmark, replay: Replay) -> None:
    with pytest.raises(InputError, match="latency: 'phone' is no table"):
        Replay(table, latency="phone")
    with pytest.raises(InputError, match="budget: 7 pictures is not recorded"):
        Replay(table, budget=7)
    with pytest.raises(InputError, match="score: 'kid_effnet' is not one that searches are told"):
        Replay(table, score="kid_effnet")
    with pytest.raises(InputError, match="sampler: 'best' is not known"):
        replay.run("best", 3)
