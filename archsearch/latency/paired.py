"""Paired timing: every run stands between two runs of a reference block, and only their ratio is
kept.

Clocks of CPUs and phones drift by 4–21 % between one unit and the next; a ratio to what ran just
before and just after does not.
"""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.workload import Workload, build, name_of
from archsearch.runtimes.base import Array, Runtime, RuntimeFacts, Session, facts
from archsearch.unet.units import Residual

REFERENCE_UNIT = Residual(
    in_channels=96, out_channels=96, size=32, conv="full", time_width=384, norm_groups=32
)
"""The reference block: 0.17 GMACs, some 3–8 ms on one core."""

MIN_RUNS = 5
MIN_SAMPLE_MS = 2.0
"""A sample shorter than this is made of several runs."""
REFERENCE_SHARE = 0.1
"""Runs of the reference beside a slow unit take this share of its time, so that one of them does
not decide alone.
"""
MAX_REFERENCE_REPEATS = 100

Clock = Callable[[], float]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """How to measure. ``warmup``, ``runs`` and ``threads`` are kept in the table."""

    warmup: int = 3
    """Runs before the first one that counts."""
    runs: int = 15
    """Samples of a unit; a slow one has fewer, see ``seconds``. Every entry says how many it
    has.
    """
    seconds: float = 1.0
    """Time for the samples of a unit: one that would take longer is sampled less often,
    ``MIN_RUNS`` times at least.
    """
    threads: int = 1
    max_drift: float = 0.25
    """Spread of the reference, (p90 - p10) / p50, above which a unit is measured again."""
    attempts: int = 3
    """How often a unit is measured before it is refused."""
    save_every: int = 8
    """Units between two savings of the partial table."""
    seed: int = 0
    """Of random weights, inputs and the order of measuring."""
    device: str | None = None
    """What the table calls this machine; None for ``cpu``."""
    cooling: str = "not recorded"
    """Said in the table: fan, ambient temperature, pauses."""


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

    @classmethod
    def together(cls, samples: Sequence["Sample"]) -> "Sample":
        """All samples of one workload as one."""
        return cls(
            ratios=[ratio for sample in samples for ratio in sample.ratios],
            reference=[ms for sample in samples for ms in sample.reference],
        )


def relative_spread(values: list[float]) -> float:
    """(p90 - p10) / p50."""
    p10, p50, p90 = np.percentile(values, (10, 50, 90))
    return float((p90 - p10) / p50)


def measure_paired(
    session: Session,
    reference: Session,
    settings: MeasureSettings,
    clock: Clock = time.perf_counter,
) -> tuple[Sample, bool]:
    """Time ``session`` between runs of ``reference``: reference, session, reference, session, …,
    reference.

    A round's ratio is the session's time over the mean of the reference just before and just after
    it. All of it is done again where the reference did not hold still, ``settings.attempts`` times
    at most.

    Returns:
        The last sample, and whether its reference held still.
    """

    def ms(timed: Session, repeats: int = 1) -> float:
        start = clock()
        for _ in range(repeats):
            timed.run()
        return (clock() - start) * 1000 / repeats

    for _ in range(settings.attempts):
        spent = 0.0
        for _ in range(max(settings.warmup, 1)):
            reference_ms, session_ms = ms(reference), ms(session)
            spent += session_ms
            if spent > settings.seconds * 1000:
                break  # slower than all the time there is: nothing is left to warm up
        repeats = min(max(math.ceil(MIN_SAMPLE_MS / max(session_ms, 1e-6)), 1), 10_000)
        share = round(REFERENCE_SHARE * session_ms / reference_ms)
        reference_repeats = min(max(share, 1), MAX_REFERENCE_REPEATS)
        affordable = math.ceil(settings.seconds * 1000 / max(session_ms, 1e-6))
        ratios, references = [], [ms(reference, reference_repeats)]
        for _ in range(min(settings.runs, max(MIN_RUNS, affordable))):
            took = ms(session, repeats)
            references.append(ms(reference, reference_repeats))
            ratios.append(2 * took / (references[-2] + references[-1]))
        sample = Sample(ratios=ratios, reference=references)
        if sample.drift <= settings.max_drift:
            return sample, True
    return sample, False


class Measurer(Protocol):
    """What measures one workload after another: a ``Bench`` in this process, or a ``Process``."""

    facts: RuntimeFacts
    """What tables say of the runtime."""
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
        ...

    def close(self) -> None:
        """Let go of processes and files."""
        ...


class Bench(AbstractContextManager["Bench"]):
    """A runtime in this process that measures one workload after another (a ``Measurer``).

    Raises:
        InputError: The runtime does not run on this machine.
    """

    def __init__(self, runtime: Runtime, settings: MeasureSettings) -> None:
        if reason := runtime.available():
            raise InputError(f"runtime {runtime.name} cannot measure here: {reason}")
        self.runtime, self.settings, self.facts = runtime, settings, facts(runtime)
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
            try:
                return measure_paired(session, self._reference, self.settings)
            except ArchsearchError:
                raise
            except Exception as error:
                raise ArchsearchError(
                    f"{name_of(workload)}: {runtime.name} cannot run it: {error}"
                ) from error

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
