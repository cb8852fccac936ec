"""The measuring process: ``python -m archsearch.latency.worker --runtime NAME``, driven by ``RemoteBench``.

It speaks JSON, one object a line. Its first line says ``{"facts": {…}}``, or ``{"error": …}`` where the runtime does not run there.
Then it answers each line it reads, until its input ends:

    {"measure": thing, "settings": {…}, "full": false}  →  {"sample": {…}, "quiet": true}
    {"run": thing, "settings": {…}, "folder": path}     →  {"outputs": 1}, saved as folder/0.npy, …
    whatever goes wrong                                 →  {"error": message, "input": whether the user's input is to blame}

What this imports has to be in the runtime's environment: torch, numpy, pydantic and the runtime itself.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.bench import Bench, convert
from archsearch.latency.paired import MeasureSettings
from archsearch.latency.things import from_data
from archsearch.runtimes.base import Runtime, facts
from archsearch.runtimes.registry import get_runtime

Answer = dict[str, Any]


class Server:
    """Answers requests with one runtime. The reference stays loaded as long as the settings are the same."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._bench: Bench | None = None

    def greet(self) -> Answer:
        """The runtime's facts.

        Raises:
            InputError: It does not run here.
        """
        reason = self.runtime.available()
        if reason:
            raise InputError(f"runtime {self.runtime.name} cannot measure with {sys.executable}: {reason}")
        return {"facts": asdict(facts(self.runtime))}

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
    parser = argparse.ArgumentParser(description="Measures for `archsearch latency measure --runtime-python`; not meant for hands.")
    parser.add_argument("--runtime", required=True)
    name: str = parser.parse_args(arguments).runtime
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who started this one ends it
    answers = _claim_stdout()
    server: list[Server] = []

    def greet() -> Answer:
        server.append(Server(get_runtime(name)))
        return server[0].greet()

    if not _say(answers, greet):
        return
    for line in sys.stdin:
        _say(answers, lambda line=line: server[0].answer(json.loads(line)))  # type: ignore[misc]
    server[0].close()


def _claim_stdout() -> TextIO:
    """Keep the standard output for answers: what libraries print, from Python or C, goes to the standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _say(answers: TextIO, work: Callable[[], Answer]) -> bool:
    """Write what ``work`` returns, or the error it raises. Returns whether it went well."""
    try:
        answer, fine = work(), True
    except ArchsearchError as error:
        answer, fine = {"error": str(error), "input": isinstance(error, InputError)}, False
    except Exception as error:
        answer, fine = {"error": f"{type(error).__name__}: {error}", "input": False}, False
    print(json.dumps(answer), file=answers, flush=True)
    return fine


if __name__ == "__main__":
    main()
