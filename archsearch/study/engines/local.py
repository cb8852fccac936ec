"""Workers as processes of this machine, one thread each."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from archsearch.errors import ArchsearchError, InputError
from archsearch.study.rundir import RunDir

MAX_RESTARTS = 3
STOP_SECONDS = 30
TERMINATED = 130

# One thread a worker: two threads of one training wait for each other on a busy machine.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
QUIET = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}


class LocalEngine:
    """One process a worker; a process that dies is replaced, and its trial runs again.

    Args:
        module: What a worker process runs, with run, target and the parent's process id as
            arguments.
    """

    def __init__(self, module: str = "archsearch.study.worker") -> None:
        self.module = module

    def run(self, run: RunDir, target: int, workers: int, tick: Callable[[], None]) -> None:
        """Run the workers until all have ended on their own."""
        processes = {index: self._start(run, target, index) for index in range(workers)}
        restarts = 0
        try:
            while processes:
                time.sleep(0.5)
                tick()
                for index, process in list(processes.items()):
                    code = process.poll()
                    if code is None:
                        continue
                    del processes[index]
                    if code == 0:
                        continue
                    if code not in (TERMINATED, *range(-64, 0)) or restarts >= MAX_RESTARTS:
                        self._stop(list(processes.values()))
                        raise self._failure(run, index, code)
                    restarts += 1  # killed by a signal, out of memory perhaps: its trial is queued again by whoever sees it gone
                    processes[index] = self._start(run, target, index)
        except BaseException:
            self._stop(list(processes.values()))
            raise

    def _start(self, run: RunDir, target: int, index: int) -> "subprocess.Popen[bytes]":
        environment = os.environ | ONE_THREAD | QUIET
        if torch.cuda.is_available():
            every = ",".join(map(str, range(torch.cuda.device_count())))
            devices = (os.environ.get("CUDA_VISIBLE_DEVICES") or every).split(",")
            environment["CUDA_VISIBLE_DEVICES"] = devices[index % len(devices)]
        command = [sys.executable, "-m", self.module, str(run.path), str(target), str(os.getpid())]
        with _log(run, index).open("ab") as log:
            # Of its own session: Ctrl-C reaches us, and we pass it on, once.
            return subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def _stop(self, processes: "list[subprocess.Popen[bytes]]") -> None:
        for process in processes:
            process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def _failure(self, run: RunDir, index: int, code: int) -> ArchsearchError:
        log = _log(run, index)
        lines = [
            line
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
            if line.strip()
        ]
        words = (
            f"killed by signal {-code}; out of memory?"
            if code < 0
            else lines[-1]
            if lines
            else f"exit code {code}"
        )
        kind = InputError if code == InputError.exit_code else ArchsearchError
        return kind(f"worker {index} ended: {words} (whole log: {log})")


def _log(run: RunDir, index: int) -> Path:
    path = run.path / "logs" / f"worker-{index}.log"
    path.parent.mkdir(exist_ok=True)
    return path


def automatic_workers() -> int:
    """One worker a GPU, else one a core that this process may use."""
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
