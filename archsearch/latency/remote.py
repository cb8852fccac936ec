"""Measuring in another process: a runtime with an environment of its own, or one whose crash must not end the measuring."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from archsearch.latency.paired import MeasureSettings, Sample
from archsearch.latency.peer import Peer
from archsearch.latency.things import Thing, name_of, to_data
from archsearch.runtimes.base import Array, RuntimeFacts
from archsearch.runtimes.registry import get_runtime


class RemoteBench:
    """A ``Bench`` in another process, with ``python`` and the packages it has. Times are taken there, so that nothing is added.

    A process that dies is started again for the next measurement.

    Args:
        runtime: Its name in ``RUNTIMES``.
        settings: How to measure.
        python: A Python with torch, numpy, pydantic and the runtime's package. Default: this one.

    Attributes:
        facts: What tables say of the runtime.
        settings: How it measures.

    Raises:
        InputError: There is no such runtime, ``python`` does not start, or the runtime does not run there.
    """

    def __init__(self, runtime: str, settings: MeasureSettings, python: Path | str | None = None) -> None:
        self._name = get_runtime(runtime).name
        self.settings = settings
        arguments = ["--runtime", self._name]
        self._peer = Peer("archsearch.latency.worker", arguments, python, f"the package of {self._name}")
        self.facts: RuntimeFacts = self._peer.facts

    @property
    def pid(self) -> int | None:
        """Of the measuring process, None where it has ended."""
        return self._peer.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def measure(self, thing: Thing, full: bool = False) -> tuple[Sample, bool]:
        """Measure a unit, a whole network or another part of the pipeline, as ``Bench.measure`` does.

        Returns:
            The sample, and whether the reference held still beside it.

        Raises:
            InputError: ``full`` is asked for, and the runtime knows one way only.
            ArchsearchError: The runtime cannot convert or run it, or its process died of it.
        """
        request = {"measure": to_data(thing), "settings": asdict(self.settings), "full": full}
        answer = self._peer.ask(request, f"{name_of(thing)}: {self._name}")
        return Sample.model_validate(answer["sample"]), bool(answer["quiet"])

    def run(self, thing: Thing) -> list[Array]:
        """Run ``thing`` once, with the weights and inputs that ``build(thing, settings.seed)`` gives.

        Returns:
            Its outputs.

        Raises:
            ArchsearchError: The runtime cannot convert or run it, or its process died of it.
        """
        with tempfile.TemporaryDirectory(dir=self._peer.folder) as folder:
            request = {"run": to_data(thing), "settings": asdict(self.settings), "folder": folder}
            answer = self._peer.ask(request, f"{name_of(thing)}: {self._name}")
            return [np.load(Path(folder) / f"{index}.npy", allow_pickle=False) for index in range(answer["outputs"])]

    def close(self) -> None:
        """End the process, whatever it is doing, and remove its files."""
        self._peer.close()
