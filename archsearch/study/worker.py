"""One worker: takes trials until enough are finished, then helps to finish the run: ``python -m
archsearch.study.worker RUN N``.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from archsearch import files
from archsearch.data.prepare import prepare
from archsearch.diffusion.recipe import is_out_of_memory, pick_device
from archsearch.diffusion.trainer import TrainingMemoryError
from archsearch.errors import ArchsearchError
from archsearch.latency.predict import MissingEntryError
from archsearch.search_space.space import InvalidPointError
from archsearch.study import repeats
from archsearch.study import trials as storage
from archsearch.study.finish import finishing_jobs
from archsearch.study.rundir import RunDir
from archsearch.study.scoring import Scorer
from archsearch.study.setting import STEPS_PARAMETER, Costs, OutsideFamilyError, check_data
from archsearch.study.spec import MEASURED
from archsearch.study.trials import suggest, suggest_steps
from archsearch.unet.config import UNetConfig

POLL_SECONDS = 0.5
PROGRESS_SECONDS = 2.0


class Worker:
    """Runs trials of one run, one after the other, on one thread or one accelerator."""

    def __init__(self, run: RunDir, target: int) -> None:
        self.run = run
        self.target = target
        self.setting = run.setting()
        check_data(self.setting.document, self.setting.spec)
        self.study = storage.load_study(run, self.setting)
        self.device = pick_device()
        self.scorer = Scorer(
            run,
            self.setting,
            prepare(self.setting.spec.data, self.setting.spec.proxy.latent),
            self.device,
        )

    def work(self) -> None:
        """Run trials until ``target`` are finished, then the jobs that finish the run."""
        while True:
            trial = storage.ask(self.study, self.run, self.setting, self.target)
            if trial is not None:
                self._guarded(trial)
            elif self._anything_running():
                storage.requeue_dead(self.study, self.run)
                time.sleep(POLL_SECONDS)
            else:
                break
        self._drop_weights()
        for job in finishing_jobs(self.study, self.scorer):
            job.run_once(self.run)

    def _anything_running(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _guarded(self, trial: Trial) -> None:
        """Run a trial; whatever stops it, it ends with an outcome that has a name."""
        try:
            with storage.heartbeat(self.study, trial):
                self._run(trial)
        except (KeyboardInterrupt, SystemExit):
            with storage.lock(self.run):
                storage.give_back(self.study, trial.number)
            raise
        except (MemoryError, torch.OutOfMemoryError) as error:
            self._end(trial, "infeasible: memory", str(error))
        except TrainingMemoryError as error:
            self._end(trial, error.outcome, str(error))
        except UpdateFinishedTrialError:
            return  # the lease was lost (the machine slept, say): the trial runs elsewhere
        except (
            ArchsearchError,
            OSError,
            SQLAlchemyError,
            OptunaError,
        ):  # a full disk, say: not the candidate's doing
            with suppress(Exception), storage.lock(self.run):
                storage.give_back(self.study, trial.number)
            raise
        except Exception as error:
            if is_out_of_memory(error):
                self._end(trial, "infeasible: memory", str(error))
                return
            self._end(trial, "failed", f"{type(error).__name__}: {error}")
            raise

    def _run(self, trial: Trial) -> None:
        point = suggest(trial, self.setting.space)
        steps = suggest_steps(trial, self.setting.spec.sampling)
        try:
            config = self.setting.space.build(point)
        except InvalidPointError as error:
            return self._reject(trial, "infeasible: rules", str(error))
        try:
            costs = self.setting.priced(config, steps)
        except MissingEntryError as error:
            return self._reject(trial, "infeasible: latency entry missing", str(error))
        except OutsideFamilyError as error:
            return self._reject(trial, storage.OUTSIDE_FAMILY, str(error))
        for name, value in costs.scores.items():
            trial.set_user_attr(name, value)
        if costs.note:
            trial.set_user_attr("latency_note", costs.note)
        if broken := self.setting.broken_limits(costs.scores):
            return self._reject(trial, "infeasible: limits", "; ".join(broken))
        trial.set_user_attr("digest", config.digest)
        if (other := repeats.repeated(self.study, trial.number)) is not None:
            return self._end(trial, repeats.OUTCOME, f"trial {other} has this network")
        return self._score(trial, config, costs, steps)

    def _reject(self, trial: Trial, outcome: str, reason: str) -> None:
        """End a trial that must not be trained, and give up where the sampler finds nothing else."""
        self._end(trial, outcome, reason)
        rejected = 0
        for other in reversed(self.study.get_trials(deepcopy=False)):
            if other.state == TrialState.FAIL and storage.outcome(other) in storage.REJECTED:
                rejected += 1
            elif other.state == TrialState.COMPLETE:
                break
        if rejected >= storage.MAX_REJECTIONS:
            raise ArchsearchError(
                f"the last {rejected} candidates all broke the limits or rules, the last one: "
                f"{reason}."
            )

    def _score(self, trial: Trial, config: UNetConfig, costs: Costs, steps: int | None) -> None:
        folder = self.run.trial(trial.number)
        files.write_json(folder / "config.json", config.to_dict())
        proxy = self.setting.proxy(config)

        last = 0.0

        def progress(samples: int, _: float) -> None:
            nonlocal last
            if time.monotonic() - last > PROGRESS_SECONDS:
                trial.set_user_attr("samples_seen", samples)
                last = time.monotonic()

        scored = self.scorer.score(proxy, progress=progress)
        trial.set_user_attr("key", scored.key)
        trial.set_user_attr("from_store", scored.from_store)
        if scored.outcome != "complete":
            self._end(trial, scored.outcome, str(scored.details.get("reason", "")))
            return
        wanted = tuple(name for name in self.setting.spec.objectives if name in MEASURED)
        scores = costs.scores | scored.scores
        if wanted:
            scores |= self.scorer.sampled(proxy, scored.key, wanted, steps)
        for name, value in (scores | scored.details).items():
            trial.set_user_attr(name, value)
        metrics: dict[str, Any] = {
            "schema": 1,
            "key": scored.key,
            "scores": scores,
            "details": scored.details,
        }
        metrics |= {"latency_note": costs.note} if costs.note else {}
        metrics |= {} if steps is None else {STEPS_PARAMETER: steps}
        files.write_json(folder / "metrics.json", metrics)
        self.study.tell(
            trial, [scores[name] for name in self.setting.spec.objectives], skip_if_finished=True
        )
        if steps is None:  # else another trial may sample the same weights in other steps
            self._drop_weights()

    def _end(self, trial: Trial, outcome: str, reason: str) -> None:
        trial.set_user_attr("outcome", outcome)
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def _drop_weights(self) -> None:
        """Keep the weights of the front and the presets only."""
        with storage.lock(self.run):
            complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            keep = {trial.user_attrs["key"] for trial in self.study.best_trials}
            keep |= {trial.user_attrs["key"] for trial in complete if "preset" in trial.user_attrs}
            for trial in complete:
                if trial.user_attrs["key"] not in keep:
                    (self.run.weights / f"{trial.user_attrs['key']}.safetensors").unlink(
                        missing_ok=True
                    )


def _stop_without(parent: int) -> None:
    """Interrupt this process when the one that started it is gone: nobody would ever stop it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def run_as_process(work: Callable[[RunDir, int], None], path: str, target: str, parent: str) -> int:
    """Entry of a worker process: one thread; ends with KeyboardInterrupt on SIGINT, SIGTERM, and
    when its parent is gone.
    """
    torch.set_num_threads(1)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.default_int_handler)
    _stop_without(int(parent))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        work(RunDir(Path(path)), int(target))
    except KeyboardInterrupt:
        return 130
    except ArchsearchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _work(run: RunDir, target: int) -> None:
    Worker(run, target).work()


if __name__ == "__main__":
    sys.exit(run_as_process(_work, *sys.argv[1:]))
