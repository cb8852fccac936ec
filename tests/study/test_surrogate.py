"""The model of the scores: what it learns on studies whose truth is known."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsearch.search_space.space import Dimension
from archsearch.study.front import non_dominated
from archsearch.study.surrogate import Array, Design, Measurement, Surrogate

KNOBS = {
    "width": (128, 256, 320),
    "depth": (1, 2, 3),
    "kv": ("separate", "shared"),
    "act": ("gelu", "silu"),
    "conv": ("full", "separable"),
    "norm": ("softmax", "relu"),
}
DIMENSIONS = {name: Dimension(path=name, choices=values) for name, values in KNOBS.items()}
BUDGET = 1000
NOISE = 0.0015


def networks() -> list[Design]:
    found = []
    for values in itertools.product(*KNOBS.values()):
        point = dict(zip(KNOBS, values, strict=True))
        params = point["width"] * (3 + point["depth"]) * (0.7 if point["kv"] == "shared" else 1)
        macs = params * (0.6 if point["conv"] == "separable" else 1)
        found.append(Design(point, params, macs, "-".join(map(str, values))))
    return found


NETWORKS = networks()


def truth(seed: int) -> Array:
    """A quality for every network: effects of knobs, of size, and of the network itself."""
    rng = np.random.default_rng(seed)
    effects = {
        (knob, value): rng.normal(0, 0.002) for knob, values in KNOBS.items() for value in values
    }
    return np.array(
        [
            0.2
            + sum(effects[item] for item in net.point.items())
            - 0.006 * math.log(net.macs / 1000)
            + rng.normal(0, 0.0005)
            for net in NETWORKS
        ]
    )


def study(seed: int, trained: int = 30, repeated: int = 6) -> tuple[list[int], list[Measurement]]:
    """Which networks a study has trained, and what it measured."""
    rng, quality = np.random.default_rng(1000 + seed), truth(seed)
    chosen = rng.choice(len(NETWORKS), trained, replace=False).tolist()
    measured = [
        Measurement(NETWORKS[i], quality[i] + rng.normal(0, NOISE), BUDGET, f"{i} {n}")
        for n, i in enumerate([*chosen, *chosen[:repeated]])
    ]
    return chosen, measured


def test_the_front_it_reports_is_unbiased_where_the_raw_front_is_not() -> None:
    """Winner's curse: over simulated studies, what is claimed of the front's quality is true in the
    mean; the raw scores of the raw front are too good.
    """
    errors, raw_errors, inside = [], [], []
    for seed in range(40):
        chosen, measured = study(seed)
        quality, costs = truth(seed)[chosen], [NETWORKS[i].macs for i in chosen]
        first = np.array([m.value for m in measured[: len(chosen)]])
        believed = Surrogate(DIMENSIONS, measured, BUDGET).posterior([NETWORKS[i] for i in chosen])
        front = non_dominated(np.c_[believed.mean, costs])
        raw = non_dominated(np.c_[first, costs])
        errors.append((believed.mean - quality)[front].mean())
        raw_errors.append((first - quality)[raw].mean())
        half = 1.96 * believed.deviation
        inside.append((abs(believed.mean - quality) <= half)[front].mean())

    def standard_error(values: list[float]) -> float:
        return float(np.std(values) / math.sqrt(len(values)))

    assert abs(np.mean(errors)) < 2.6 * standard_error(errors)
    assert np.mean(raw_errors) < -5 * standard_error(raw_errors)
    assert np.mean(inside) > 0.9


def test_intervals_of_untrained_networks_hold_the_truth() -> None:
    shares, better = [], []
    for seed in range(12):
        chosen, measured = study(seed)
        rest = [i for i in range(len(NETWORKS)) if i not in chosen]
        believed = Surrogate(DIMENSIONS, measured, BUDGET).posterior([NETWORKS[i] for i in rest])
        apart = abs(believed.mean - truth(seed)[rest])
        shares.append((apart <= 1.96 * believed.deviation).mean())
        better.append(np.mean(apart) < np.std(truth(seed)[rest]) / 2)
    assert 0.88 < np.mean(shares) <= 1.0
    assert all(better)


def test_noise_is_told_from_differences_between_networks_by_repetitions() -> None:
    noises = [
        Surrogate(DIMENSIONS, study(seed, 24, 12)[1], BUDGET).deviations()["noise"]
        for seed in range(12)
    ]
    assert np.median(noises) == pytest.approx(NOISE, rel=0.3)


def test_a_network_that_is_measured_more_is_known_better() -> None:
    chosen, measured = study(3, 20, 0)
    mine = NETWORKS[chosen[0]]
    more = [replace(measured[0], training=f"again {n}") for n in range(6)]
    before, after = (
        Surrogate(DIMENSIONS, each, BUDGET).posterior([mine])
        for each in (measured, [*measured, *more])
    )
    assert after.deviation[0] < 0.7 * before.deviation[0]
    assert abs(after.mean[0] - measured[0].value) < abs(before.mean[0] - measured[0].value) + 1e-4


@given(st.floats(-1, 1), st.integers(0, 5))
@settings(max_examples=10, deadline=None)
def test_how_high_a_shorter_budget_lies_says_nothing_of_the_longest(
    shift: float, seed: int
) -> None:
    chosen, measured = study(seed, 16, 4)
    early = [
        Measurement(m.design, m.value + 0.1, BUDGET // 4, f"early {m.training}") for m in measured
    ]
    wanted = [NETWORKS[i] for i in chosen]
    moved = [replace(m, value=m.value + shift) for m in early]
    one, other = (
        Surrogate(DIMENSIONS, [*measured, *each], BUDGET).posterior(wanted)
        for each in (early, moved)
    )
    assert other.mean == pytest.approx(one.mean, abs=2e-5)


def test_a_short_budget_ranks_what_no_long_one_has_reached() -> None:
    quality = truth(7)
    chosen, _ = study(7, 40)
    rng = np.random.default_rng(0)
    early = [
        Measurement(NETWORKS[i], 0.1 + quality[i] + rng.normal(0, 0.002), BUDGET // 2, f"{i}")
        for i in chosen
    ]
    believed = Surrogate(DIMENSIONS, early, BUDGET).posterior([NETWORKS[i] for i in chosen])
    assert np.corrcoef(believed.mean, quality[chosen])[0, 1] > 0.8
    full = [Measurement(NETWORKS[i], quality[i], BUDGET, f"{i}") for i in chosen[:3]]
    known = Surrogate(DIMENSIONS, [*early, *full], BUDGET).posterior([NETWORKS[chosen[5]]])
    assert known.mean[0] == pytest.approx(quality[chosen[5]], abs=0.006)


def test_the_order_of_what_was_measured_does_not_matter() -> None:
    chosen, measured = study(1, 12, 4)
    wanted = [NETWORKS[i] for i in (*chosen[:4], 5)]
    one, other = (
        Surrogate(DIMENSIONS, each, BUDGET).posterior(wanted) for each in (measured, measured[::-1])
    )
    assert other.mean == pytest.approx(one.mean, abs=1e-5)
    assert other.covariance == pytest.approx(one.covariance, abs=1e-7)


def test_draws_have_the_posteriors_mean_and_covariance() -> None:
    chosen, measured = study(2, 12, 4)
    believed = Surrogate(DIMENSIONS, measured, BUDGET).posterior([NETWORKS[i] for i in chosen[:5]])
    drawn = believed.draws(20_000, seed=1)
    assert drawn.mean(0) == pytest.approx(believed.mean, abs=4 * believed.deviation.max() / 140)
    assert np.cov(drawn.T) == pytest.approx(
        believed.covariance, abs=0.05 * believed.deviation.max() ** 2
    )


def test_an_effect_of_a_knob_is_found_with_its_interval() -> None:
    """The mean over pairs of networks in which nothing but the knob differs."""
    found = []
    for seed in range(12):
        _, measured = study(seed, 40, 8)
        quality = truth(seed)
        pairs = [
            (i, j)
            for i, a in enumerate(NETWORKS)
            for j, b in enumerate(NETWORKS)
            if a.point == {**b.point, "kv": "separate"} and b.point["kv"] == "shared"
        ][:48]
        model = Surrogate(DIMENSIONS, measured, BUDGET)
        rows = [NETWORKS[j] for _, j in pairs] + [NETWORKS[i] for i, _ in pairs]
        believed = model.posterior(rows, apart=False)
        weights = np.repeat([1.0, -1.0], len(pairs)) / len(pairs)
        deviation = math.sqrt(weights @ believed.covariance @ weights)
        true = np.mean([quality[j] - quality[i] for i, j in pairs])
        found.append((weights @ believed.mean - true) / deviation)
        assert deviation < 0.0015
    assert np.mean(np.abs(found) < 1.96) > 0.8


def test_one_training_is_enough_to_begin_with() -> None:
    _, measured = study(0, 1, 0)
    model = Surrogate(DIMENSIONS, measured, BUDGET)
    believed = model.posterior(NETWORKS[:10])
    assert np.isfinite(believed.mean).all()
    assert np.isfinite(believed.covariance).all()
