"""Workers as tasks of a Ray cluster; they need the run's folder on a file system that all nodes
share.
"""

import logging
import os
from collections.abc import Callable
from typing import Any

from archsearch.errors import ArchsearchError, require_extra
from archsearch.study.engines.local import ONE_THREAD, QUIET
from archsearch.study.rundir import RunDir


class RayEngine:
    """One Ray task a worker, one core each (and one GPU where the cluster has any)."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address

    def run(self, run: RunDir, target: int, workers: int, tick: Callable[[], None]) -> None:
        """Run the workers until all have ended on their own."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise require_extra("ray", "ray") from None
        options: dict[str, Any] = (
            {"include_dashboard": False} if self.address is None else {"address": self.address}
        )
        if self.address is None:
            options["num_cpus"] = max(workers, 1)
        ray.init(
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": ONE_THREAD | QUIET},
            **options,
        )
        try:
            resources = ray.cluster_resources()
            gpus = 1 if resources.get("GPU") else 0
            task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_work)
            pending = [task.remote(str(run.path.resolve()), target) for _ in range(workers)]
            while pending:
                done, pending = ray.wait(pending, timeout=1)
                tick()
                for failure in filter(None, ray.get(done)):
                    raise ArchsearchError(f"a worker ended: {failure}")
        finally:
            ray.shutdown()


def _work(path: str, target: int) -> str | None:
    """Work in a Ray process; returns the message of a failure that has a name."""
    from pathlib import Path

    import torch

    from archsearch.study.worker import Worker

    torch.set_num_threads(1)
    try:
        Worker(RunDir(Path(path)), target).work()
    except ArchsearchError as error:
        return str(error)
    return None
