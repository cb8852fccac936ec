"""A runtime with the reference block loaded, measuring one thing after another."""

import tempfile
from pathlib import Path

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.paired import REFERENCE_UNIT, MeasureSettings, Sample, measure_quietly
from archsearch.latency.things import Thing, build, name_of
from archsearch.runtimes.base import Runtime, Session


class RefusedError(ArchsearchError):
    """The reference would not hold still beside some units: the machine is too busy or too hot to measure them."""


class Bench:
    """A runtime with the reference block loaded: measures one thing after another.

    Raises:
        InputError: The runtime does not run on this machine.
    """

    def __init__(self, runtime: Runtime, settings: MeasureSettings) -> None:
        reason = runtime.available()
        if reason:
            raise InputError(f"runtime {runtime.name} cannot measure here: {reason}")
        self.runtime = runtime
        self.settings = settings
        self._folder = tempfile.TemporaryDirectory(prefix="archsearch-latency-")
        self._reference = self._convert(REFERENCE_UNIT, Path(self._folder.name))

    def close(self) -> None:
        """Remove the converted reference."""
        self._folder.cleanup()

    def measure(self, thing: Thing) -> tuple[Sample, bool]:
        """Measure a unit, a whole network or another part of the pipeline.

        Returns:
            The sample, and whether the reference held still beside it.

        Raises:
            ArchsearchError: The runtime cannot convert or run it.
        """
        with tempfile.TemporaryDirectory(prefix="archsearch-latency-") as folder:
            session = self._convert(thing, Path(folder))
            return measure_quietly(session, self._reference, self.settings)

    def _convert(self, thing: Thing, folder: Path) -> Session:
        module, inputs = build(thing, self.settings.seed)
        try:
            return self.runtime.convert(module, inputs, folder, self.settings.threads)
        except ArchsearchError:
            raise
        except Exception as error:
            raise ArchsearchError(f"{name_of(thing)}: {self.runtime.name} cannot convert it: {error}") from error
