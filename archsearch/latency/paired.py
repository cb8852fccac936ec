"""What measures on this machine: a runtime with the reference block loaded, and what it finds."""

import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.stopwatch import MeasureSettings, measure_paired, relative_spread
from archsearch.latency.table import Clock
from archsearch.latency.workload import Workload, build, name_of
from archsearch.runtimes.base import Array, Runtime, RuntimeFacts, Session, facts
from archsearch.unet.units import Residual

# The reference block: 0.17 GMACs, some 3–8 ms on one core.
REFERENCE_UNIT = Residual(
    in_channels=96, out_channels=96, size=32, conv="full", time_width=384, norm_groups=32
)

Positive = Annotated[float, Field(gt=0)]


def clock_of(facts: RuntimeFacts, settings: MeasureSettings) -> Clock:
    """The clock that a runtime is measured by: the processor's where one thread computes on a CPU,
    unless the wall clock is asked for.

    Raises:
        InputError: The processor's is asked for, but there is more than that thread.
    """
    alone = settings.threads == 1 and facts.compute_unit == "cpu"
    if settings.clock == "processor" and not alone:
        raise InputError(
            f"--clock processor: needs one thread on a CPU, but {facts.name} has "
            f"{settings.threads} on {facts.compute_unit}: several threads wait for each other, "
            "which the processor's time does not show."
        )
    return "processor" if alone and settings.clock != "wall" else "wall"


class Percentiles(NamedTuple):
    """How many samples there are, and their percentiles in ms, as table entries have them."""

    n: int
    p10: float
    p50: float
    p90: float


class Sample(BaseModel):
    """Paired samples of one workload: ratios to the reference, and the times of the reference
    beside it in ms.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ratios: list[Positive] = Field(min_length=1)
    reference: list[Positive] = Field(min_length=2)
    busy: Positive = 1.0
    """Processor time as a share of the wall clock's, where times are the processor's."""

    @property
    def reference_p50(self) -> float:
        """Median time of the reference beside this workload, in ms."""
        return float(np.median(self.reference))

    @property
    def drift(self) -> float:
        """Relative spread of the reference beside this workload."""
        return relative_spread(self.reference)

    def percentiles(self, reference_p50: float) -> Percentiles:
        """Times in ms where the reference takes ``reference_p50`` ms, rounded to a nanosecond."""
        p10, p50, p90 = (
            max(round(float(value) * reference_p50, 6), 1e-6)
            for value in np.percentile(self.ratios, (10, 50, 90))
        )
        return Percentiles(len(self.ratios), p10, p50, p90)


class Measurer(Protocol):
    """What measures one workload after another: a ``Bench`` in this process, or a ``Process``."""

    facts: RuntimeFacts  # what tables say of the runtime
    settings: MeasureSettings

    def measure(self, workload: Workload, full: bool = False) -> tuple[Sample, bool]:
        """Measure a unit, a whole network or a part of the pipeline.

        Args:
            workload: What to measure.
            full: Convert it by ``runtime.full``, the graph optimised as far as it goes. The
                reference stays as it is.

        Returns:
            The sample, and whether the reference held still beside it.

        Raises:
            InputError: ``full`` is asked for, and the runtime knows one way only.
            ArchsearchError: The runtime cannot convert or run it.
        """

    def close(self) -> None:
        """Let go of processes and files."""


class Bench(AbstractContextManager["Bench"]):
    """A runtime in this process that measures one workload after another (a ``Measurer``).

    Raises:
        InputError: The runtime does not run on this machine.
    """

    def __init__(self, runtime: Runtime, settings: MeasureSettings) -> None:
        if reason := runtime.available():
            raise InputError(f"runtime {runtime.name} cannot measure here: {reason}")
        self.runtime, self.settings, self.facts = runtime, settings, facts(runtime)
        self.clock = clock_of(self.facts, settings)
        self._folder = tempfile.TemporaryDirectory(prefix="archsearch-latency-")
        self._reference = self._convert(runtime, REFERENCE_UNIT, Path(self._folder.name))

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the converted reference."""
        self._folder.cleanup()

    def measure(self, workload: Workload, full: bool = False) -> tuple[Sample, bool]:
        """Measure a workload, see ``Measurer.measure``."""
        runtime = self.runtime.full if full else self.runtime
        if runtime is None:
            raise InputError(
                f"runtime {self.runtime.name} has one graph level only "
                f"({self.runtime.graph_level}): there is no fuller one to measure with."
            )
        with tempfile.TemporaryDirectory(prefix="archsearch-latency-") as folder:
            session = self._convert(runtime, workload, Path(folder))
            clock = time.process_time if self.clock == "processor" else time.perf_counter
            began, wall = clock(), time.perf_counter()
            try:
                ratios, times = measure_paired(session, self._reference, self.settings, clock)
            except ArchsearchError:
                raise
            except Exception as error:
                raise ArchsearchError(
                    f"{name_of(workload)}: {runtime.name} cannot run it: {error}"
                ) from error
        busy = round((clock() - began) / (time.perf_counter() - wall), 4)
        sample = Sample(ratios=ratios, reference=times, busy=busy)
        return sample, sample.drift <= self.settings.max_drift

    def run(self, workload: Workload) -> list[Array]:
        """Run a workload once, with the weights and inputs that ``build(workload, settings.seed)``
        gives.

        Returns:
            Its outputs.

        Raises:
            ArchsearchError: The runtime cannot convert or run it.
        """
        with tempfile.TemporaryDirectory(prefix="archsearch-latency-") as folder:
            session = self._convert(self.runtime, workload, Path(folder))
            return [output.copy() for output in session.run()]

    def _convert(self, runtime: Runtime, workload: Workload, folder: Path) -> Session:
        module, inputs = build(workload, self.settings.seed)
        try:
            return runtime.convert(module, inputs, folder, self.settings.threads)
        except InputError:
            raise
        except ArchsearchError as error:
            raise ArchsearchError(f"{name_of(workload)}: {error}") from error
        except Exception as error:
            raise ArchsearchError(
                f"{name_of(workload)}: {runtime.name} cannot convert it: {error}"
            ) from error
