"""What a run loses when it is killed, its disk is full, or its database is locked.

A tiny real study is run by ``archsearch run`` and sent SIGKILL at random moments: its worker, the
process that coordinates it, or both; sometimes it is taken up again while the old worker still
lives. It is taken up again until it is done. Counted are, over all rounds:

- records that were there before a kill and are gone or changed after it;
- trials left running at the end;
- trainings that began although their record was there, and trainings of one key at the same time;
- with one worker: studies whose points and scores are not those of the study that nobody disturbed.

Every figure must be 0. ``--full-disk`` and ``--locked`` do the same with a disk without room (a
small tmpfs where this user may mount one, else a limit on the size of files) and with a database
that another process has locked for half a minute, and for one and a half.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml

from archsearch.study.storage import WAIT_SECONDS

Whom = Literal["worker", "coordinator", "both"]

SPACE: dict[str, Any] = {
    "schema": 1,
    "base": {
        "schema": 1,
        "norm_groups": 8,
        "sample_size": 16,
        "stages": [
            {"channels": 64, "down": [{}], "up": [{}]},
            {"channels": 128, "down": [{"transformers": 1, "layers": ["ca"]}], "up": [{}]},
        ],
    },
    "dimensions": {
        "outer": {"path": "stages[0].channels", "choices": [64, 128, 256]},
        "inner": {"path": "stages[1].channels", "choices": [64, 128, 256]},
        "layers": {"path": "stages[1].down[*].layers", "choices": [[], ["ca"], ["sa", "ca", "ff"]]},
    },
}
STUDY: dict[str, Any] = {
    "schema": 1,
    "space": "search_spaces/small.yaml",
    "data": {"size": 16, "tokens": 4},
    "proxy": {
        "width": 0.125,
        "sample_size": 16,
        "samples": 320,
        "batch": 8,
        "draws": 16,
        "precision": "fp32",
    },
    "objectives": {"val_loss": "minimize", "macs": "minimize"},
    "sampling": {"steps": 2},
    "search": {"sampler": {"name": "random"}, "trials": 6, "confirm_seeds": 2},
    "engine": {"workers": 1},
}

SEARCHES: dict[str, dict[str, Any]] = {
    "random": {"sampler": {"name": "random"}},
    "nsga2": {"sampler": {"name": "nsga2", "population_size": 2}},
    "surrogate": {
        "sampler": {"name": "surrogate", "startup_trials": 2},
        "rungs": {"count": 2, "eta": 2},
        "repeats": 0.3,
    },
}

# Python runs a module of this name in every process. It notes each training that begins and ends,
# and has checkpoints written often enough for trainings of seconds to go on from one.
HOOK_NAME = "sitecustomize.py"
HOOK = """
import importlib.abc, importlib.util, json, os, sqlite3, sys, time

def note(**values):
    line = json.dumps(values | {"pid": os.getpid(), "time": time.time()}) + "\\n"
    with open(os.environ["KILL_SWEEP_LOG"], "a") as file:
        file.write(line)

TRAINER = "archsearch.diffusion.trainer"
CONSTANTS = json.loads(os.environ.get("KILL_SWEEP_CONSTANTS", "{}"))
changed = set()

def watch(trainer):
    plain = trainer.Trainer.run

    def run(self, samples, *rest):
        if self._checkpoint is None or self.samples >= samples:
            return plain(self, samples, *rest)
        name = self._checkpoint.parent.name
        key, _, budget = name.rpartition("-")
        database = self._checkpoint.parent.parent.parent / "study.db"
        connection = sqlite3.connect(database, timeout=60)
        question = "SELECT count(*) FROM archsearch_records WHERE key = ? AND budget = ?"
        (known,) = connection.execute(question, (key, int(budget))).fetchone()
        connection.close()
        note(what="began", name=name, samples=self.samples, known=known)
        found = plain(self, samples, *rest)
        note(what="ended", name=name, samples=self.samples)
        return found

    trainer.Trainer.run = run
    trainer.CHECKPOINT_SECONDS, trainer.CHECKPOINT_SHARE, trainer.CHECK_EVERY = 0.2, 1.0, 5

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in changed or name not in (TRAINER, *CONSTANTS):
            return None
        changed.add(name)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def execute_and_watch(module):
            execute(module)
            if name == TRAINER:
                watch(module)
            vars(module).update(CONSTANTS.get(name, {}))
        spec.loader.exec_module = execute_and_watch
        return spec

sys.meta_path.insert(0, Finder())
"""


@dataclass
class Found:
    """What was counted; all but the first three must be 0."""

    kills: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    records: int = 0
    records_lost: int = 0
    left_running: int = 0
    trained_twice: int = 0
    trained_at_once: int = 0
    differing_studies: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """How much went wrong."""
        counts = (self.records_lost, self.left_running, self.trained_twice, self.trained_at_once)
        return sum(counts) + self.differing_studies + len(self.failures)


class Run:
    """One folder of a run, and the processes that are at work in it.

    Args:
        home: An empty folder for the study, the hook and what processes print.
        folder: Of the run; by default in ``home``.
        constants: By module, names in it and the values that they have in the run's processes.
        changes: Keys of sections of the study that differ from the tiny one.
    """

    def __init__(
        self,
        home: Path,
        folder: Path | None = None,
        constants: dict[str, dict[str, float]] | None = None,
        **changes: dict[str, Any],
    ) -> None:
        self.constants = constants or {}
        self.home, self.folder = home, folder or home / "run"
        self.path = home / "small.yaml"
        self.sittings, self.printed = home / "sittings.jsonl", home / "printed.txt"
        (home / "search_spaces").mkdir(parents=True)
        (home / "search_spaces" / "small.yaml").write_text(yaml.safe_dump(SPACE, sort_keys=False))
        study = STUDY | {name: STUDY[name] | values for name, values in changes.items()}
        self.path.write_text(yaml.safe_dump(study, sort_keys=False))
        (home / "hook").mkdir()
        (home / "hook" / HOOK_NAME).write_text(HOOK)
        self.sittings.touch()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
        """Begin the run, or take it up again.

        Args:
            arguments: Further ones of ``archsearch run``.
            options: Of the process.
        """
        paths = [str(self.home / "hook"), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "KILL_SWEEP_LOG": str(self.sittings),
            "KILL_SWEEP_CONSTANTS": json.dumps(self.constants),
        }
        command = [sys.executable, "-m", "archsearch", "run", str(self.path)]
        with self.printed.open("ab") as file:
            self.process = subprocess.Popen(
                [*command, "--output", str(self.folder), *arguments],
                env=environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
                **options,
            )
        return self.process

    def workers(self) -> list[psutil.Process]:
        """Processes of the run beside the one that coordinates it, also of those before it."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if "archsearch.study.worker" in line and str(self.folder) in line:
                found.append(process)
        return found

    def kill(self, whom: Whom) -> bool:
        """Send SIGKILL; returns whether there was anybody to kill."""
        workers = self.workers() if whom != "coordinator" else []
        if whom == "both" and self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        elif whom == "coordinator":
            if self.process is None or self.process.poll() is not None:
                return False
            self.process.kill()
            self.process.wait()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        psutil.wait_procs(workers, timeout=30)
        return bool(workers) or whom != "worker"

    def wait_for_workers(self) -> None:
        """Wait until the workers of a coordinator that is gone have ended on their own."""
        psutil.wait_procs(self.workers(), timeout=60)

    def finish(self, tries: int = 6) -> int:
        """Take the run up again until it is done. Returns its last exit code."""
        code = 1
        for _ in range(tries):
            process = self.process
            if process is None or process.poll() is not None:
                process = self.start()
            code = process.wait(timeout=600)
            self.process = None
            if code == 0:
                break
        return code

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """Ask the database, past all that is ours; nothing where there is none yet."""
        if not (self.folder / "study.db").is_file():
            return []
        connection = sqlite3.connect(self.folder / "study.db", timeout=60)
        try:
            return connection.execute(text).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise
        finally:
            connection.close()

    def records(self) -> set[tuple[Any, ...]]:
        """Every record, with all of its columns: the seconds of a second training would differ."""
        return set(self.query("SELECT * FROM archsearch_records"))

    def running(self) -> int:
        """How many trials are running, by the database."""
        return len(self.query("SELECT 1 FROM trials WHERE state = 'RUNNING'"))

    def suspected(self) -> int:
        """How often at most the worker of one trial was killed, as the run sees it."""
        kills = self.query("SELECT value_json FROM trial_user_attributes WHERE key = 'kills'")
        return max((int(json.loads(value)) for (value,) in kills), default=0)

    def began(self) -> int:
        """How many trainings have begun."""
        return self.sittings.read_text().count('"began"')

    def study(self) -> list[Any]:
        """Points and scores of the finished trials, to the last digit."""
        from archsearch import Study

        trials = Study.open(self.folder).results.trials.complete()
        return sorted([sorted(trial.params.items()), trial.values] for trial in trials)

    def repeated(self) -> tuple[int, int]:
        """How many trainings began although they were done, and how many while another process was
        at the same one.
        """
        lines = [json.loads(line) for line in self.sittings.read_text().splitlines()]
        known = sum(line["known"] for line in lines if line["what"] == "began")
        ends = {
            (line["name"], line["pid"]): line["time"] for line in lines if line["what"] == "ended"
        }
        at_once = 0
        for line in lines:
            for other in lines:
                if line["what"] == other["what"] == "began" and other["name"] == line["name"]:
                    end = ends.get((other["name"], other["pid"]), 0.0)
                    at_once += other["time"] < line["time"] < end and other["pid"] != line["pid"]
        return known, at_once


@contextlib.contextmanager
def full_disk(folder: Path, kilobytes: int) -> Iterator[tuple[dict[str, Any], Callable[[], None]]]:
    """A disk of this size at ``folder``; yields options for the process that fills it, and what
    makes room.
    """
    folder.mkdir()
    size = f"size={kilobytes}k"
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], stderr=subprocess.DEVNULL
    ).returncode

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 * kilobytes, 100 * kilobytes))

    def make_room() -> None:
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=500m", str(folder)], check=True)

    try:
        yield ({} if mounted else {"preexec_fn": limit}), make_room
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def locked(database: Path, seconds: float) -> Iterator[None]:
    """Let another process lock ``database`` for so long."""
    code = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], timeout=60, "
        "isolation_level=None); c.execute('BEGIN EXCLUSIVE'); print(flush=True); "
        "time.sleep(float(sys.argv[2])); c.execute('COMMIT')"
    )
    command = [sys.executable, "-c", code, str(database), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        yield
        other.wait()


class Sweep:
    """Rounds of runs that are disturbed and taken up again, and what came of them."""

    def __init__(
        self,
        home: Path,
        seed: int = 0,
        workers: int = 1,
        samplers: Sequence[str] = ("random", "nsga2"),
    ) -> None:
        self.home, self.rng, self.workers = home, random.Random(seed), workers
        self.samplers = samplers
        self.found = Found()
        self._undisturbed: dict[str, list[Any]] = {}

    def new(
        self,
        sampler: str = "random",
        folder: Path | None = None,
        constants: dict[str, dict[str, float]] | None = None,
    ) -> Run:
        """A run that has not begun."""
        self.found.rounds += 1
        changes = {
            "search": SEARCHES[sampler],
            "engine": {"workers": self.workers},
        }
        return Run(self.home / f"round-{self.found.rounds}", folder, constants, **changes)

    def undisturbed(self, sampler: str) -> list[Any]:
        """What the study finds when nobody disturbs it."""
        if sampler not in self._undisturbed:
            run = self.new(sampler)
            code = run.finish()
            assert code == 0, run.printed.read_text()
            self._undisturbed[sampler] = run.study()
        return self._undisturbed[sampler]

    def kill_randomly(self, run: Run, kills: int, at_once: bool) -> int:
        """Kill a run so many times, at random moments, unless it is done before.

        Args:
            run: The run.
            kills: How often.
            at_once: Whether it may be taken up again while its old worker lives.

        Returns:
            How often it was killed.
        """
        done = 0
        while done < kills:
            if run.process is None or run.process.poll() is not None:
                if run.process is not None and run.process.poll() == 0:
                    break
                run.start()
            if self.rng.random() < 0.7:
                self._wait_for_training(run)
            time.sleep(self.rng.uniform(0, 5))
            before = run.records()
            whom: Whom = self.rng.choice(("worker", "coordinator", "both"))
            if run.suspected() >= 2:  # a third would be blamed on the trial, as it should
                whom = "both"
            if not run.kill(whom):
                continue
            done += 1
            self.found.kills[whom] = self.found.kills.get(whom, 0) + 1
            if whom == "coordinator" and not (at_once and self.rng.random() < 0.5):
                run.wait_for_workers()
            self.found.records_lost += len(before - run.records())
        return done

    @staticmethod
    def _wait_for_training(run: Run) -> None:
        began, process = run.began(), run.process
        while process and process.poll() is None and run.began() == began:
            time.sleep(0.05)

    def end(self, run: Run, sampler: str) -> None:
        """Take a run up again until it is done, and count what is wrong with it."""
        before = run.records()
        if run.finish() != 0:
            self.found.failures.append(run.printed.read_text().splitlines()[-1])
        run.wait_for_workers()
        after = run.records()
        self.found.records += len(after)
        self.found.records_lost += len(before - after)
        self.found.left_running += run.running()
        known, at_once = run.repeated()
        self.found.trained_twice += known
        self.found.trained_at_once += at_once
        if self.workers == 1:
            self.found.differing_studies += run.study() != self.undisturbed(sampler)

    def sweep(self, kills: int, a_round: int = 6) -> None:
        """Kill runs so many times in all."""
        left, number = kills, 0
        while left > 0:
            sampler = self.samplers[number % len(self.samplers)]
            number += 1
            self.undisturbed(sampler)
            run = self.new(sampler)
            # An adaptive sampler repeats exactly only where one worker is at work at a time.
            left -= self.kill_randomly(run, min(a_round, left), at_once=sampler == "random")
            self.end(run, sampler)
            print(f"{kills - left} of {kills} kills: {asdict(self.found)}", file=sys.stderr)

    def fill_disk(self, kilobytes: int) -> None:
        """Run on a full disk until nothing goes on, then make room."""
        self.undisturbed("random")
        disk = self.home / f"disk-{self.found.rounds}"
        with full_disk(disk, kilobytes) as (options, make_room):
            run = self.new("random", disk / "run")
            code = run.start(**options).wait(timeout=600)
            run.process = None
            last = run.printed.read_text().splitlines()[-1:]
            if code != 1 or not last or not last[0].startswith("error: "):
                self.found.failures.append(f"full disk: exit code {code}, {last}")
            make_room()
            self.end(run, "random")
            self.found.kills["full disk"] = self.found.kills.get("full disk", 0) + 1

    def lock(self, seconds: float, patience: float = WAIT_SECONDS) -> None:
        """Lock the database of a run that is under way. One that waits less long than that says so
        and ends, to be taken up again.
        """
        self.undisturbed("random")
        run = self.new("random", None, {"archsearch.study.storage": {"WAIT_SECONDS": patience}})
        process = run.start()
        self._wait_for_training(run)
        before = run.records()
        with locked(run.folder / "study.db", seconds):
            pass
        code, last = process.wait(timeout=600), run.printed.read_text().splitlines()[-1:]
        run.process = None
        told = code == 1 and any("database is locked" in line for line in last)
        if code != 0 if seconds < patience else not told:
            self.found.failures.append(f"locked for {seconds:g} s: exit code {code}, {last}")
        self.found.records_lost += len(before - run.records())
        self.end(run, "random")
        self.found.kills["locked"] = self.found.kills.get("locked", 0) + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--samplers", default="random,nsga2", help=", ".join(SEARCHES))
    parser.add_argument("--full-disk", type=int, default=0, metavar="TIMES")
    parser.add_argument("--locked", type=int, default=0, metavar="TIMES")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="Keep everything in this folder.")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home = arguments.keep or Path(tempfile.mkdtemp(prefix="kill-sweep-"))
    sweep = Sweep(home, arguments.seed, arguments.workers, arguments.samplers.split(","))
    try:
        sweep.sweep(arguments.kills)
        for _ in range(arguments.full_disk):
            sweep.fill_disk(sweep.rng.randrange(150, 900))
        for _ in range(arguments.locked):
            sweep.lock(30)
            sweep.lock(90)
    finally:
        if arguments.keep is None:
            shutil.rmtree(home, ignore_errors=True)
    print(json.dumps(asdict(sweep.found), indent=1))
    return 1 if sweep.found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
