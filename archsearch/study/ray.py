"""Workers as tasks of a Ray cluster; they need the run's folder on a file system that all nodes
share.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from archsearch.errors import ArchsearchError, require_extra
from archsearch.study.rundir import RunDir
from archsearch.study.worker import ENVIRONMENT, Target, work


def run_on_ray(
    run: RunDir, target: Target, count: int, tick: Callable[[], None], address: str | None = None
) -> None:
    """Run workers as Ray tasks, one core each (and one GPU where the cluster has any), until all
    have ended on their own.

    Args:
        run: The run.
        target: What to do.
        count: How many.
        tick: Called about once a second.
        address: Of the cluster; by default a local one is started.

    Raises:
        InputError: Ray is not installed.
        ArchsearchError: A worker failed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise require_extra("ray", "ray") from None
    options: dict[str, Any] = {"include_dashboard": False, "num_cpus": max(count, 1)}
    if address is not None:
        options = {"address": address}
    ray.init(
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": ENVIRONMENT},
        **options,
    )
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_work)
        pending = [task.remote(str(run.path.resolve()), target) for _ in range(count)]
        while pending:
            done, pending = ray.wait(pending, timeout=1)
            tick()
            for failure in filter(None, ray.get(done)):
                raise ArchsearchError(f"a worker ended: {failure}")
    finally:
        ray.shutdown()


def _work(path: str, target: Target) -> str | None:
    """Work in a Ray process; returns the message of a failure that has a name."""
    import torch

    torch.set_num_threads(1)
    try:
        work(RunDir(Path(path)), target)
    except ArchsearchError as error:
        return str(error)
    return None
