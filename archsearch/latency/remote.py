"""Measuring in another process: a runtime with an environment of its own, or one whose crash must not end the measuring."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

import archsearch
from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.paired import MeasureSettings, Sample
from archsearch.latency.things import Thing, name_of, to_data
from archsearch.runtimes.base import Array, RuntimeFacts
from archsearch.runtimes.registry import get_runtime

STDERR_TAIL = 300
"""Characters of what a process said last that go into the message about its end."""
CLOSE_SECONDS = 2.0


class RemoteBench:
    """A ``Bench`` in another process, with ``python`` and the packages it has. Times are taken there, so that nothing is added.

    A process that dies is started again for the next measurement. It ends with ``close``, and by itself once this process has
    ended. What it writes lies in a folder of this process, which removes it even after a crash.

    Args:
        runtime: Its name in ``RUNTIMES``.
        settings: How to measure.
        python: A Python with torch, numpy, pydantic and the runtime's package; archsearch need not be installed there. Default:
            this one.

    Attributes:
        facts: What tables say of the runtime.
        settings: How it measures.

    Raises:
        InputError: There is no such runtime, ``python`` does not start, or the runtime does not run there.
    """

    def __init__(self, runtime: str, settings: MeasureSettings, python: Path | str | None = None) -> None:
        self._runtime = get_runtime(runtime).name
        self._python = str(python or sys.executable)
        self.settings = settings
        self._process: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="archsearch-worker-", ignore_cleanup_errors=True)
        try:
            self.facts: RuntimeFacts = self._start()
        except BaseException:
            self.close()
            raise

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
        answer = self._request(thing, {"measure": to_data(thing), "settings": asdict(self.settings), "full": full})
        return Sample.model_validate(answer["sample"]), bool(answer["quiet"])

    def run(self, thing: Thing) -> list[Array]:
        """Run ``thing`` once, with the weights and inputs that ``build(thing, settings.seed)`` gives.

        Returns:
            Its outputs.

        Raises:
            ArchsearchError: The runtime cannot convert or run it, or its process died of it.
        """
        with tempfile.TemporaryDirectory(dir=self._folder.name) as folder:
            answer = self._request(thing, {"run": to_data(thing), "settings": asdict(self.settings), "folder": folder})
            return [np.load(Path(folder) / f"{index}.npy", allow_pickle=False) for index in range(answer["outputs"])]

    def close(self) -> None:
        """End the process, whatever it is doing, and remove its files."""
        self._end(CLOSE_SECONDS)
        self._folder.cleanup()

    def _start(self) -> RuntimeFacts:
        folder = Path(self._folder.name)
        package = folder / "path" / "archsearch"
        if not package.is_symlink():
            # not the folder that holds archsearch: where that is site-packages, its torch would hide the other Python's
            package.parent.mkdir()
            package.symlink_to(Path(archsearch.__file__).resolve().parent, target_is_directory=True)
        (folder / "tmp").mkdir(exist_ok=True)
        environment = os.environ | {"PYTHONPATH": str(package.parent), "TMPDIR": str(folder / "tmp")}
        command = [self._python, "-P", "-m", "archsearch.latency.worker", "--runtime", self._runtime]
        try:
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, text=True, encoding="utf-8"
                )
        except OSError as error:
            raise InputError(f"--runtime-python {self._python}: does not start: {error.strerror or error}.") from error
        answer = self._read()
        if answer is None:
            raise InputError(
                f"--runtime-python {self._python}: cannot measure, its process {self._end_of_process()} It must be Python 3.11 or "
                f"later with torch, numpy, pydantic and the package of {self._runtime}."
            )
        return RuntimeFacts(**_checked(answer)["facts"])

    def _request(self, thing: Thing, request: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._process is None:
                self._start()
            assert self._process is not None
            assert self._process.stdin is not None
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._read()
        except BrokenPipeError:
            answer = None
        except BaseException:  # Ctrl-C while waiting: its answer would be taken for the next one's
            self._end(0)
            raise
        if answer is None:
            raise ArchsearchError(f"{name_of(thing)}: the process of {self._runtime} {self._end_of_process()}")
        return _checked(answer)

    def _read(self) -> dict[str, Any] | None:
        """The next answer; None where the process has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] | None = json.loads(line) if line.endswith("\n") else None
        return answer

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "stderr"

    def _end_of_process(self) -> str:
        """Wait for a process that has closed its output, and tell how it ended."""
        assert self._process is not None
        code = self._process.wait()
        self._end(0)
        said = self._log.read_text(encoding="utf-8", errors="replace").strip()[-STDERR_TAIL:]
        last = f", and last said: {said.splitlines()[-1].rstrip('.')}" if said else ""
        if code >= 0:
            return f"ended with exit code {code}{last}."
        memory = " (the system's memory may have run out)" if -code == signal.SIGKILL else ""
        return f"died of signal {signal.Signals(-code).name}{memory}{last}."

    def _end(self, seconds: float) -> None:
        """End the process: by closing its input, by force where it is still there after ``seconds``."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.communicate(timeout=seconds or 0.01)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            pass
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    """Raise the error that ``answer`` tells of, if it does."""
    if "error" in answer:
        raise (InputError if answer["input"] else ArchsearchError)(answer["error"])
    return answer
