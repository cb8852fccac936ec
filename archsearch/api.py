"""The public API: everything that the command line does, from Python. ``import archsearch`` offers
it by name. What looks at a run is inherited from ``archsearch.run``; what trains stands here.
"""

import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from optuna.exceptions import UpdateFinishedTrialError

from archsearch import catalog
from archsearch.cost.price import price
from archsearch.errors import ArchsearchError, InputError
from archsearch.files import write_json, write_text
from archsearch.latency.predict import Predictor, load_table
from archsearch.run import Run
from archsearch.search_space.space import Space, load_space
from archsearch.study.compare import Comparison
from archsearch.study.compare import compare as compare_results
from archsearch.study.finish import draw_seen, left_undone
from archsearch.study.lock import FolderLock
from archsearch.study.measuring import check_metrics
from archsearch.study.pace import automatic_workers
from archsearch.study.rundir import RunDir
from archsearch.study.search import Search
from archsearch.study.setting import STEPS, Setting, load_setting, located
from archsearch.study.store import Record, Store
from archsearch.study.trials import Asked
from archsearch.unet.config import UNetConfig

if TYPE_CHECKING:  # what trains is imported where it is used: a run is looked at without torch
    import pandas as pd

    from archsearch.diffusion.trained import Conditions
    from archsearch.study.check import Feasibility
    from archsearch.study.grid import Cell, Grid
    from archsearch.study.parent import Parent
    from archsearch.study.parent_training import How
    from archsearch.study.remeasure import Remeasured
    from archsearch.study.worker import Target
    from archsearch.unet.model import UNet

__all__ = [
    "Study",
    "arch",
    "build",
    "compare",
    "latency_table",
    "price",
    "space",
]

Report = Callable[[str, float], None]
"""Is told what is being done, and which share of it is done."""
TRAINED_PICTURES = 64
Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


def _silent(_: str, __: float) -> None:
    """Tell nobody."""


def arch(name: str | Path) -> UNetConfig:
    """The configuration of an architecture.

    Args:
        name: A preset's name, a UNetConfig file (.json, .yaml), a diffusers ``config.json`` or its
            folder, or ``RUN_DIR#TRIAL``.

    Raises:
        InputError: It is none of these; the message says what is allowed.
    """
    return catalog.load_architecture(str(name)).config


def build(network: UNetConfig) -> "UNet":
    """The torch module of a network, with random weights. It takes the noisy sample (B,
    in_channels, H, W), the timesteps (B,) and the text context (B, tokens, width).
    """
    from archsearch.unet.model import UNet

    return UNet(network)


def space(name: str | Path) -> Space:
    """A search space by name or path.

    Raises:
        InputError: There is none, or its file is wrong.
    """
    return load_space(str(name))


def latency_table(name: str | Path) -> Predictor:
    """A latency table by name or path; ``predict(network).ms`` says how long one pass takes on its
    device, and ``.table`` has its entries.

    Raises:
        InputError: There is none, or its file is wrong.
    """
    return Predictor(load_table(catalog.find("table", str(name))))


def compare(
    *runs: "Study | str | Path", costs_only: bool = False, plot: Path | None = None
) -> Comparison:
    """Compare the fronts of two or more runs with the same objectives: hypervolumes with one
    reference point, coverage, the best quality at equal cost, and what differs between the studies.

    Args:
        runs: Studies, or folders of runs.
        costs_only: Compare the costs alone. Qualities compare only where data, proxy and training
            are the same.
        plot: PNG, SVG or PDF to draw the fronts into.

    Raises:
        InputError: The runs have other objectives, no trials, or qualities that do not compare.
    """
    studies = [run if isinstance(run, Study) else Study.open(run) for run in runs]
    results = [study.results for study in studies]
    found = compare_results(results, costs_only)
    if plot is not None:
        from archsearch.report.front import draw_comparison

        draw_comparison(results, found, plot)
    return found


class Study(Run):
    """A search and its run folder: what ``archsearch run`` runs, and what looks at it afterwards.

    Nothing is written before ``run``, ``ask`` or another method that trains.

    Args:
        study: A study, by name or path.
        output: Folder of the run; by default ``runs/NAME``. One that is there goes on.
        overrides: Keys of the study and their values, ``{"search.trials": 20}``, or the same as the
            command line has it, ``["search.trials=20"]``.

    Raises:
        InputError: The study or what it names is wrong; a line for each complaint.
    """

    def __init__(
        self,
        study: str | Path,
        output: str | Path | None = None,
        overrides: Mapping[str, Any] | Iterable[str] = (),
    ) -> None:
        path = catalog.find("study", str(study))
        if isinstance(overrides, Mapping):
            overrides = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
        self.setting: Setting = load_setting(path, overrides)
        self.folder = Path("runs") / path.stem if output is None else Path(output)
        self._exists = False

    _prepared = False
    left_undone: Sequence[str] = ()
    """After a run that time has ended: what it could not do any more."""
    _lock: FolderLock | None = None
    # Before a run

    def check(self) -> "Feasibility":
        """Whether the study can be run: files there, a part of the space within the limits.

        Raises:
            InputError: It cannot; the message says why.
        """
        from archsearch.study.check import check_feasibility

        self.setting.check_files()
        return check_feasibility(self.setting)

    def estimate(self, workers: int | None = None, report: Report = _silent) -> dict[str, Any]:
        """What a run would take: time, memory and disk, measured on a few random candidates, and
        what data and random points of the space are like. Nothing is trained.

        Raises:
            InputError: It cannot be run, for its space or its data.
        """
        from archsearch.data.prepare import check_held_out, prepare
        from archsearch.study.check import estimate, estimated_units

        drawn = self.check()
        if self._prepared:
            data = self.store.data
        else:
            data = prepare(self.spec.data, self.spec.proxy.latent, report)
            with located(self.setting.document):
                check_held_out(data, self.spec.data)
        report("units of the space", 0.0)
        guesses = estimated_units(self.setting)
        report("timing a few candidates", 0.5)
        found: dict[str, Any] = {
            "pictures": {
                "train": len(data.train),
                "held_out": len(data.held_out),
                "left_out": {each.reason: each.count for each in data.skipped},
            },
            "drawn": drawn.drawn,
            "valid": drawn.valid,
            "within_limits": drawn.within_limits,
            "broken": drawn.broken,
            "estimated_units": {
                name: {"estimated": lacking, "of": units}
                for name, (lacking, units) in guesses.items()
            },
            "sampling_steps": list(self.spec.sampling.searched),
        }
        return found | estimate(self.setting, drawn, self.folder, self._workers(workers))

    # Running

    def prepare(
        self, metrics: Iterable[str] = (), report: Report = _silent, only: UNetConfig | None = None
    ) -> Store:
        """Make the run's folder and data ready to train, ``only`` one network or any of the space,
        and check what metrics need.

        Raises:
            InputError: The data are not there or have changed, or a metric lacks its file.
        """
        from archsearch.data.prepare import prepare

        self.setting.check_files(only)
        store = self.store  # first: a folder that holds another study is refused before all work
        store.use(prepare(self.spec.data, self.spec.proxy.latent, report))
        report("reference of the sampled scores", 0.0)
        check_metrics([*metrics], self.spec, store.data)
        return store

    def prepare_run(self, report: Report = _silent) -> None:
        """Everything up to the first trial: :meth:`run` does it too. From here to the end of the
        run the folder is this process's, and no other can run it.

        Raises:
            InputError: The study cannot be run, or the folder holds another, or another process
                runs it.
        """
        run = RunDir(self.folder)
        try:
            if run.study.is_file():  # before anything in it is touched
                self._lock = self._lock or FolderLock(run)
            report("checking the study", 0.0)
            self.check()
            self.store.clock.beat()
            self.prepare((*self.spec.objectives, *self.spec.report), report)
            self._lock = self._lock or FolderLock(self.run_dir)
            self.results.trials.requeue_dead(blame=False, own=True)
            self.store.clock.beat()
        except BaseException:
            self._unlock()
            raise
        self._prepared = True

    def _unlock(self) -> None:
        self._prepared = False
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def run(
        self,
        workers: int | None = None,
        engine: Engine | None = None,
        address: str | None = None,
        tick: Callable[["Study"], None] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> "pd.DataFrame":
        """Search: train and score candidates until the study's trials are finished, compare with
        the presets, write results and plots. A run that was cut off goes on where it stopped.

        Args:
            workers: Processes; by default as the study says, one a core or one a GPU.
            engine: ``local`` processes or ``ray``, Ray Tune; by default as the study says.
            address: Of a Ray cluster; by default a local one.
            tick: Called about twice a second, with this study.
            tell: Is told, a sentence at a time, of workers that died or outgrew their memory and
                were replaced.

        Returns:
            The Pareto front, cheapest first; see :meth:`front`.

        Raises:
            InputError: The study cannot be run, or the folder holds another.
            ArchsearchError: A worker failed.
            KeyboardInterrupt: Running trials were queued again, and results so far written.
        """
        # What draws takes seconds to import, and what Ctrl-C cuts off there cannot be imported
        # again: now, while there is nothing to interrupt that has to be written.
        import archsearch.report.figures  # noqa: F401

        if self.spec.evaluator != "train":
            return self._look_up_all(tick)
        engine = engine or self.spec.engine.kind
        self.check_engine(engine, address)
        if not self._prepared:
            self.prepare_run()
        try:
            self.results.trials.requeue_dead(blame=False, own=True)
            self._work(self.spec.search.trials, workers, engine, address, tick, tell)
            self.results.trials.collect()
            self.answers = self.results.answers()
            self.write(self.answers)
            self.left_undone = left_undone(self.results)
            return self.front()
        except (KeyboardInterrupt, ArchsearchError):
            with suppress(ArchsearchError):
                self.results.trials.requeue_dead(blame=False)
                self.write()
            raise
        finally:
            self._unlock()

    def _look_up_all(self, tick: Callable[["Study"], None] | None) -> "pd.DataFrame":
        """A search whose qualities are looked up in the recorded table: nothing is trained."""
        from archsearch.benchmark.record import check_study
        from archsearch.benchmark.table import load

        table, estimated = load(), self.spec.evaluator == "surrogate"
        check_study(table, self.setting)
        trials = self.results.trials
        while trials.finished() < self.spec.search.trials:
            asked = self.ask()
            try:
                answer = table.answer(asked.candidate.network, self.spec.proxy.samples, estimated)
            except InputError:
                trials.give_back(asked.number)
                raise
            marks = {f"{name}_deviation": value for name, value in answer.deviation.items()}
            trials.tell(asked.trial, answer.scores, {"estimated": answer.is_estimated, **marks})
            if tick:
                tick(self)
        self.answers = self.results.answers()
        self.write(self.answers)
        return self.front()

    @staticmethod
    def check_engine(engine: str, address: str | None = None) -> None:
        """Refuse an engine that is not known, and a Ray cluster that does not answer.

        Raises:
            InputError: It is not known, or does not answer.
        """
        if engine not in ENGINES:
            raise InputError(f"engine: '{engine}' is not known. Allowed are: {', '.join(ENGINES)}.")
        if address is not None:
            if engine != "ray":
                raise InputError("--address belongs to --engine ray.")
            from archsearch.study.ray import require_answer

            require_answer(address)

    def _work(
        self,
        target: "Target",
        workers: int | None,
        engine: str,
        address: str | None = None,
        tick: Callable[["Study"], None] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        written, beaten, took, known = time.monotonic(), 0.0, 0.0, None

        def tick_study() -> None:
            nonlocal written, beaten, took, known
            now = time.monotonic()
            if target != "grid" and now - beaten > 2.0:
                beaten = now
                self.store.clock.beat()
                # Files are there and fresh while it runs, for a fortieth of the time at most.
                if now - written > max(20.0, 40 * took) and self.store.state() != known:
                    known = self.store.state()
                    self.write()
                    written = time.monotonic()
                    took = written - now
            if tick is not None:
                tick(self)

        if engine == "ray":
            from archsearch.study.ray import run_on_ray

            wanted = workers or self.spec.engine.workers
            count = None if wanted == "auto" else wanted
            run_on_ray(self.run_dir, target, count, tick_study, address, tell)
        else:
            from archsearch.study.worker import memory_limit, run_workers

            count = self._workers(workers)
            limit = memory_limit(self.spec.engine, count)
            run_workers(self.run_dir, target, count, tick_study, limit, tell)

    def _workers(self, given: int | None) -> int:
        count = given or self.spec.engine.workers
        return automatic_workers(self.spec.engine) if count == "auto" else count

    def ask(self, point: Mapping[str, Any] | None = None) -> Asked:
        """Take the next candidate to drive the search yourself: its ``candidate`` has the network
        and what it costs. End it with :meth:`tell`; what is not told when :meth:`run` begins is
        queued again.

        Args:
            point: Where the candidate is to lie: a label for each dimension, as ``space show``
                prints them; dimensions that are not active there are passed over. By default the
                study's own sampler chooses.

        Raises:
            InputError: ``point`` names something that the space has not.
            InfeasibleError: ``point`` breaks a rule or a limit; it costs no trial.
            ArchsearchError: The sampler finds nothing that keeps rules and limits.
        """
        if point is not None:
            chosen = self.space.labelled(point)
            return self.results.trials.ask_at(chosen)
        asked = self.results.trials.ask()
        assert asked is not None  # without a target there is always another
        return asked

    def tell(self, asked: Asked, scores: Mapping[str, float] | None = None) -> None:
        """Say what came of a candidate.

        Args:
            asked: What :meth:`ask` gave.
            scores: Every objective that is not a cost. None trains the candidate's proxy and takes
                its scores, as a worker does.

        Raises:
            InputError: An objective is missing, or the candidate is no longer yours: :meth:`run`
                has given it back.
        """
        try:
            if scores is None:
                from archsearch.study.worker import run_trial

                run_trial(self.results.trials, asked)
            else:
                self.results.trials.tell(asked.trial, scores)
        except UpdateFinishedTrialError as error:
            raise InputError(
                f"tell: trial {asked.number} has ended: it was given back by a run and queued "
                "again. Ask for another."
            ) from error

    def drive(self, lines: Iterable[str | bytes]) -> Generator[dict[str, Any], None, None]:
        """Let another program search: answer requests, a line of JSON each, in turn. At their end
        trials that were asked for and not told are given back. See ``archsearch.study.drive``.
        """
        from archsearch.study.drive import Driver

        yield from Driver(self.results).answers(lines)

    def train(
        self,
        network: UNetConfig,
        samples: int | None = None,
        seed: int = 0,
        report: Report = _silent,
    ) -> dict[str, Any]:
        """Train the proxy of one network, as the study trains its candidates, for as long as you
        like; what the store has of it is gone on from.

        The run's folder then holds the network besides: ``config.json``, ``weights.safetensors``,
        ``metrics.json``, pictures of captions seen in training.

        Args:
            network: At deployment scale.
            samples: Pictures to see in all; by default as many as the study says.
            seed: Counts the repetitions of a network from 0.
            report: Told how far it is.

        Returns:
            Its scores, pictures seen, seconds, and whether a cap on time ended it before.

        Raises:
            ArchsearchError: The training diverged, or memory ran out.
        """
        goal, spec = samples or self.spec.proxy.samples, self.spec

        def progress(seen: int, loss: float) -> None:
            report(f"{seen:,} of {goal:,} pictures, loss {loss:.3f}", min(1.0, seen / goal))

        store = self.prepare(report=report, only=network)
        record = store.score(network, goal, seed, progress=progress)
        if record.outcome != "complete":
            raise ArchsearchError(record.details["reason"])
        report("drawing pictures", 0.0)
        model, scores = self._save_trained(record, self.folder)
        steps = max(spec.sampling.searched, default=None)
        draw_seen(store, model, self.folder / "samples.png", 1, steps, TRAINED_PICTURES)
        return scores

    def save_proxy(self, trial: int, folder: str | Path) -> dict[str, Any]:
        """Write the proxy of a finished trial, as it was trained, as a folder like that of
        :meth:`train`: to draw with, to distill, to adapt.

        Args:
            trial: Its number.
            folder: A new folder.

        Returns:
            Its scores, pictures seen, seconds, and whether a cap on time ended it before.

        Raises:
            InputError: There is no such trial, or it has no scores.
        """
        chosen = next((each for each in self.results.complete() if each.number == trial), None)
        record = None if chosen is None else self.store.find(chosen.key, chosen.budget)
        if record is None:
            raise InputError(f"{self.folder}: trial {trial} has no trained network.")
        return self._save_trained(record, Path(folder))[1]

    def _save_trained(self, record: Record, folder: Path) -> "tuple[UNet, dict[str, Any]]":
        from archsearch.diffusion.trained import save_trained

        details, model = record.details, self.store.load(record)
        scores = record.scores | {
            "samples": details["samples"],
            "seconds": round(details["train_seconds"], 1),
            "capped": details["capped"],
        }
        save_trained(folder, model, self.conditions, scores)
        return model, scores

    @property
    def conditions(self) -> "Conditions":
        """What this study's proxies are trained under, as far as drawing with them needs it."""
        from archsearch.diffusion.trained import Conditions

        return Conditions(
            text=self.spec.data.text,
            tokens=self.spec.data.tokens,
            latent=self.spec.proxy.latent,
            prediction=self.spec.proxy.prediction,
            data=self.spec.data,
            recipe=self.spec.proxy.recipe,
            sampling=self.spec.sampling.at(max(self.spec.sampling.searched, default=None)),
        )

    def remeasure(self, report: Report = _silent) -> "Remeasured":
        """Measure the front and the presets whole on this machine, beside the predictions; tables
        and plots then show both.

        Raises:
            InputError: The study has no latency table, or another machine's.
        """
        from archsearch.study.remeasure import remeasure

        def progress(done: int, total: int, *_: object) -> None:
            report(f"{done} of {total} networks measured", done / total)

        found = remeasure(self.results, progress)
        self.write(self.answers or None)
        return found

    # What the proxy can be trusted with

    def train_parent(
        self,
        folder: str | Path,
        how: "How" = "largest",
        samples: int = 60_000,
        report: Report = _silent,
    ) -> "Parent":
        """Train one network that the study's candidates can start from (``proxy.init: parent``), or
        go on where an earlier call stopped.

        Args:
            folder: Of the training; ``parent.safetensors`` in it is the parent.
            how: ``largest`` trains the space's largest network alone, ``elastic`` what candidates
                inherit as well.
            samples: Pictures to see at most.
            report: Told how far it is.

        Raises:
            InputError: The data are not there, or the folder holds another training.
        """
        from archsearch.data.prepare import prepare
        from archsearch.diffusion.recipe import pick_device
        from archsearch.study.parent_training import train_parent

        scratch = {"init": "scratch", "parent": None, "distill": 0.0}
        spec = self.spec.model_copy(update={"proxy": self.spec.proxy.model_copy(update=scratch)})
        setting = replace(self.setting, spec=spec)
        setting.check_files()
        data = prepare(spec.data, spec.proxy.latent, report)
        return train_parent(setting, data, Path(folder), how, samples, pick_device(), report)

    def validate(
        self,
        networks: int = 24,
        seeds: int = 3,
        budgets: Sequence[int] = (1, 2, 4, 8),
        deep: int | None = None,
        deep_seeds: int = 2,
        seed: int = 0,
        workers: int | None = None,
        report: Report = _silent,
    ) -> dict[str, Any]:
        """Train random networks at rising budgets and seeds, and compare their rankings. Trainings
        that the store has are not done again.

        Args:
            networks: How many are drawn.
            seeds: Seeds of each at the first budget.
            budgets: Multiples of the study's own, rising.
            deep: Networks trained beyond the first budget; by default all.
            deep_seeds: Seeds of those.
            seed: Of the draw.
            workers: Processes.
            report: Told how far it is.

        Returns:
            Everything that was found, as plain data; also in ``validation.json`` and ``.png``.

        Raises:
            InputError: The space does not hold so many networks.
        """
        from archsearch.report.figures import draw_agreement
        from archsearch.study.validation import (
            draw_networks,
            summarise_validation,
            validation_cells,
        )

        self.setting.check_files()
        drawn = draw_networks(self.setting, networks, seed)
        deep = networks if deep is None else min(networks, deep)
        grid = self._train(
            validation_cells(drawn, seeds, budgets, deep, min(seeds, deep_seeds)), workers, report
        )
        found = summarise_validation(grid)
        write_json(self.folder / "validation.json", found)
        draw_agreement(found, self.folder / "validation.png")
        return found

    def ablate(
        self,
        networks: int = 24,
        budget: int = 1,
        metrics: Sequence[str] = (),
        workers: int | None = None,
        report: Report = _silent,
    ) -> dict[str, Any]:
        """Train networks that vary all knobs of the space evenly, and say what every choice of
        every knob does. Trainings that the store has are not done again, and count too.

        Args:
            networks: How many; a fourth of them is trained with a second seed too.
            budget: Multiple of the study's own.
            metrics: Scores that are taken of the trained networks too.
            workers: Processes.
            report: Told how far it is.

        Returns:
            The effects, as plain data; also in ``ablation.json`` and ``ablation.md``.

        Raises:
            InputError: Steps are searched, but ``metrics`` need one number of them.
        """
        from archsearch.study.validation import (
            SCORES,
            ablation_cells,
            markdown,
            summarise_ablation,
        )

        if metrics and (searched := self.spec.sampling.searched):
            raise InputError(
                f"sampling.steps: is a list, but --metrics needs one number: --set "
                f"{STEPS}={max(searched)}."
            )
        self.setting.check_files()
        chosen = [each.network for each in Search(self.setting).balanced(networks)]
        grid = self._train(ablation_cells(chosen, budget, metrics), workers, report)
        found = summarise_ablation(grid, budget, [*SCORES, *metrics])
        write_json(self.folder / "ablation.json", found)
        write_text(self.folder / "ablation.md", markdown(found))
        return found

    def _train(self, cells: "Sequence[Cell]", workers: int | None, report: Report) -> "Grid":
        """Train cells in workers of this machine, and wait for them."""
        from archsearch.study.grid import Grid

        self.prepare(dict.fromkeys(name for cell in cells for name in cell.metrics), report)
        grid = Grid(self.store, cells)
        grid.write_plan()

        def tick(_: "Study") -> None:
            done = sum(grid.is_done(cell) for cell in grid.cells)
            report(f"{done} of {len(grid.cells)} trainings", done / len(grid.cells))

        if not all(grid.is_done(cell) for cell in grid.cells):
            count = workers or automatic_workers(self.spec.engine)
            self._work("grid", count, self.spec.engine.kind, tick=tick)
        return grid
