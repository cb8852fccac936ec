"""Measuring in a process of its own, in another environment where the runtime wants one.

``Process`` starts ``python -m archsearch.latency.process`` and talks to it in lines of JSON. The
process says first what it works with, ``{"facts": {…}, "unavailable": null}``, or why it cannot.
Then it answers each request, or says ``{"error": message, "input": whether the user's input is to
blame}``:

    {"measure": workload, "full": false}                       →  {"sample": {…}, "quiet": true}
    {"run": workload, "folder": path}                          →  {"outputs": 1}, in folder/0.npy, …
    {"convert": workload, "format": "onnx", "seed": 0, "folder": path}
                                                               →  {"file": …, "inputs": […]}
    {"export": workload, "folder": path}                       →  {"file": …, "delegated": 3, …}

What this imports has to be in the other environment: torch, numpy, pydantic, PyYAML and what the
runtime needs.
"""

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import archsearch
from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.paired import Bench, Sample
from archsearch.latency.phone.bundle import CONVERTERS, Format, Input
from archsearch.latency.stopwatch import MeasureSettings
from archsearch.latency.workload import Workload, build, from_data, name_of, to_data
from archsearch.runtimes.base import Array, RuntimeFacts, facts
from archsearch.runtimes.executorch import ExecutorchRuntime
from archsearch.runtimes.registry import get_runtime
from archsearch.unet.config import UNetConfig

STDERR_TAIL = 300  # characters of what a process said last that go into the message about its end
CLOSE_SECONDS = 2.0
# How long an answer may take before the process is taken to hang: the longest, a decoder of 40 s a
# run, takes some minutes.
PATIENCE_S = 3600.0

Message = dict[str, Any]


class Process(AbstractContextManager["Process"]):
    """A ``Bench`` in another process, with ``python`` and the packages it has. Times are taken
    there, so that the pipe adds nothing to them.

    The process ends with ``close``, and by itself once this process has ended. One that dies of a
    request is started again for the next. What it writes lies in a folder that belongs to this
    process and is removed even after a crash of the other.

    Args:
        runtime: Its name in ``RUNTIMES``.
        settings: How to measure.
        python: A Python with torch, numpy, pydantic, PyYAML and the runtime's package. Default:
            this one.
        only_convert: The runtime need not run there: for ``convert`` alone.

    Attributes:
        facts: What tables say of the runtime.
        settings: How it measures.

    Raises:
        InputError: There is no such runtime, ``python`` does not start or lacks something, or the
            runtime does not run there.
    """

    def __init__(
        self,
        runtime: str,
        settings: MeasureSettings,
        python: Path | str | None = None,
        only_convert: bool = False,
    ) -> None:
        self.runtime, self.settings = get_runtime(runtime).name, settings
        # a relative path stays one, and a link stays a link: what it points at would not know its
        # environment
        path = Path(python or sys.executable)
        self._python = str(path.absolute() if path.exists() else path)
        self._process: subprocess.Popen[str] | None = None
        self._temporary = tempfile.TemporaryDirectory(
            prefix="archsearch-process-", ignore_cleanup_errors=True
        )
        self._folder = Path(self._temporary.name)
        # not the folder that holds archsearch: where that is site-packages, its torch would hide
        # the other Python's
        package = self._folder / "path" / "archsearch"
        package.parent.mkdir()
        package.symlink_to(Path(archsearch.__file__).resolve().parent, target_is_directory=True)
        (self._folder / "tmp").mkdir()
        try:
            greeting = self._start()
            self.facts = RuntimeFacts(**greeting["facts"])
            if greeting["unavailable"] and not only_convert:
                raise InputError(
                    f"runtime {self.runtime} cannot measure with {self._python}: "
                    f"{greeting['unavailable']}"
                )
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it is doing, and remove its files."""
        self._end(CLOSE_SECONDS)
        self._temporary.cleanup()

    def measure(self, workload: Workload, full: bool = False) -> tuple[Sample, bool]:
        """Measure a workload, see ``Measurer.measure``.

        Raises:
            InputError: ``full`` is asked for, and the runtime knows one way only.
            ArchsearchError: The runtime cannot convert or run it, or its process died of it.
        """
        answer = self._ask({"measure": to_data(workload), "full": full}, workload)
        return Sample.model_validate(answer["sample"]), bool(answer["quiet"])

    def run(self, workload: Workload) -> list[Array]:
        """Run a workload once, see ``Bench.run``.

        Raises:
            ArchsearchError: The runtime cannot convert or run it, or its process died of it.
        """
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            answer = self._ask({"run": to_data(workload), "folder": folder}, workload)
            files = [Path(folder) / f"{index}.npy" for index in range(answer["outputs"])]
            return [np.load(file, allow_pickle=False) for file in files]

    def convert(
        self, format: Format, workload: Workload, seed: int, folder: Path
    ) -> tuple[str, list[Input]]:
        """Convert a workload for a device, see ``Converter``.

        Raises:
            InputError: The other Python lacks something.
            ArchsearchError: It cannot convert it, or died of it.
        """
        request = {"convert": to_data(workload), "format": format, "seed": seed}
        answer = self._ask(request | {"folder": str(folder.resolve())}, workload)
        return answer["file"], [Input.model_validate(each) for each in answer["inputs"]]

    def export(self, network: UNetConfig, folder: Path) -> Message:
        """Convert a network with the weights in ``folder/state.npz`` for ExecuTorch, run it once on
        the inputs in ``folder/inputs.npz``, and write its output into ``folder/0.npy``.

        Returns:
            ``file``, the program in ``folder``, and the fields of
            ``archsearch.runtimes.executorch.Delegation``.

        Raises:
            InputError: The other Python lacks something.
            ArchsearchError: It cannot convert or run it, or died of it.
        """
        return self._ask({"export": to_data(network), "folder": str(folder.absolute())}, network)

    def _ask(self, request: Message, workload: Workload) -> Message:
        try:
            if self._process is None:
                self._start()
            assert self._process is not None
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):  # it has ended: reading says how
                print(json.dumps(request), file=self._process.stdin, flush=True)
            return _checked(self._read(f"{name_of(workload)}: {self.runtime}: its process"))
        except ArchsearchError:
            raise
        except BaseException:  # Ctrl-C while waiting: its answer would be taken for the next one's
            self._end(0)
            raise

    def _start(self) -> Message:
        settings = json.dumps(asdict(self.settings))
        module = ["-P", "-m", "archsearch.latency.process"]
        environment = os.environ | {
            "PYTHONPATH": str(self._folder / "path"),
            "TMPDIR": str(self._folder / "tmp"),
        }
        try:
            with (self._folder / "stderr").open("w") as log:
                self._process = subprocess.Popen(
                    [self._python, *module, "--runtime", self.runtime, "--settings", settings],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    text=True,
                    encoding="utf-8",
                )
        except OSError as error:
            raise InputError(
                f"--runtime-python {self._python}: does not start: {error.strerror or error}."
            ) from error
        answer = self._read(f"--runtime-python {self._python}: cannot be used, its process")
        if self._process is None:
            raise InputError(
                f"{answer['error']} It must be Python 3.11 or later with torch, numpy, pydantic, "
                f"PyYAML and the package of {self.runtime}."
            )
        return _checked(answer)

    def _read(self, subject: str) -> Message:
        # The next answer; how the process ended, as an error, where it gives none.
        process = self._process
        assert process is not None
        assert process.stdout is not None
        # there is never more than one answer under way, so nothing of it lies in our buffer yet
        if not select.select([process.stdout], [], [], PATIENCE_S)[0]:
            self._end(0)
            minutes = f"{PATIENCE_S / 60:.0f} minutes"
            return {"error": f"{subject} gave no answer for {minutes}.", "input": False}
        line = process.stdout.readline()
        if line.endswith("\n"):
            answer: Message = json.loads(line)
            return answer
        code = process.wait()
        self._end(0)
        log = (self._folder / "stderr").read_text(encoding="utf-8", errors="replace")
        said = log.strip()[-STDERR_TAIL:]
        last = f", and last said: {said.splitlines()[-1].rstrip('.')}" if said else ""
        how = f"ended with exit code {code}"
        if code < 0:
            known = -code in {number.value for number in signal.Signals}
            how = f"died of signal {signal.Signals(-code).name if known else -code}"
            how += " (the system's memory may have run out)" if -code == signal.SIGKILL else ""
        return {"error": f"{subject} {how}{last}.", "input": False}

    def _end(self, seconds: float) -> None:
        # Closes its input, and is forced where it is still there after ``seconds``.
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


def _checked(answer: Message) -> Message:
    if "error" in answer:
        raise (InputError if answer["input"] else ArchsearchError)(answer["error"])
    return answer


def main(arguments: list[str] | None = None) -> None:
    """Answer each line of the standard input until it ends: what ``Process`` starts."""
    parser = argparse.ArgumentParser(
        description="Measures and converts for archsearch latency; not meant for hands."
    )
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--settings", required=True, type=json.loads)
    given = parser.parse_args(arguments)
    # Ctrl-C reaches the whole group; who started this one ends it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # what libraries print, from Python or C, goes to the standard error
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    runtime, settings = get_runtime(given.runtime), MeasureSettings(**given.settings)
    with ExitStack() as stack:

        @cache
        def bench() -> Bench:
            return stack.enter_context(Bench(runtime, settings))

        def greet(_: Message) -> Message:
            return {"facts": asdict(facts(runtime)), "unavailable": runtime.available()}

        def answer(request: Message) -> Message:
            match request:
                case {"measure": workload, "full": full}:
                    sample, quiet = bench().measure(from_data(workload), full)
                    return {"sample": sample.model_dump(), "quiet": quiet}
                case {"run": workload, "folder": folder}:
                    outputs = bench().run(from_data(workload))
                    for index, output in enumerate(outputs):
                        np.save(Path(folder) / f"{index}.npy", output, allow_pickle=False)
                    return {"outputs": len(outputs)}
                case {"convert": workload, "format": format, "seed": seed, "folder": folder}:
                    convert = CONVERTERS[format]
                    file, inputs = convert(from_data(workload), seed, Path(folder))
                    return {"file": file, "inputs": [each.model_dump() for each in inputs]}
                case {"export": workload, "folder": folder}:
                    return _export(from_data(workload), Path(folder))
            raise ValueError(f"{sorted(request)} is no request")

        def say(work: Callable[[Message], Message], request: Message) -> bool:
            try:
                said, fine = work(request), True
            except ArchsearchError as error:
                said, fine = {"error": str(error), "input": isinstance(error, InputError)}, False
            except Exception as error:  # runtimes raise whatever they like
                said = {"error": f"{type(error).__name__}: {error}", "input": False}
                fine = False
            print(json.dumps(said), file=answers, flush=True)
            return fine

        if say(greet, {}):
            for line in sys.stdin:
                say(answer, json.loads(line))


def _export(workload: Workload, folder: Path) -> Message:
    module, _ = build(workload)
    with np.load(folder / "state.npz", allow_pickle=False) as held:
        module.load_state_dict({name: torch.from_numpy(held[name]) for name in held.files})
    with np.load(folder / "inputs.npz", allow_pickle=False) as held:
        inputs = tuple(torch.from_numpy(held[name]) for name in held.files)
    session = ExecutorchRuntime().convert(module, inputs, folder)
    np.save(folder / "0.npy", session.run()[0], allow_pickle=False)
    return {"file": "module.pte"} | session.delegation._asdict()


if __name__ == "__main__":
    main()
