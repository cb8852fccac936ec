"""What is wrong with a run's folder, and mending it.

Whatever can be made again from the run's database is: files of trials from their points and
records, tables and front from the trials. What a run would trip over, a checkpoint that cannot be
read, say, is removed. What somebody alive is at work on is left alone.
"""

import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from optuna.trial import FrozenTrial
from PIL import Image
from safetensors import SafetensorError, safe_open

from archsearch import documents, files
from archsearch.catalog import CONFIG, read_config
from archsearch.diffusion.spec import CHECKPOINT
from archsearch.errors import InputError
from archsearch.study.notes import notes_of, outcome, steps_of
from archsearch.study.results import Results
from archsearch.study.rundir import DATA, RunDir
from archsearch.study.setting import InfeasibleError, Setting
from archsearch.study.spec import LIMITABLE, MEASURED, device_of
from archsearch.study.store import Store
from archsearch.study.trials import Trials
from archsearch.study.worker import METRICS_FILE, trial_metrics

State = Literal["mended", "can be mended", "in use", "told", "cannot be mended"]
"""``can be mended``: it was only looked at. ``in use``: somebody alive is at work on it. ``told``:
nothing needs to be done, the run makes good for it."""

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")
"""What ``files.write_through`` calls a file before it takes its place."""
_AGAIN = {
    "grid.json": "`archsearch proxy` writes it again",
    "validation.json": "`archsearch proxy validate` writes it again",
    "ablation.json": "`archsearch proxy ablate` writes it again",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    where: str
    """A file, relative to the run's folder, or what it is about: ``trial 3``."""
    what: str
    """What is wrong with it."""
    state: State
    done: str
    """What was done about it, or would be, or what its reader can do."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {self.state} ({self.done})"


@dataclass
class Diagnosis:
    """Everything that was found, in the order in which it was mended."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Whether nothing is left that cannot be mended."""
        return all(finding.state != "cannot be mended" for finding in self.findings)

    def counts(self) -> dict[str, int]:
        """How many findings there are of each state."""
        return dict(Counter(finding.state for finding in self.findings))

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "schema": 1,
            "well": self.well,
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine(folder: Path, mend: bool = True) -> Diagnosis:
    """Look for everything that crashes, kills, full disks and careless hands leave in a run.

    Args:
        folder: Of the run.
        mend: Whether to mend what can be mended; else nothing is written.

    Raises:
        InputError: The folder is not a run.
        ArchsearchError: Mending failed: the disk is full, say.
    """
    run = RunDir(folder)
    if not run.study.is_file():
        run.setting()  # says so
    return _Doctor(run, mend).examine()


class _Doctor:
    def __init__(self, run: RunDir, mend: bool) -> None:
        self.run, self.mend = run, mend
        self.found = Diagnosis()

    def examine(self) -> Diagnosis:
        try:
            self.setting: Setting = self.run.setting()
        except InputError as error:
            # What a study is follows from these files alone: nothing can write them again.
            self._tell_lost(self._relative(self.run.study), str(error))
            return self.found
        elsewhere = self.run.places["storage"] is not None  # a server looks after itself
        if not elsewhere and not self.run.database.is_file():
            self._note("told", "study.db", "is not there", "`archsearch run` begins it")
        elif elsewhere or self._database_is_whole():
            try:
                self._examine_all()
            except InputError as error:
                self._tell_lost("study.db", str(error))
        return self.found

    def _examine_all(self) -> None:
        self.store = Store(self.run, self.setting)
        self.trials = Trials(self.run, self.setting, self.store)
        self.results = Results(self.trials)
        self._claims()
        self._running()
        self._temporary_files()
        for trial in self.trials.all():
            if f"trial {trial.number}" in self.living:
                continue
            self._config(trial)
            self._metrics(trial)
            self._pictures(self.run.trial(trial.number) / "samples.png", "the next run draws it")
        self._artifacts()
        if any(name.startswith("run ") for name in self.living):
            what = "the run goes on, and writes its tables and plots again"
            self._note("in use", "pareto.json", what, "left to it")
            return
        self._json_files()
        self._tables()
        for path in sorted((self.run.path / "plots").glob("*.png")):
            self._pictures(path, "`archsearch plot` draws it again")

    # Telling

    def _note(self, state: State, where: str, what: str, done: str) -> None:
        self.found.findings.append(Finding(where, what.rstrip("."), state, done))

    def _tell_lost(self, where: str, what: str) -> None:
        done = "take it from a copy, or begin again with another --output"
        self._note("cannot be mended", where, what, done)

    def _do(self, where: str | Path, what: str, done: str, act: Callable[[], object]) -> None:
        """Mend something, or say how it would be."""
        name = self._relative(where) if isinstance(where, Path) else where
        if self.mend:
            act()
        self._note("mended" if self.mend else "can be mended", name, what, done)

    def _remove(self, path: Path, what: str, done: str) -> None:
        self._do(path, what, f"removed; {done}", lambda: path.unlink(missing_ok=True))

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.run.path).as_posix()

    # The database

    def _database_is_whole(self) -> bool:
        try:
            # Opened for writing: what was cut off while it was written is rolled back first.
            with closing(sqlite3.connect(self.run.database, timeout=60)) as connection:
                lines = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
        except (sqlite3.Error, UnicodeDecodeError) as error:  # its words may quote what is damaged
            lines = [str(error)]
        if lines != ["ok"]:
            what = "is damaged: " + "; ".join(str(line) for line in lines)
            self._note(
                "cannot be mended",
                "study.db",
                what,
                "take it from a copy; `sqlite3 study.db .recover` may save what is left",
            )
        return lines == ["ok"]

    @cached_property
    def living(self) -> set[str]:
        """Names of the claims that somebody alive holds."""
        return self.store.claims.living()

    def _claims(self) -> None:
        for name in sorted(self.store.claims.dead()):
            self._do(
                name,
                "is claimed by a process that is gone",
                "the claim was removed",
                lambda name=name: self.store.claims.bury(name),  # type: ignore[misc]
            )

    def _running(self) -> None:
        dead = 0
        for trial in self.trials.running():
            name = f"trial {trial.number}"
            if name in self.living:
                self._note("in use", name, "is running", "left to who is at it")
            else:
                dead += 1
                what = "is running, but nobody is at work on it"
                self._do(name, what, "queued again", lambda: None)  # below, all at once
        if self.mend and dead:
            self.trials.requeue_dead(blame=False)

    # Files

    def _temporary_files(self) -> None:
        left = [path for path in self.run.path.rglob(".*") if _TEMPORARY.fullmatch(path.name)]
        for path in sorted(path for path in left if path.is_file()):
            what = "was left half written"
            if self.living:
                self._note("in use", self._relative(path), what, "or is being written just now")
            else:
                self._remove(path, what, "its writer is gone")

    def _config(self, trial: FrozenTrial) -> None:
        digest, path = notes_of(trial).get("digest"), self.run.trial(trial.number) / CONFIG
        if digest is None:  # it was cut off before it had an architecture
            return
        try:
            if not path.is_file():
                what = "is missing"
            elif read_config(path).digest == digest:
                return
            else:
                what = "is the architecture of another trial"
        except InputError as error:
            what = f"cannot be read ({_reason(error, path)})"
        try:
            candidate = self.trials.candidate(trial)
        except (InfeasibleError, InputError, KeyError) as error:
            self._tell_lost(self._relative(path), f"{what}, nor can it be built ({error})")
            return
        if candidate.network.digest != digest:
            self._tell_lost(
                self._relative(path),
                f"{what}, and the trial's point gives {candidate.network.digest}, not {digest}",
            )
            return
        network = candidate.network.to_dict()
        self._do(path, what, "built again from its point", lambda: files.write_json(path, network))

    def _metrics(self, trial: FrozenTrial) -> None:
        path, attrs = self.run.trial(trial.number) / METRICS_FILE, notes_of(trial)
        damage = _json_damage(path)
        if outcome(trial) != "complete" or "key" not in attrs:
            if damage:
                self._remove(path, damage, "its trial has no scores")
            return
        if damage is None and path.is_file():
            return
        what = damage or "is missing"
        record = self.results.beliefs().longest.get(trial.number)
        if record is None:
            what += f", and the record of its training {attrs['key']} is gone"
            if damage:
                self._remove(path, what, "its scores are those of trials.csv")
            else:
                self._note("told", self._relative(path), what, "its scores are in trials.csv")
            return
        scores = {name: attrs[name] for name in LIMITABLE if name in attrs}
        scores |= {name: attrs[name] for name in attrs if device_of(name) is not None}
        scores |= record.scores
        wanted = [name for name in self.setting.spec.objectives if name in MEASURED]
        for values in self.store.known_metrics(record, wanted, steps_of(trial)).values():
            scores |= values
        metrics = trial_metrics(record, scores, attrs.get("latency_note", ""), steps_of(trial))
        done = "written again from its record"
        if self.run.remeasured.is_dir():
            done += "; `archsearch run … --remeasure-front` adds what was measured of it"
        self._do(path, what, done, lambda: files.write_json(path, metrics))

    def _pictures(self, path: Path, done: str) -> None:
        if not path.is_file():
            return
        try:
            with Image.open(path) as picture:
                picture.load()
        except (OSError, SyntaxError, ValueError) as error:
            self._remove(path, f"cannot be read ({error})", done)

    def _artifacts(self) -> None:
        table = self.store.records()
        records = {f"{row.key}-{row.budget}" for row in table.itertuples()} if len(table) else set()
        for path in sorted(self.run.weights.glob("*.safetensors")):
            if self._is_claimed(path.stem):
                continue
            if path.stem not in records:
                self._remove(path, "its record is gone", "a training makes it anew")
            elif damage := _tensor_damage(path):
                self._remove(path, damage, "made again when it is needed")
        for path in sorted(self.run.trainings.glob(f"*/{CHECKPOINT}")):
            # Without a record it is of a training that was cut off, and goes on from it.
            if not self._is_claimed(path.parent.name) and (damage := _tensor_damage(path)):
                self._remove(path, damage, "its training begins anew when it is needed")
        try:
            shown = self.results.shown()
        except InputError:  # of a trial's file, which was told of above, and is mended later
            shown = []
        for trial in shown:
            name = f"{trial.key}-{trial.budget}"
            path = self.run.weights / f"{name}.safetensors"
            if name in records and not path.is_file():
                what = f"is missing, but trial {trial.number} is shown"
                done = (
                    "its training is done again when it is needed: the same key, the same weights"
                )
                self._note("told", self._relative(path), what, done)

    def _is_claimed(self, name: str) -> bool:
        """Whether somebody is at work on the record called ``name``."""
        key = name.rpartition("-")[0]
        return bool({f"training {key}", f"metrics {name}", f"cell {key}"} & self.living)

    def _json_files(self) -> None:
        """Those that runs, proxies and remeasuring leave, beside the front's."""
        for name, done in _AGAIN.items():
            if damage := _json_damage(self.run.path / name):
                self._remove(self.run.path / name, damage, done)
        for path in sorted(self.run.remeasured.glob("*.json")):
            if damage := _json_damage(path):
                self._remove(path, damage, "`archsearch run … --remeasure-front` measures again")
        path = self.run.path / DATA
        if damage := _json_damage(path):
            table = self.store.records()
            known = sorted(set(table.data)) if len(table) else []
            if len(known) == 1:
                content = {"schema": 1, "fingerprint": known[0]}
                done = "written again from the records"
                self._do(path, damage, done, lambda: files.write_json(path, content))
            elif not known:
                self._remove(path, damage, "the next run writes it: it has no scores yet")
            else:
                self._tell_lost(DATA, f"{damage}, and the records are of {len(known)} data sets")

    def _tables(self) -> None:
        """``trials.csv``, ``pareto.csv`` and ``pareto.json``."""
        if not self.trials.complete() or self.living:
            return  # who is at work writes them in the end
        try:
            problems = list(self._wrong_tables())
        except (InputError, OSError) as error:  # it lacks an architecture that cannot be built
            if self.mend:
                self._tell_lost("pareto.json", f"cannot be checked: {error}")
            return
        if not problems:
            return
        if self.mend:
            finished = self.trials.finished() >= self.setting.spec.search.trials
            self.results.write(self.results.answers() if finished else None)
        for path, what in problems:
            self._do(path, what, "written again from the database", lambda: None)

    def _wrong_tables(self) -> Iterator[tuple[Path, str]]:
        tables = {
            "trials.csv": self.results.trial_table(),
            "pareto.csv": self.results.front_table(),
        }
        for name, table in tables.items():
            path = self.run.path / name
            if not path.is_file():
                yield path, "is missing"
                continue
            with suppress(OSError, UnicodeDecodeError):
                if path.read_text(encoding="utf-8") == table.to_csv(index=False):
                    continue
            yield path, "is cut off, damaged or behind the database"
        path = self.run.path / "pareto.json"
        if not path.is_file():
            yield path, "is missing"
        elif damage := _json_damage(path):
            yield path, damage


def _json_damage(path: Path) -> str | None:
    """What is wrong with a file of JSON; None with one that is whole, or not there."""
    if not path.is_file():
        return None
    try:
        if isinstance(documents.read_json(path), dict):
            return None
        return "holds no JSON object"
    except InputError as error:
        return f"cannot be read as JSON ({_reason(error, path)})"


def _tensor_damage(path: Path) -> str | None:
    try:
        files.check_regular(path)
        with files.in_utf8(path) as spelled, safe_open(spelled, framework="pt") as file:
            file.keys()
        return None
    except (SafetensorError, OSError, ValueError) as error:
        return f"cannot be read ({error})"


def _reason(error: InputError, path: Path) -> str:
    """An error's first line, less the path that stands before it."""
    return str(error).splitlines()[0].removeprefix(f"{path}:").strip(" .")
