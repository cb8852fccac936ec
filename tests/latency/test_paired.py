"""Which clock a runtime is measured by, and what that keeps out of its times."""

import time

import pytest

from archsearch.errors import InputError
from archsearch.latency.paired import Bench, clock_of
from archsearch.latency.stopwatch import MeasureSettings, measure_paired
from archsearch.runtimes.base import RuntimeFacts
from archsearch.runtimes.onnx import OnnxRuntime
from archsearch.unet.units import Residual


def facts(compute_unit: str = "cpu") -> RuntimeFacts:
    return RuntimeFacts("any", "any", "1", "all", compute_unit, "float32", "nchw")


@pytest.mark.parametrize(
    ("clock", "threads", "compute_unit", "found"),
    [
        ("auto", 1, "cpu", "processor"),
        ("auto", 2, "cpu", "wall"),
        ("auto", 1, "gpu", "wall"),
        ("wall", 1, "cpu", "wall"),
        ("processor", 1, "cpu", "processor"),
    ],
)
def test_one_thread_on_a_cpu_is_measured_in_time_of_the_processor(
    clock: str, threads: int, compute_unit: str, found: str
) -> None:
    settings = MeasureSettings(clock=clock, threads=threads)
    assert clock_of(facts(compute_unit), settings) == found


def test_time_of_the_processor_is_refused_where_threads_wait_for_each_other() -> None:
    with pytest.raises(InputError, match="--clock processor: needs one thread on a CPU, but any"):
        clock_of(facts(), MeasureSettings(clock="processor", threads=4))


class Computing:
    """Computes for a while, and is kept from it for another while, as on a busy machine."""

    def __init__(self, waits: float = 0.0) -> None:
        self.waits = waits

    def run(self) -> None:
        end = time.process_time() + 0.004
        while time.process_time() < end:
            pass
        time.sleep(self.waits)


def test_what_other_work_takes_of_the_wall_clock_is_not_in_the_ratios() -> None:
    settings = MeasureSettings(warmup=1, runs=5, attempts=1)
    ratios, _ = measure_paired(Computing(waits=0.02), Computing(), settings, time.process_time)
    assert sorted(ratios)[2] == pytest.approx(1.0, abs=0.3)
    ratios, _ = measure_paired(Computing(waits=0.02), Computing(), settings, time.perf_counter)
    assert sorted(ratios)[2] > 2


def test_a_sample_says_how_busy_the_processor_was() -> None:
    unit = Residual(
        in_channels=32, out_channels=32, size=8, conv="full", time_width=128, norm_groups=8
    )
    with Bench(OnnxRuntime(), MeasureSettings(warmup=1, runs=5, attempts=1)) as bench:
        assert bench.clock == "processor"
        assert 0 < bench.measure(unit)[0].busy <= 1.05
    with Bench(OnnxRuntime(), MeasureSettings(runs=5, attempts=1, clock="wall")) as bench:
        assert bench.measure(unit)[0].busy == 1
