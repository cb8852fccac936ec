"""Measuring in a process of its own, in another environment where the runtime wants one."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import numpy as np

import archsearch
from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.paired import MeasureSettings, Sample
from archsearch.latency.things import Thing, name_of, to_data
from archsearch.runtimes.base import Array, RuntimeFacts
from archsearch.runtimes.registry import get_runtime

Answer = dict[str, Any]

STDERR_TAIL = 300
"""Characters of what a process said last that go into the message about its end."""
CLOSE_SECONDS = 2.0
PATIENCE_S = 3600.0
"""How long an answer may take before the process is taken to hang: the longest, a decoder of 40 s a
run, takes some minutes.
"""


class HangingError(ArchsearchError):
    """A process that gives no answer."""


class Peer:
    """A process that runs ``module`` and is started again where something has ended it.

    It ends with ``close``, and by itself once this process has ended. What it writes lies in
    ``folder``, which belongs to this process and is removed even after a crash of the other.

    Args:
        module: What it runs; it calls ``serve``.
        arguments: Of its command line.
        python: A Python with torch, numpy, pydantic and what ``module`` needs.
        needs: What that is, in words, for the message where it does not start.

    Attributes:
        folder: A folder of its own.
        facts: Of the runtime it works with, as it says in its first line.

    Raises:
        InputError: ``python`` does not start, or lacks something.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], python: Path | str | None, needs: str
    ) -> None:
        # a relative path stays one, and a link stays a link: what it points at would not know its
        # environment
        self._python = str(
            python.absolute() if (python := Path(python or sys.executable)).exists() else python
        )
        self._needs = needs
        self._command = [self._python, "-P", "-m", module, *arguments]
        self._process: subprocess.Popen[str] | None = None
        self._temporary = tempfile.TemporaryDirectory(
            prefix="archsearch-peer-", ignore_cleanup_errors=True
        )
        self.folder = Path(self._temporary.name)
        try:
            self.facts = self._start()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int | None:
        """Of the process, None where it has ended."""
        return self._process.pid if self._process else None

    def ask(self, request: Answer, what: str) -> Answer:
        """Send a request and wait for its answer.

        Args:
            request: Plain data.
            what: What it is about, for the message about a process that died of it.

        Raises:
            InputError: The user's input is to blame.
            ArchsearchError: It went wrong, or the process died of it.
        """
        try:
            if self._process is None:
                self._start()
            assert self._process is not None
            assert self._process.stdin is not None
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._read()
        except BrokenPipeError:
            answer = None
        except HangingError as error:
            self._end(0)
            raise ArchsearchError(f"{what}: its process {error}") from error
        except BaseException:  # Ctrl-C while waiting: its answer would be taken for the next one's
            self._end(0)
            raise
        if answer is None:
            raise ArchsearchError(f"{what}: its process {self._end_of_process()}")
        return _checked(answer)

    def close(self) -> None:
        """End the process, whatever it is doing, and remove its files."""
        self._end(CLOSE_SECONDS)
        self._temporary.cleanup()

    def _start(self) -> RuntimeFacts:
        package = self.folder / "path" / "archsearch"
        if not package.is_symlink():
            # not the folder that holds archsearch: where that is site-packages, its torch would
            # hide the other Python's
            package.parent.mkdir()
            package.symlink_to(Path(archsearch.__file__).resolve().parent, target_is_directory=True)
        (self.folder / "tmp").mkdir(exist_ok=True)
        environment = os.environ | {
            "PYTHONPATH": str(package.parent),
            "TMPDIR": str(self.folder / "tmp"),
        }
        pipe = subprocess.PIPE
        try:
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=pipe,
                    stdout=pipe,
                    stderr=log,
                    env=environment,
                    text=True,
                    encoding="utf-8",
                )
        except OSError as error:
            raise InputError(
                f"--runtime-python {self._python}: does not start: {error.strerror or error}."
            ) from error
        answer = self._read()
        if answer is None:
            raise InputError(
                f"--runtime-python {self._python}: cannot be used, its process "
                f"{self._end_of_process()} It must be Python 3.11 or "
                f"later with torch, numpy, pydantic and {self._needs}."
            )
        return RuntimeFacts(**_checked(answer)["facts"])

    def _read(self) -> Answer | None:
        """The next answer; None where the process has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        # there is never more than one answer under way, so nothing of it lies in our buffer yet
        if not select.select([self._process.stdout], [], [], PATIENCE_S)[0]:
            self._process.kill()
            raise HangingError(f"gave no answer for {PATIENCE_S / 60:.0f} minutes.")
        line = self._process.stdout.readline()
        answer: Answer | None = json.loads(line) if line.endswith("\n") else None
        return answer

    @property
    def _log(self) -> Path:
        return self.folder / "stderr"

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
        known = -code in {number.value for number in signal.Signals}
        return f"died of signal {signal.Signals(-code).name if known else -code}{memory}{last}."

    def _end(self, seconds: float) -> None:
        """End the process: by closing its input, by force where it is still there after
        ``seconds``.
        """
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


def _checked(answer: Answer) -> Answer:
    """Raise the error that ``answer`` tells of, if it does."""
    if "error" in answer:
        raise (InputError if answer["input"] else ArchsearchError)(answer["error"])
    return answer


def serve(greet: Callable[[], RuntimeFacts], answer: Callable[[Answer], Answer]) -> None:
    """Say ``greet``'s facts, then answer each line of the standard input, until it ends.

    Whatever goes wrong is said as ``{"error": message, "input": whether the user's input is to
    blame}``; after a greeting that went wrong there is nothing more.
    """
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; who started this one ends it
    # what libraries print, from Python or C, goes to the standard error
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if not _say(answers, lambda: {"facts": asdict(greet())}):
        return
    for line in sys.stdin:
        _say(answers, lambda line=line: answer(json.loads(line)))  # type: ignore[misc]


def _say(answers: TextIO, work: Callable[[], Answer]) -> bool:
    """Write what ``work`` returns, or the error it raises. Returns whether it went well."""
    try:
        answer, fine = work(), True
    except ArchsearchError as error:
        answer, fine = {"error": str(error), "input": isinstance(error, InputError)}, False
    except Exception as error:  # runtimes raise whatever they like
        answer, fine = {"error": f"{type(error).__name__}: {error}", "input": False}, False
    print(json.dumps(answer), file=answers, flush=True)
    return fine


class RemoteBench:
    """A ``Bench`` in another process, with ``python`` and the packages it has. Times are taken
    there, so that nothing is added.

    A process that dies is started again for the next measurement.

    Args:
        runtime: Its name in ``RUNTIMES``.
        settings: How to measure.
        python: A Python with torch, numpy, pydantic and the runtime's package. Default: this one.

    Attributes:
        facts: What tables say of the runtime.
        settings: How it measures.

    Raises:
        InputError: There is no such runtime, ``python`` does not start, or the runtime does not run
            there.
    """

    def __init__(
        self, runtime: str, settings: MeasureSettings, python: Path | str | None = None
    ) -> None:
        self._name = get_runtime(runtime).name
        self.settings = settings
        arguments = ["--runtime", self._name]
        self._peer = Peer(
            "archsearch.latency.worker", arguments, python, f"the package of {self._name}"
        )
        self.facts: RuntimeFacts = self._peer.facts

    @property
    def pid(self) -> int | None:
        """Of the measuring process, None where it has ended."""
        return self._peer.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def measure(self, thing: Thing, full: bool = False) -> tuple[Sample, bool]:
        """Measure a unit, a whole network or another part of the pipeline, as ``Bench.measure``
        does.

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
        """Run ``thing`` once, with the weights and inputs that ``build(thing, settings.seed)``
        gives.

        Returns:
            Its outputs.

        Raises:
            ArchsearchError: The runtime cannot convert or run it, or its process died of it.
        """
        with tempfile.TemporaryDirectory(dir=self._peer.folder) as folder:
            request = {"run": to_data(thing), "settings": asdict(self.settings), "folder": folder}
            answer = self._peer.ask(request, f"{name_of(thing)}: {self._name}")
            return [
                np.load(Path(folder) / f"{index}.npy", allow_pickle=False)
                for index in range(answer["outputs"])
            ]

    def close(self) -> None:
        """End the process, whatever it is doing, and remove its files."""
        self._peer.close()
