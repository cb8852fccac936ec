"""Workers: processes that take what there is to do in a run until it is done:
``python -m archsearch.study.worker RUN TARGET``. TARGET is a number of trials, or ``grid``.

Whoever starts one holds the other end of its standard input: a byte asks it to end after its
current trial, and the end of the input ends it at once, since nobody would ever stop it.
"""

import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from sqlalchemy.exc import SQLAlchemyError

import archsearch
from archsearch import documents, files
from archsearch.data.prepare import prepare
from archsearch.diffusion.recipe import is_out_of_memory
from archsearch.diffusion.trainer import TrainingMemoryError
from archsearch.errors import ArchsearchError, InputError, words_of
from archsearch.study.finish import REPETITION, repetitions, showings
from archsearch.study.grid import Grid
from archsearch.study.notes import TRAINING, notes_of
from archsearch.study.results import Results
from archsearch.study.rundir import RunDir
from archsearch.study.setting import STEPS, check_data
from archsearch.study.spec import MEASURED, EngineSpec
from archsearch.study.store import Record, Store
from archsearch.study.trials import Asked, FurtherTraining, Trials

POLL_SECONDS = 0.5
ROUNDS = 3
DOUBTFUL = 0.05
"""Below this chance to be on the front the weights of a trial are not kept during a search."""
DETAILS = ("samples", "train_seconds", "scoring_seconds", "train_loss", "capped")
"""Of a training, what is noted with its trial."""
PROGRESS_SECONDS = 2.0
MAX_RESTARTS = 3
"""How often in a row workers are replaced that died within ``PATIENCE_SECONDS``."""
PATIENCE_SECONDS = 600
STOP_SECONDS = 30
TERMINATED = 130
REPLACED = 131
"""Exit code of a worker that ended because it was asked to."""
MEMORY_GRACE = 1.5
"""A worker that holds so many times its limit is ended within its trial, not after it."""
MEMORY_SHARE = 0.6
"""Share of the machine's memory that all workers may hold where a study does not say."""
METRICS_FILE = "metrics.json"

_END = b"e"

Target = int | Literal["grid"]
"""What workers are to do: finish so many trials, or train the cells of the run's grid."""

# One thread a worker: two threads of one training wait for each other on a busy machine.
ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def open_store(run: RunDir) -> Store:
    """The store of a run, its data prepared, so that networks can be trained.

    Raises:
        InputError: The data are not there, or have changed since the run began.
    """
    setting = run.setting()
    check_data(setting.document, setting.spec)
    return Store(run, setting, prepare(setting.spec.data, setting.spec.proxy.latent))


def run_trial(trials: Trials, asked: Asked) -> None:
    """Train the proxy of a candidate, take its scores, and tell them.

    Raises:
        TrainingMemoryError: Memory ran out.
    """
    trial, candidate, store = asked.trial, asked.candidate, trials.store
    key, told = store.key(store.setting.proxy(candidate.network)), 0.0

    def progress(samples: int, _: float) -> None:
        nonlocal told
        if time.monotonic() - told > PROGRESS_SECONDS:
            # With the key, by which whoever looks at the run finds the training's log.
            trial.set_user_attr(TRAINING, {"key": key, "samples_seen": samples})
            told = time.monotonic()

    record = store.score(candidate.network, store.setting.spec.budgets[0], progress=progress)
    known = {"key": record.key, "from_store": record.from_store}
    if record.outcome != "complete":
        trials.end(trial.number, record.outcome, record.details["reason"], **known)
        return
    scores = dict(record.scores)
    if wanted := [name for name in store.setting.spec.objectives if name in MEASURED]:
        scores |= store.metrics(record, wanted, candidate.steps)
    metrics = trial_metrics(
        record, candidate.costs.scores | scores, candidate.costs.note, candidate.steps
    )
    files.write_json(trials.run.trial(trial.number) / METRICS_FILE, metrics)
    trials.run.artifacts.push(f"trials/{trial.number}/{METRICS_FILE}")
    details = {name: record.details[name] for name in DETAILS if name in record.details}
    trials.tell(trial, scores, known | details)


def run_further(trials: Trials, todo: FurtherTraining) -> None:
    """Train a trial's network for longer, or once more with another seed, and take what the study
    searches by.

    Raises:
        TrainingMemoryError: Memory ran out.
    """
    store, further = trials.store, todo.further
    record = store.score(todo.network, further.budget, further.seed)
    wanted = [name for name in store.setting.spec.objectives if name in MEASURED]
    if record.counts and wanted:
        store.metrics(record, wanted, todo.steps)
    if further.seed:
        store.files.drop(record.name)
    elif record.counts:
        name = f"trials/{further.number}/{METRICS_FILE}"
        path = trials.run.path / name
        known: dict[str, Any] = {"schema": 1, "key": record.key, "scores": {}}
        if trials.run.artifacts.fetch(name) is not None:
            known |= documents.read(path).data
        known |= {"scores": known["scores"] | record.scores, "details": record.details}
        files.write_json(path, known)
        trials.run.artifacts.push(name)


def trial_metrics(
    record: Record, scores: Mapping[str, float], note: str, steps: int | None
) -> dict[str, Any]:
    """What ``metrics.json`` of a trial holds when it has been scored.

    Args:
        record: Of its training.
        scores: Its costs and its scores.
        note: What its latencies rest on, where that is not measured units alone.
        steps: Steps of its pictures, where these are searched.
    """
    metrics: dict[str, Any] = {
        "schema": 1,
        "key": record.key,
        "scores": dict(scores),
        "details": record.details,
    }
    metrics |= {"latency_note": note} if note else {}
    return metrics | ({} if steps is None else {STEPS: steps})


def _never() -> bool:
    return False


class Worker:
    """Runs trials of one run, one after the other, on one thread or one accelerator.

    Args:
        run: The run.
        target: How many trials are to be finished.
        is_over: Asked between two trials: whether to end although there is more to do.
    """

    def __init__(self, run: RunDir, target: int, is_over: Callable[[], bool] = _never) -> None:
        self.run, self.target, self.is_over = run, target, is_over
        self.store = open_store(run)
        self.setting = self.store.setting
        self.trials = Trials(run, self.setting, self.store)

    def work(self) -> None:
        """Run trials until ``target`` are finished or time is up, then the jobs that finish the
        run.

        What a worker that died has left comes first, so that with one worker the trials keep their
        order.
        """
        self.trials.requeue_dead()
        while not self.is_over():
            todo = self.trials.next(self.target)
            if isinstance(todo, Asked):
                self._guarded(todo)
            elif todo is not None:
                self._go_further(todo)
            elif self.trials.running() or self.trials.further_under_way():
                self.trials.requeue_dead()
                time.sleep(POLL_SECONDS)
            else:
                break
        for _ in range(ROUNDS):  # what they say may make another the strongest rival
            results = Results(self.trials)
            shown = len(results.shown())
            for seed in repetitions(results):
                if self.is_over():
                    return
                complete = self.trials.complete()
                if self.trials.pace.fits(complete, shown, seed.samples, seed.macs):
                    seed.run_once(self.store)
            while self.store.claims.held_with(REPETITION) and not self.is_over():
                time.sleep(POLL_SECONDS)
        for wait in (False, True):  # then for those that others are at, on any machine
            for job in showings(Results(self.trials)):
                if self.is_over():
                    return
                if job.seconds <= self.store.clock.left():
                    job.run_once(self.store, wait)
        if not self.is_over():
            self._drop_weights(ended=True)

    def _go_further(self, todo: FurtherTraining) -> None:
        try:
            self.take_further(todo)
        finally:
            self.store.claims.release(todo.further.claim)
        self._drop_weights()

    def take_further(self, todo: FurtherTraining) -> None:
        """Do a further training that somebody holds; without memory it is left out here."""
        try:
            run_further(self.trials, todo)
        except Exception as error:
            if not isinstance(error, TrainingMemoryError) and not is_out_of_memory(error):
                raise
            self.trials.out_of_memory.add(todo.further)

    def take_up(self, number: int) -> None:
        """Run a trial that another process has asked for, and holds; one that has ended takes no
        time.
        """
        if asked := self.trials.take_up(number):
            self._guarded(asked)

    def _guarded(self, asked: Asked) -> None:
        """Run a trial; whatever stops it, it ends with an outcome that has a name."""
        try:
            run_trial(self.trials, asked)
        except (KeyboardInterrupt, SystemExit):
            self.trials.give_back(asked.number)
            raise
        except TrainingMemoryError as error:
            self.trials.end(asked.number, error.outcome, str(error))
        except UpdateFinishedTrialError:
            return  # the claim was lost (the machine slept, say): the trial runs elsewhere
        except (ArchsearchError, OSError, SQLAlchemyError, OptunaError):
            with suppress(Exception):  # a full disk, say: not the candidate's doing
                self.trials.give_back(asked.number)
            raise
        except Exception as error:
            if is_out_of_memory(error):
                self.trials.end(asked.number, "infeasible: memory", str(error))
                return
            self.trials.end(asked.number, "failed", f"{type(error).__name__}: {error}")
            raise
        else:
            if asked.candidate.steps is None:  # else another may sample these weights too
                self._drop_weights()

    def _drop_weights(self, ended: bool = False) -> None:
        """Keep the weights of the front and the presets only, among those of trials; before the end
        also of what may yet be on the front. Those that are gone are made again of checkpoints.
        """
        results = Results(self.trials)
        with self.store.claims.held("dropping weights", wait=False) as mine:
            if not mine:
                return
            keep = {f"{trial.key}-{trial.budget}" for trial in results.shown()}
            for trial in self.trials.complete():
                chance = results.beliefs().chances.get(trial.number, 1.0)
                for budget in self.setting.spec.budgets:
                    name = f"{notes_of(trial)['key']}-{budget}"
                    if name not in keep and (ended or chance < DOUBTFUL):
                        self.store.files.drop(name, checkpoint=False)


# Processes


@dataclass
class _Process:
    """A worker's process."""

    popen: "subprocess.Popen[bytes]"
    began: float
    ending: bool = False
    """Whether it was asked to end after its current trial."""
    deadline: float | None = None
    """When it is killed, having been told to end at once."""


def run_workers(
    run: RunDir,
    target: Target,
    count: int,
    tick: Callable[[], None],
    memory_gb: float | None = None,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Run workers as processes of this machine until all have ended on their own.

    A process that dies is replaced; its trial runs again. So is one that outgrows its memory: it is
    asked to end after its current trial, and where it goes on growing it gives that back and ends
    at once.

    Args:
        run: The run.
        target: What to do.
        count: How many.
        tick: Called about twice a second.
        memory_gb: What a worker may hold, in GB; None sets no limit.
        tell: Is told in a sentence which worker was replaced, and why.

    Raises:
        ArchsearchError: A worker failed; the message has its last words.
        KeyboardInterrupt: The user stopped it; running trials were given back.
    """
    processes = {index: _start(run, target, index) for index in range(count)}
    restarts = 0

    def say(index: int, words: str) -> None:
        with _log(run, index).open("a", encoding="utf-8") as file:
            file.write(f"worker {index} {words}\n")
        if tell is not None:
            tell(f"worker {index} {words}")

    try:
        while processes:
            time.sleep(POLL_SECONDS)
            tick()
            for index, process in list(processes.items()):
                if (code := process.popen.poll()) is None:
                    if memory_gb is not None:
                        _watch_memory(process, memory_gb, lambda w, i=index: say(i, w))  # type: ignore[misc]
                    continue
                del processes[index]
                if code == 0:
                    continue
                if code != REPLACED:
                    # Interrupted while it was importing, a library may end it in any way.
                    interrupted = process.deadline is not None
                    if not interrupted and code not in (TERMINATED, *range(-64, 0)):
                        raise _failure(run, index, code)
                    lived = time.monotonic() - process.began
                    restarts = restarts + 1 if lived < PATIENCE_SECONDS else 1
                    if restarts > MAX_RESTARTS:
                        raise (
                            _outgrown(index, memory_gb)
                            if process.deadline
                            else _failure(run, index, code)
                        )
                    if process.deadline is None:
                        # Out of memory perhaps: whoever sees it gone queues its trial.
                        say(index, f"was ended by signal {abs(code)}; another takes its place.")
                processes[index] = _start(run, target, index)
    except BaseException:
        for process in processes.values():
            process.popen.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        for process in processes.values():
            try:
                process.popen.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.popen.kill()
        raise


def _watch_memory(process: _Process, limit: float, say: Callable[[str], None]) -> None:
    """Let a worker that holds more than ``limit`` GB end."""
    if process.deadline is not None:
        if time.monotonic() > process.deadline:
            process.popen.kill()
        return
    held = held_bytes(process.popen.pid) / 1e9
    words = f"holds {held:.2f} GB, but engine.memory_gb is {limit:g}"
    if held > MEMORY_GRACE * limit:
        say(f"{words}: its trial is queued again, and another worker takes its place now.")
        process.deadline = time.monotonic() + STOP_SECONDS
        process.popen.send_signal(signal.SIGINT)
    elif held > limit and not process.ending:
        say(f"{words}: another takes its place after its current trial.")
        process.ending = True
        assert process.popen.stdin
        with suppress(OSError):  # it has just ended
            process.popen.stdin.write(_END)
            process.popen.stdin.flush()


def held_bytes(pid: int) -> int:
    """Memory that a process has to itself; files that it has mapped, such as cached pictures, do
    not count, for the system can take that back. 0 where the process is gone.
    """
    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(info.rss - getattr(info, "shared", 0))


def memory_limit(spec: EngineSpec, count: int) -> float | None:
    """What each of ``count`` workers may hold, in GB."""
    if spec.memory_gb != "auto":
        return spec.memory_gb
    total = psutil.virtual_memory().total
    with suppress(OSError, ValueError):  # a container may have less than its machine
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return MEMORY_SHARE * total / count / 1e9


def _start(run: RunDir, target: Target, index: int) -> _Process:
    environment = os.environ | ENVIRONMENT | import_path()
    if torch.cuda.is_available():
        every = ",".join(map(str, range(torch.cuda.device_count())))
        devices = (os.environ.get("CUDA_VISIBLE_DEVICES") or every).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = devices[index % len(devices)]
    # -P: no code that lies in the working folder
    command = [sys.executable, "-P", "-m", __name__, str(run.path), str(target)]
    log = _log(run, index)
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as file:
        # Of its own session: Ctrl-C reaches us, and we pass it on, once.
        popen = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    return _Process(popen, time.monotonic())


def import_path() -> dict[str, str]:
    """What a process has to have in its environment to import archsearch though it does not look
    into the working folder: a clone that is not installed has to be named.
    """
    root = str(Path(archsearch.__file__).parents[1])
    if root == sysconfig.get_path("purelib"):
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def _outgrown(index: int, limit: float | None) -> ArchsearchError:
    return ArchsearchError(
        f"worker {index} ended: {MAX_RESTARTS + 1} workers in a row held more than "
        f"{MEMORY_GRACE:g} × engine.memory_gb ({limit:g}). Raise engine.memory_gb, or have fewer "
        "engine.workers."
    )


def _failure(run: RunDir, index: int, code: int) -> ArchsearchError:
    log = _log(run, index)
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    words = lines[-1] if lines else f"exit code {code}"
    if code < 0:
        words = f"killed by signal {-code}; out of memory?"
    kind = InputError if code == InputError.exit_code else ArchsearchError
    return kind(f"worker {index} ended: {words} (whole log: {log})")


def _log(run: RunDir, index: int) -> Path:
    return run.path / "logs" / f"worker-{index}.log"


def work(run: RunDir, target: Target, is_over: Callable[[], bool] = _never) -> None:
    """Do what a worker does, in this process."""
    if target == "grid":
        Grid.read(open_store(run)).work(is_over)
    else:
        Worker(run, target, is_over).work()


def main(path: str, target: str) -> int:
    """Entry of a worker process: one thread; ends with KeyboardInterrupt on SIGINT, SIGTERM, and
    when the process that started it is gone.
    """
    torch.set_num_threads(1)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.default_int_handler)
    over = threading.Event()

    def listen() -> None:
        while os.read(0, 1):
            over.set()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=listen, daemon=True).start()
    try:
        work(RunDir(Path(path)), "grid" if target == "grid" else int(target), over.is_set)
    except KeyboardInterrupt:
        return TERMINATED
    except ArchsearchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (SQLAlchemyError, OptunaError) as error:
        print(words_of(error), file=sys.stderr)
        return ArchsearchError.exit_code
    return REPLACED if over.is_set() else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
