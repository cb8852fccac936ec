import dataclasses

import numpy as np
import pytest

from archsearch.errors import InputError
from archsearch.latency.measure import fit_correction
from archsearch.latency.paired import (
    MAX_REFERENCE_REPEATS,
    MeasureSettings,
    measure_paired,
)
from archsearch.latency.table import Correction
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


SETTINGS = MeasureSettings(warmup=2, runs=9, seconds=1e9)


@pytest.mark.parametrize(("ms", "drift"), [(0.01, 2.0), (1.0, 2.0), (7.0, 2.0), (400.0, 0.04)])
def test_ratio_is_free_of_drift(ms: float, drift: float) -> None:
    machine = Machine(drift=drift)
    sample, _ = measure_paired(Sleeper(machine, ms), Sleeper(machine, 5.0), SETTINGS, machine.clock)
    times = sample.percentiles(5.0)
    assert times.p50 == pytest.approx(ms, rel=0.02)
    assert times.n == len(sample.ratios) == 9
    assert len(sample.reference) == 10
    assert sample.percentiles(10.0).p50 == pytest.approx(2 * ms, rel=0.02)


def test_fast_units_repeat_and_slow_ones_get_a_longer_reference() -> None:
    machine = Machine()
    fast, reference = Sleeper(machine, 0.01), Sleeper(machine, 5.0)
    measure_paired(fast, reference, SETTINGS, machine.clock)
    assert fast.runs == pytest.approx(2 + 9 * 200, abs=10)
    assert reference.runs == 2 + 10
    for ms, repeats in ((500.0, 10), (50_000.0, MAX_REFERENCE_REPEATS)):
        slow, reference = Sleeper(machine, ms), Sleeper(machine, 5.0)
        measure_paired(slow, reference, SETTINGS, machine.clock)
        assert slow.runs == 2 + 9
        assert reference.runs == 2 + 10 * repeats


def test_slow_units_are_sampled_less_often_and_say_so() -> None:
    settings = MeasureSettings(warmup=3, runs=15, seconds=1.0)
    counts = {}
    for ms in (10.0, 100.0, 3000.0):
        machine = Machine()
        session, reference = Sleeper(machine, ms), Sleeper(machine, 5.0)
        counts[ms] = (
            measure_paired(session, reference, settings, machine.clock)[0].percentiles(5.0).n
        )
    assert counts == {10.0: 15, 100.0: 10, 3000.0: 5}


def test_a_noisy_reference_is_measured_again_and_then_given_up() -> None:
    machine = Machine()
    machine.noise = 1.0
    session = Sleeper(machine, 5.0)
    sample, quiet = measure_paired(
        session, Sleeper(machine, 5.0, noisy=True), SETTINGS, machine.clock
    )
    assert not quiet
    assert sample.drift > 0.25
    assert session.runs == SETTINGS.attempts * (2 + 9)
    machine.noise = 0.1
    _, quiet = measure_paired(session, Sleeper(machine, 5.0, noisy=True), SETTINGS, machine.clock)
    assert quiet


def test_zero_warmup_still_calibrates() -> None:
    machine = Machine()
    sample, _ = measure_paired(
        Sleeper(machine, 1.0),
        Sleeper(machine, 5.0),
        dataclasses.replace(SETTINGS, warmup=0),
        machine.clock,
    )
    assert np.median(sample.ratios) == pytest.approx(0.2)


def test_scale_is_robust_and_names_its_networks() -> None:
    digests = [f"{index:016x}" for index in range(5)]
    pairs = [
        (digest, 10.0 * (index + 1), 9.5 * (index + 1)) for index, digest in enumerate(digests)
    ]
    pairs[0] = (digests[0], 10.0, 30.0)  # one measured while something else ran
    fitted = fit_correction(pairs)
    assert fitted.scale == pytest.approx(0.95)
    assert fitted.offset == 0.0
    assert fitted.fitted_on == digests
    assert Correction() == Correction(scale=1.0, offset=0.0, fitted_on=[])


def test_scale_and_offset_are_found_exactly() -> None:
    pairs = [
        (f"{index:016x}", total, 1.1 * total + 2.5)
        for index, total in enumerate((10.0, 20.0, 50.0, 80.0))
    ]
    fitted = fit_correction(pairs, with_offset=True)
    assert (fitted.scale, fitted.offset) == pytest.approx((1.1, 2.5))


def test_too_few_networks() -> None:
    with pytest.raises(InputError, match="1 or more networks, got 0"):
        fit_correction([])
    with pytest.raises(InputError, match="3 or more networks, got 2"):
        fit_correction([("0" * 16, 1.0, 1.0)] * 2, with_offset=True)
    with pytest.raises(InputError, match="not positive"):
        fit_correction(
            [(f"{i:016x}", s, m) for i, (s, m) in enumerate([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)])],
            with_offset=True,
        )
