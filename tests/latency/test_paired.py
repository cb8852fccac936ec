import dataclasses

import numpy as np
import pytest

from archsearch.errors import InputError
from archsearch.latency.measure import this_device
from archsearch.latency.paired import (
    MAX_REFERENCE_REPEATS,
    MeasureSettings,
    measure_paired,
    measure_quietly,
)
from archsearch.latency.table import Correction
from archsearch.latency.whole import fit_correction
from archsearch.runtimes.base import Array
from archsearch.unet.units import Downsample


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
    sample = measure_paired(Sleeper(machine, ms), Sleeper(machine, 5.0), SETTINGS, machine.clock)
    entry = sample.entry(Downsample(8, 8), 5.0)
    assert entry.p50 == pytest.approx(ms, rel=0.02)
    assert entry.n == len(sample.ratios) == 9
    assert len(sample.reference) == 10
    assert sample.p50(10.0) == pytest.approx(2 * ms, rel=0.02)


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
        counts[ms] = (
            measure_paired(Sleeper(machine, ms), Sleeper(machine, 5.0), settings, machine.clock)
            .entry(Downsample(8, 8), 5.0)
            .n
        )
    assert counts == {10.0: 15, 100.0: 10, 3000.0: 5}


def test_a_noisy_reference_is_measured_again_and_then_given_up() -> None:
    machine = Machine()
    machine.noise = 1.0
    session = Sleeper(machine, 5.0)
    sample, quiet = measure_quietly(
        session, Sleeper(machine, 5.0, noisy=True), SETTINGS, machine.clock
    )
    assert not quiet
    assert sample.drift > 0.25
    assert session.runs == SETTINGS.attempts * (2 + 9)
    machine.noise = 0.1
    _, quiet = measure_quietly(session, Sleeper(machine, 5.0, noisy=True), SETTINGS, machine.clock)
    assert quiet


def test_zero_warmup_still_calibrates() -> None:
    machine = Machine()
    sample = measure_paired(
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


def test_this_machine_is_described() -> None:
    device = this_device()
    assert device.device == "cpu"
    assert device.soc
    assert device.os
    assert device.threads >= 1
