"""Ray: trials as trials of Ray Tune, whose search algorithm is the study's ask and tell. Nodes need
the run's folder on a file system that they share.

The run's database is the truth: a run that goes on begins a new Tune experiment and asks the study
for what is left. What Ray writes for itself is never read, and removed at the end.

Only trials are Tune's. Finishing jobs and grids are plain Ray tasks: workers that look for
themselves what there is to do, since a job needs no search algorithm, and one of them may take a
second while Tune needs two to begin it.
"""

import logging
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, chdir
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from archsearch.errors import ArchsearchError, InputError, require_extra
from archsearch.study.deaths import outcome_of
from archsearch.study.notes import notes_of
from archsearch.study.rundir import RunDir
from archsearch.study.search import Further
from archsearch.study.spec import EngineSpec
from archsearch.study.store import Store
from archsearch.study.trials import MAX_KILLS, Asked, Trials
from archsearch.study.worker import (
    ENVIRONMENT,
    MAX_RESTARTS,
    Target,
    Worker,
    import_path,
    work,
)

ANSWER_SECONDS = 5.0
"""How long a cluster may take to answer; without an answer Ray would go on trying for minutes."""
OBJECT_STORE_BYTES = 100 * 1024**2
"""Ray would set aside a third of the memory for objects; ours are the numbers of trials."""
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a study's relative paths go on from the folder it was begun in
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
}
LEAST_RAY = (2, 52)
"""The first version that can ask for a token; without one every user of the machine, and whoever
reaches its ports, may run code in the cluster."""
_FOLDER = "ARCHSEARCH_FOLDER"
_GUARDED = {"RAY_AUTH_MODE": "token"}
# How HTTP/2 begins: the preface, and a frame of settings, which the other side has to send too.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4

Tell = Callable[[str], None]


def run_on_ray(
    run: RunDir,
    target: Target,
    count: int | None,
    tick: Callable[[], None],
    address: str | None = None,
    tell: Tell | None = None,
) -> None:
    """Do on a Ray cluster what there is to do in a run. A trial whose process or node dies is begun
    again by Ray, elsewhere where need be, and goes on from its checkpoint.

    Args:
        run: The run; its study says what a trial takes, ``engine.cpus`` and ``engine.gpus``.
        target: What to do.
        count: How many trials at a time; None is as many as the cluster has room for.
        tick: Called about once a second.
        address: Of the cluster, ``HOST:PORT`` or ``auto``; by default a local one is started.
        tell: Is told in a sentence what was begun again.

    Raises:
        InputError: Ray is not installed, the cluster does not answer, or no node of it has what a
            trial takes.
        ArchsearchError: A trial failed.
    """
    for name, value in (_QUIET | (_GUARDED if address is None else {})).items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.tune
    except ImportError:
        raise require_extra("ray", "ray") from None
    setting, stack = run.setting(), ExitStack()
    ours = not ray.is_initialized()
    try:
        if ours:
            empty = stack.enter_context(TemporaryDirectory(prefix="archsearch-ray-"))
            _connect(ray, setting.spec.engine, count, address, empty)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        needs = _needs(setting.spec.engine, nodes)
        room = sum(_room(node, needs) for node in nodes)
        if room == 0:
            raise InputError(
                f"engine: a trial takes {needs['cpu']:g} cores and {needs['gpu']:g} GPUs "
                "(engine.cpus, engine.gpus), but no node of the Ray cluster has them."
            )
        count = count or room
        if target != "grid":
            trials = Trials(run, setting, Store(run, setting))
            if trials.finished() < target:
                _tune(trials, target, count, needs, tick, tell)
        task = ray.remote(num_cpus=needs["cpu"], num_gpus=needs["gpu"], max_retries=MAX_RESTARTS)
        remote = task(_work)
        pending = [remote.remote(str(run.path.resolve()), target) for _ in range(count)]
        while pending:
            done, pending = ray.wait(pending, timeout=1)
            tick()
            for failure in filter(None, ray.get(done)):
                raise ArchsearchError(f"a worker ended: {failure}")
    finally:
        if ours:
            ray.shutdown()
        stack.close()


def _connect(
    ray: Any, engine: EngineSpec, count: int | None, address: str | None, empty: str
) -> None:
    """Connect to a cluster, or start one here, from an empty folder.

    Raises:
        InputError: It does not answer.
    """
    options: dict[str, Any] = {"address": address}
    if address is None:
        if tuple(map(int, ray.__version__.split(".")[:2])) < LEAST_RAY:
            raise InputError(
                f"ray {ray.__version__} lets every user of this machine run code in a cluster that "
                f"it starts: {'.'.join(map(str, LEAST_RAY))} is needed. Install it with: "
                "pip install -U 'archsearch[ray]'"
            )
        options = {"address": "local", "include_dashboard": False}
        options["object_store_memory"] = OBJECT_STORE_BYTES
        if count is not None:
            options["num_cpus"] = max(1, math.ceil(count * engine.cpus))
    else:
        require_answer(address)
    environment = ENVIRONMENT | _QUIET | import_path()
    if address is None:
        environment |= {_FOLDER: os.getcwd()}
    try:
        # Ray's workers import first of all what lies in the folder that it is started from.
        with chdir(empty):
            ray.init(
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": environment},
                **options,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address is None:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"--address {address}: there is no Ray cluster: {reason}") from error


def require_answer(address: str) -> None:
    """Refuse a cluster that does not answer; ``auto`` is left to Ray.

    Raises:
        InputError: It does not, or the address is none.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not re.fullmatch("[0-9]{1,5}", port):
        raise InputError(
            f"--address {address}: is not the address of a Ray cluster. Allowed are HOST:PORT, as "
            "`ray start --head` prints it, and auto."
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.sendall(_PREFACE)
            answer = connection.recv(9)
        reason = "what answers there is not Ray"
    except (OSError, OverflowError) as error:
        answer, reason = b"", str(error)
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise InputError(
            f"--address {address}: no Ray cluster answers there: {reason}. `ray start --head` "
            "starts one and prints its address."
        )


def _needs(engine: EngineSpec, nodes: list[dict[str, float]]) -> dict[str, float]:
    """What a trial takes of a cluster."""
    gpus = engine.gpus
    if gpus == "auto":
        gpus = 1.0 if any(node.get("GPU") for node in nodes) else 0.0
    return {"cpu": engine.cpus, "gpu": gpus}


def _room(node: dict[str, float], needs: dict[str, float]) -> int:
    """How many trials a node has room for."""
    shares = [node.get(name.upper(), 0) / needed for name, needed in needs.items() if needed]
    return int(min(shares) + 1e-9)


def _tune(
    trials: Trials,
    target: int,
    count: int,
    needs: dict[str, float],
    tick: Callable[[], None],
    tell: Tell | None,
) -> None:
    """Let Ray Tune run the trials of a study until ``target`` are finished.

    Raises:
        ArchsearchError: A trial failed; the others under way were finished.
    """
    from ray import tune

    run = trials.run.path.resolve()
    folder = run / "ray"
    shutil.rmtree(folder, ignore_errors=True)
    study = _study_as_searcher(trials, target)
    tuner = tune.Tuner(
        tune.with_resources(_train, needs),
        tune_config=tune.TuneConfig(
            search_alg=study,
            num_samples=-1,  # until the study has enough
            max_concurrent_trials=count,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=MAX_KILLS),
            callbacks=[_watcher(tick, tell)],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except BaseException:
        import ray

        ray.shutdown()  # first: whoever is still at work would not know that its trial is another's
        study.give_back()
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    study.give_back()
    if study.failure:
        raise ArchsearchError(f"a trial failed: {study.failure}")


def _study_as_searcher(trials: Trials, target: int) -> Any:
    """The study as a search algorithm of Ray Tune: what it suggests is the number of a trial.

    Trials tell the database themselves what came of them, so that nothing is lost with the process
    that coordinates them; it holds the claims, since a trial may go from one process to another.
    """
    from ray.tune.search import Searcher

    class Asking(Searcher):  # type: ignore[misc]
        def __init__(self, trials: Trials, target: int) -> None:
            super().__init__()
            self.trials, self.target = trials, target
            self.failure = ""
            self.under_way: dict[str, int | Further] = {}

        __reduce__ = _nothing_to_keep

        def set_search_properties(self, *_: Any, **__: Any) -> bool:
            return True

        def suggest(self, trial_id: str) -> Any:
            if self.failure:
                return Searcher.FINISHED
            todo = self.trials.next(self.target)
            config = {"run": str(self.trials.run.path.resolve()), "target": self.target}
            if isinstance(todo, Asked):
                self.under_way[trial_id] = todo.number
                return config | {"trial": todo.number}
            if todo is not None:
                self.under_way[trial_id] = todo.further
                further = [todo.further.budget, todo.further.seed]
                return config | {"trial": todo.further.number, "further": further}
            if self.trials.running() or self.trials.further_under_way():
                self.trials.requeue_dead()
                return None
            return Searcher.FINISHED

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            number = self.under_way.pop(trial_id)
            if result and result.get("failure"):
                self.failure = result["failure"]
            if isinstance(number, Further):
                if error:
                    self.trials.out_of_memory.add(number)
                self.trials.store.claims.release(number.claim)
                return
            if error:
                reason = f"its process died {MAX_KILLS + 1} times"
                self.trials.end(number, outcome_of(notes_of(self.trials.all()[number])), reason)
            self.trials.let_go(number)

        def give_back(self) -> None:
            for number in self.under_way.values():
                if isinstance(number, Further):
                    self.trials.store.claims.release(number.claim)
                else:
                    self.trials.give_back(number)
            self.under_way.clear()

        def save(self, checkpoint_path: str) -> None:
            """Save nothing: the database has it all."""

        def restore(self, checkpoint_path: str) -> None:
            raise AssertionError("nothing is restored from what Ray keeps")

        def save_to_dir(self, *_: Any, **__: Any) -> None:
            """The same, as Tune calls it."""

    return Asking(trials, target)


def _watcher(tick: Callable[[], None], tell: Tell | None) -> Any:
    from ray.tune import Callback

    class Watcher(Callback):  # type: ignore[misc]
        def __init__(self, tick: Callable[[], None], tell: Tell | None) -> None:
            self.tick, self.tell, self.ticked = tick, tell, 0.0

        __reduce__ = _nothing_to_keep

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if time.monotonic() - self.ticked > 1:
                self.ticked = time.monotonic()
                self.tick()

        def on_trial_recover(self, *_: Any, trial: Any, **__: Any) -> None:
            if self.tell is not None:
                self.tell(f"trial {trial.config['trial']}: its process died; Ray begins it again.")

    return Watcher(tick, tell)


def _nothing_to_keep(_: Any) -> tuple[Any, ...]:
    """What Ray pickles of ours, for runs that it would restore: nothing."""
    return (dict, ())


@lru_cache(maxsize=1)
def _worker(run: str, target: int) -> Worker:
    """This process's worker: Ray uses a process for one trial after the other."""
    return Worker(RunDir(Path(run)), target)


def _train(config: dict[str, Any]) -> None:
    """A trial of Ray Tune. What fails by name is told; only a process that dies is tried again."""
    import torch
    from ray import tune

    _enter_folder()
    torch.set_num_threads(1)
    failure = ""
    try:
        worker, number = _worker(config["run"], config["target"]), config["trial"]
        if "further" in config:
            worker.take_further(worker.trials.further(Further(number, *config["further"])))
        else:
            worker.take_up(number)
    except ArchsearchError as error:
        failure = str(error)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    tune.report({"failure": failure})


def _enter_folder() -> None:
    """Go where the run was begun: from there a study's relative paths go on."""
    if folder := os.environ.get(_FOLDER):
        os.chdir(folder)


def _work(path: str, target: Target) -> str | None:
    """Work in a Ray process; returns the message of a failure that has a name."""
    import torch

    _enter_folder()
    torch.set_num_threads(1)
    try:
        work(RunDir(Path(path)), target)
    except ArchsearchError as error:
        return str(error)
    return None
