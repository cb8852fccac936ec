import dataclasses

import numpy as np
import pytest

from archsearch.latency.paired import Sample
from archsearch.latency.stopwatch import (
    MAX_REFERENCE_REPEATS,
    MeasureSettings,
    measure_paired,
)
from archsearch.runtimes.base import Array


class Machine:
    """A clock of its own, in seconds, on a machine that gets slower by ``drift`` a second."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now = 0.0
        self.drift = drift
        self.noise = 0.0

    def clock(self) -> float:
        return self.now


class Sleeper:
    """A session that takes ``ms`` on an unhurried machine."""

    def __init__(self, machine: Machine, ms: float, noisy: bool = False) -> None:
        self.machine, self.ms, self.runs, self.noisy = machine, ms, 0, noisy

    def run(self) -> list[Array]:
        self.runs += 1
        slower = (
            1
            + self.machine.drift * self.machine.now
            + (self.machine.noise * (self.runs % 2) if self.noisy else 0)
        )
        self.machine.now += self.ms / 1000 * slower
        return []


def measure(session: Sleeper, reference: Sleeper, settings: MeasureSettings) -> Sample:
    ratios, times = measure_paired(session, reference, settings, session.machine.clock)
    return Sample(ratios=ratios, reference=times)


SETTINGS = MeasureSettings(warmup=2, runs=9, seconds=1e9)


@pytest.mark.parametrize(("ms", "drift"), [(0.01, 2.0), (1.0, 2.0), (7.0, 2.0), (400.0, 0.04)])
def test_ratio_is_free_of_drift(ms: float, drift: float) -> None:
    machine = Machine(drift=drift)
    sample = measure(Sleeper(machine, ms), Sleeper(machine, 5.0), SETTINGS)
    times = sample.percentiles(5.0)
    assert times.p50 == pytest.approx(ms, rel=0.02)
    assert times.n == len(sample.ratios) == 9
    assert len(sample.reference) == 10
    assert sample.percentiles(10.0).p50 == pytest.approx(2 * ms, rel=0.02)


def test_fast_units_repeat_and_slow_ones_get_a_longer_reference() -> None:
    machine = Machine()
    fast, reference = Sleeper(machine, 0.01), Sleeper(machine, 5.0)
    measure(fast, reference, SETTINGS)
    assert fast.runs == pytest.approx(2 + 9 * 200, abs=10)
    assert reference.runs == 2 + 10
    for ms, repeats in ((500.0, 10), (50_000.0, MAX_REFERENCE_REPEATS)):
        slow, reference = Sleeper(machine, ms), Sleeper(machine, 5.0)
        measure(slow, reference, SETTINGS)
        assert slow.runs == 2 + 9
        assert reference.runs == 2 + 10 * repeats


def test_slow_units_are_sampled_less_often_and_say_so() -> None:
    settings = MeasureSettings(warmup=3, runs=15, seconds=1.0)
    counts = {}
    for ms in (10.0, 100.0, 3000.0):
        machine = Machine()
        session, reference = Sleeper(machine, ms), Sleeper(machine, 5.0)
        counts[ms] = measure(session, reference, settings).percentiles(5.0).n
    assert counts == {10.0: 15, 100.0: 10, 3000.0: 5}


def test_a_noisy_reference_is_measured_again_and_then_given_up() -> None:
    machine = Machine()
    machine.noise = 1.0
    session = Sleeper(machine, 5.0)
    sample = measure(session, Sleeper(machine, 5.0, noisy=True), SETTINGS)
    assert sample.drift > SETTINGS.max_drift
    assert session.runs == SETTINGS.attempts * (2 + 9)
    machine.noise = 0.1
    sample = measure(session, Sleeper(machine, 5.0, noisy=True), SETTINGS)
    assert sample.drift <= SETTINGS.max_drift


def test_the_quietest_attempt_counts() -> None:
    """A machine that is noisy at first and then less so, but never quiet."""
    machine = Machine()
    noises = {1: 2.0, 2: 0.5, 3: 1.0}

    class Restless(Sleeper):
        def run(self) -> list[Array]:
            attempt = -(-(self.runs + 1) // (2 + 10))
            machine.noise = noises[attempt]
            return super().run()

    settings = dataclasses.replace(SETTINGS, attempts=3)
    sample = measure(Sleeper(machine, 5.0), Restless(machine, 5.0, noisy=True), settings)
    assert sample.drift == pytest.approx(0.5 / 1.25, rel=0.3)
    assert sample.drift > settings.max_drift


def test_zero_warmup_still_calibrates() -> None:
    machine = Machine()
    settings = dataclasses.replace(SETTINGS, warmup=0)
    sample = measure(Sleeper(machine, 1.0), Sleeper(machine, 5.0), settings)
    assert np.median(sample.ratios) == pytest.approx(0.2)
