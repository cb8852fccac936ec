"""The measuring process: ``python -m archsearch.latency.worker --runtime NAME``, driven by
``RemoteBench``.

It says its facts (``peer.serve``), or an error where the runtime does not run there. Then it
answers:

    {"measure": thing, "settings": {…}, "full": false}  →  {"sample": {…}, "quiet": true}
    {"run": thing, "settings": {…}, "folder": path}     →  {"outputs": 1}, saved as folder/0.npy, …

What this imports has to be in the runtime's environment: torch, numpy, pydantic and the runtime
itself.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from archsearch.errors import InputError
from archsearch.latency.measure import Bench, convert
from archsearch.latency.paired import MeasureSettings
from archsearch.latency.process import Answer, serve
from archsearch.latency.things import from_data
from archsearch.runtimes.base import Runtime, RuntimeFacts, facts
from archsearch.runtimes.registry import get_runtime


class Server:
    """Answers requests with one runtime. The reference stays loaded as long as the settings are the
    same.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._bench: Bench | None = None

    def greet(self) -> RuntimeFacts:
        """The runtime's facts.

        Raises:
            InputError: It does not run here.
        """
        reason = self.runtime.available()
        if reason:
            raise InputError(
                f"runtime {self.runtime.name} cannot measure with {sys.executable}: {reason}"
            )
        return facts(self.runtime)

    def answer(self, request: dict[str, Any]) -> Answer:
        """Measure or run the thing in ``request``.

        Raises:
            ArchsearchError: The runtime cannot convert or run it.
        """
        settings = MeasureSettings(**request["settings"])
        if "run" in request:
            return self._run(request, settings)
        if self._bench is None or self._bench.settings != settings:
            self.close()
            self._bench = Bench(self.runtime, settings)
        sample, quiet = self._bench.measure(from_data(request["measure"]), full=request["full"])
        return {"sample": sample.model_dump(), "quiet": quiet}

    def _run(self, request: dict[str, Any], settings: MeasureSettings) -> Answer:
        with tempfile.TemporaryDirectory(prefix="archsearch-latency-") as folder:
            session = convert(self.runtime, from_data(request["run"]), Path(folder), settings)
            outputs = session.run()  # they may lie in the session's memory
            for index, output in enumerate(outputs):
                np.save(Path(request["folder"]) / f"{index}.npy", output, allow_pickle=False)
        return {"outputs": len(outputs)}

    def close(self) -> None:
        """Remove what was converted."""
        if self._bench:
            self._bench.close()
            self._bench = None


def main(arguments: list[str] | None = None) -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(
        description="Measures for `archsearch latency measure --runtime-python`; not meant for "
        "hands."
    )
    parser.add_argument("--runtime", required=True)
    server = Server(get_runtime(parser.parse_args(arguments).runtime))
    try:
        serve(server.greet, server.answer)
    finally:
        server.close()


if __name__ == "__main__":
    main()
