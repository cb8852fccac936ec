"""What the death of a worker says of the trial that it was at.

Only a worker that died while the process lives that started it may have died of its trial; where a
whole run was killed, or its machine went down, nobody is to blame. And only the system's own
counters tell that it was memory.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from archsearch.study.claims import process_space

_COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))


def worker_facts() -> dict[str, Any]:
    """What a trial notes of the process that runs it."""
    return {
        "processes": process_space(),
        "coordinator": os.getppid(),
        "out_of_memory": out_of_memory_kills(),
    }


def is_suspect(trial: Mapping[str, Any]) -> bool:
    """Whether a trial may be to blame for the death of its worker.

    Args:
        trial: Its notes.
    """
    worker = trial.get("worker", {})
    here = worker.get("processes") == process_space()
    return here and psutil.pid_exists(worker.get("coordinator", -1))


def outcome_of(trial: Mapping[str, Any]) -> str:
    """How a trial ends whose worker died again and again: of memory, where the system has killed
    for it since the trial began, else ``killed``.
    """
    before = trial.get("worker", {}).get("out_of_memory")
    of_memory = before is not None and out_of_memory_kills() > before
    return "infeasible: memory" if of_memory else "killed"


def out_of_memory_kills() -> int:
    """How many processes the kernel has killed for memory since it started, and in this control
    group; 0 where it does not say (it does on Linux).
    """
    found = 0
    for path in _COUNTERS:
        with suppress(OSError, ValueError):
            for line in path.read_text(encoding="ascii").splitlines():
                name, _, count = line.partition(" ")
                found += int(count) if name == "oom_kill" else 0
    return found
