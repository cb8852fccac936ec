"""Optuna's study of a run: creation, asking for trials, and the lease by which a killed trial is
seen and run again.
"""

import copy
import hashlib
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import optuna
import psutil
from filelock import FileLock
from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from archsearch.diffusion.sample import Sampling
from archsearch.errors import ArchsearchError, InputError
from archsearch.search_space.space import Dimension, Point, Space, label
from archsearch.study.rundir import RunDir
from archsearch.study.setting import STEPS_PARAMETER, Setting
from archsearch.study.spec import Sampler


def suggest(trial: Trial, space: Space) -> Point:
    """Let the sampler choose a point of the space."""

    def choose(name: str, dimension: Dimension) -> Any:
        if dimension.range is not None:
            return trial.suggest_int(name, *dimension.range, step=dimension.step)
        by_label = {label(choice): choice for choice in dimension.values}
        return by_label[trial.suggest_categorical(name, list(by_label))]

    return space.choose(choose)


def suggest_steps(trial: Trial, sampling: Sampling) -> int | None:
    """Let the sampler choose the number of steps, where it is searched."""
    return (
        trial.suggest_categorical(STEPS_PARAMETER, list(sampling.searched))
        if sampling.searched
        else None
    )


def make_sampler(sampler: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    """Build the Optuna sampler."""
    match sampler.name:
        case "nsga2":
            return optuna.samplers.NSGAIISampler(
                population_size=sampler.population_size or 50, seed=seed
            )
        case "tpe":
            startup = 10 if sampler.startup_trials is None else sampler.startup_trials
            return optuna.samplers.TPESampler(
                n_startup_trials=startup, multivariate=True, group=True, seed=seed
            )
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)


HEARTBEAT_SECONDS = 10
LEASE_SECONDS = 60
MAX_KILLS = 3
MAX_REJECTIONS = 2000

# Outcomes that end a trial for good, next to "complete".
FINAL_OUTCOMES = ("diverged", "infeasible: memory")
OUTSIDE_FAMILY = "infeasible: outside the published family"
REJECTED = (
    "infeasible: limits",
    "infeasible: rules",
    "infeasible: latency entry missing",
    OUTSIDE_FAMILY,
)
INTERRUPTED = "interrupted"

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_storage(run: RunDir) -> RDBStorage:
    """Open the run's SQLite storage.

    Raises:
        InputError: The file is not a database, or damaged.
        ArchsearchError: The disk is full or the file cannot be written.
    """
    try:
        return RDBStorage(
            f"sqlite:///{run.database}",
            engine_kwargs={"connect_args": {"timeout": 60}},
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=LEASE_SECONDS,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )
    except (
        Exception
    ) as error:  # SQLAlchemy's and sqlite3's own classes, and alembic's for unknown versions
        message = str(getattr(error, "orig", None) or error).splitlines()[0]
        if "disk" in message or "readonly" in message or "unable to open" in message:
            raise ArchsearchError(f"{run.database}: cannot be written: {message}.") from error
        raise InputError(f"{run.database}: cannot be read as a study: {message}.") from error


def create_study(run: RunDir, setting: Setting) -> optuna.Study:
    """Create the run's study, or take it up, and queue what is to be tried first and was not yet."""
    study = optuna.create_study(
        storage=open_storage(run),
        study_name=setting.name,
        directions=list(setting.spec.objectives.values()),
        load_if_exists=True,
    )
    study.set_metric_names(list(setting.spec.objectives))
    with lock(run):
        queued = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
        searched = setting.spec.sampling.searched
        if "presets" in setting.spec.search.first:
            # With every number of steps: the preset is what the others are compared with, and all
            # share one training.
            wanted = [
                (named(name, n), point, n)
                for name, point in setting.presets().items()
                for n in searched or (None,)
            ]
            for name, point, steps in wanted:
                if not any(attrs.get("preset") == name for attrs in queued):
                    _enqueue(study, point, steps, {"preset": name})
        if "cheapest" in setting.spec.search.first and not any(
            "cheapest" in attrs for attrs in queued
        ):
            _enqueue(study, setting.cheapest(), min(searched, default=None), {"cheapest": True})
    return study


def named(preset: str, steps: int | None) -> str:
    """What a preset's trial is called: where steps are searched, each number of them makes another."""
    return preset if steps is None else f"{preset}, {steps} step{'' if steps == 1 else 's'}"


def _enqueue(study: optuna.Study, point: Point, steps: int | None, attrs: dict[str, Any]) -> None:
    chosen = {} if steps is None else {STEPS_PARAMETER: steps}
    study.enqueue_trial(
        {key: label(value) for key, value in point.items()} | chosen, user_attrs=attrs
    )


def load_study(run: RunDir, setting: Setting) -> optuna.Study:
    """Load the run's study.

    Raises:
        InputError: There is none.
    """
    if not run.database.is_file():
        raise InputError(f"{run.path}: has no study.db yet; `archsearch run` starts it.")
    try:
        return optuna.load_study(storage=open_storage(run), study_name=setting.name)
    except KeyError as error:
        raise InputError(f"{run.database}: holds no study named '{setting.name}'.") from error


def outcome(trial: FrozenTrial) -> str:
    """How a trial ended, in words; ``running`` or ``waiting`` before that."""
    if trial.state == TrialState.COMPLETE:
        return "complete"
    if trial.state == TrialState.RUNNING:
        return "running"
    if trial.state == TrialState.WAITING:
        return "waiting"
    return str(trial.user_attrs.get("outcome", INTERRUPTED))


def is_finished(trial: FrozenTrial) -> bool:
    """Whether a trial counts towards the number that was asked for."""
    return outcome(trial) in ("complete", *FINAL_OUTCOMES)


def ask(study: optuna.Study, run: RunDir, setting: Setting, target: int) -> Trial | None:
    """Take the next trial, or None when ``target`` are finished or running.

    One worker at a time: counting and asking are one step. The sampler is seeded by the study's
    seed and the number of trials asked for before.
    """
    with lock(run):
        trials = study.get_trials(deepcopy=False)
        busy = sum(is_finished(trial) or trial.state == TrialState.RUNNING for trial in trials)
        if busy >= target:
            return None
        asked = sum(trial.state != TrialState.WAITING for trial in trials)
        study.sampler = make_sampler(
            setting.spec.search.sampler, _seed(setting.spec.search.seed, asked)
        )
        trial = study.ask()
        trial.set_user_attr("worker", _identity(os.getpid()))
        return trial


def _seed(study_seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{study_seed}:{number}".encode()).digest()[:4], "big")


@contextmanager
def lock(run: RunDir) -> Iterator[None]:
    """Hold the run's lock: asking, giving back and clearing up happen one at a time."""
    with FileLock(run.locks / "study.lock"):
        yield


@contextmanager
def heartbeat(study: optuna.Study, trial: Trial) -> Iterator[None]:
    """Renew the lease of a trial while it runs."""
    storage = (
        study._storage
    )  # Optuna offers heartbeats to its own loop only; with ask and tell we beat ourselves
    assert isinstance(storage, BaseHeartbeat)
    done = threading.Event()

    def beat() -> None:
        while not done.is_set():
            with suppress(
                SQLAlchemyError, OptunaError
            ):  # a busy database is tried again with the next beat
                storage.record_heartbeat(trial._trial_id)
            done.wait(HEARTBEAT_SECONDS)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def give_back(study: optuna.Study, number: int) -> None:
    """End a running trial as interrupted and queue it again; call it under the lock.

    It is queued before it is ended: cut off between the two, it runs twice, and the second time is
    answered from the store.
    """
    frozen = next(trial for trial in study.get_trials(deepcopy=True) if trial.number == number)
    if frozen.state != TrialState.RUNNING:
        return
    again = copy.deepcopy(frozen)
    again.user_attrs.pop("worker", None)
    RetryHeartbeatStaleTrialCallback()(study, again)
    study._storage.set_trial_user_attr(frozen._trial_id, "outcome", INTERRUPTED)
    study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


def requeue_dead(study: optuna.Study, run: RunDir) -> int:
    """Queue again what workers left behind that are gone. Returns how many."""
    with lock(run):
        dead = [
            trial
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if _is_gone(trial.user_attrs.get("worker"))
        ]
        for trial in dead:
            kills = [*trial.system_attrs.get("kills", []), trial.number]
            study._storage.set_trial_system_attr(trial._trial_id, "kills", kills)
            if len(kills) < MAX_KILLS:
                give_back(study, trial.number)
                continue
            # Nobody says who killed a process; one and the same trial, every time, is the memory's
            # doing.
            study._storage.set_trial_user_attr(trial._trial_id, "outcome", "infeasible: memory")
            study._storage.set_trial_user_attr(
                trial._trial_id, "reason", f"its worker was killed {len(kills)} times"
            )
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        optuna.storages.fail_stale_trials(study)
        return len(dead)


def _identity(pid: int) -> list[Any]:
    return [socket.gethostname(), pid, psutil.Process(pid).create_time()]


def _is_gone(worker: list[Any] | None) -> bool:
    """Whether the worker is known to be dead. Of a worker on another host only the heartbeat tells."""
    if worker is None:
        return True  # asked for and killed before it could sign; asking holds the lock, so nobody is in between now
    host, pid, started = worker
    if host != socket.gethostname():
        return False
    try:
        return bool(abs(psutil.Process(pid).create_time() - started) > 1)
    except psutil.NoSuchProcess:
        return True
