"""A runtime with the reference block loaded, measuring one thing after another."""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.paired import REFERENCE_UNIT, MeasureSettings, Sample, measure_quietly
from archsearch.latency.things import Thing, build, name_of
from archsearch.runtimes.base import Runtime, Session, facts


class RefusedError(ArchsearchError):
    """The reference would not hold still beside some units: the machine is too busy or too hot to measure them."""


class Bench:
    """A runtime with the reference block loaded: measures one thing after another.

    Attributes:
        runtime: What measures.
        facts: What tables say of it.
        settings: How it measures.

    Raises:
        InputError: The runtime does not run on this machine.
    """

    def __init__(self, runtime: Runtime, settings: MeasureSettings) -> None:
        reason = runtime.available()
        if reason:
            raise InputError(f"runtime {runtime.name} cannot measure here: {reason}")
        self.runtime = runtime
        self.facts = facts(runtime)
        self.settings = settings
        self._folder = tempfile.TemporaryDirectory(prefix="archsearch-latency-")
        self._reference = convert(runtime, REFERENCE_UNIT, Path(self._folder.name), settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the converted reference."""
        self._folder.cleanup()

    def measure(self, thing: Thing, full: bool = False) -> tuple[Sample, bool]:
        """Measure a unit, a whole network or another part of the pipeline.

        Args:
            thing: What to measure.
            full: Convert it by ``runtime.full``, the graph optimised as far as it goes. The reference stays as it is.

        Returns:
            The sample, and whether the reference held still beside it.

        Raises:
            InputError: ``full`` is asked for, and the runtime knows one way only.
            ArchsearchError: The runtime cannot convert or run it.
        """
        runtime = full_of(self.runtime) if full else self.runtime
        with tempfile.TemporaryDirectory(prefix="archsearch-latency-") as folder:
            session = convert(runtime, thing, Path(folder), self.settings)
            try:
                return measure_quietly(session, self._reference, self.settings)
            except ArchsearchError:
                raise
            except Exception as error:
                raise ArchsearchError(f"{name_of(thing)}: {runtime.name} cannot run it: {error}") from error


def full_of(runtime: Runtime) -> Runtime:
    """The fully optimising form of ``runtime``.

    Raises:
        InputError: It has none.
    """
    if runtime.full is None:
        raise InputError(
            f"runtime {runtime.name} has one graph level only ({runtime.graph_level}): there is no fuller one to measure with."
        )
    return runtime.full


def convert(runtime: Runtime, thing: Thing, folder: Path, settings: MeasureSettings) -> Session:
    """Convert ``thing`` with random weights.

    Raises:
        ArchsearchError: The runtime cannot; the message names the thing and gives the runtime's reason.
    """
    module, inputs = build(thing, settings.seed)
    try:
        return runtime.convert(module, inputs, folder, settings.threads)
    except InputError:
        raise
    except ArchsearchError as error:
        raise ArchsearchError(f"{name_of(thing)}: {error}") from error
    except Exception as error:
        raise ArchsearchError(f"{name_of(thing)}: {runtime.name} cannot convert it: {error}") from error
