"""A study's run as one looks at it: what its trials have found, as tables, plots and a report.
Nothing here imports torch.
"""

from collections.abc import Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from archsearch import catalog
from archsearch.errors import InputError
from archsearch.search_space.space import Space
from archsearch.study.importances import importances
from archsearch.study.progress import progress
from archsearch.study.results import Results
from archsearch.study.rundir import RunDir, open_run
from archsearch.study.setting import Setting
from archsearch.study.spec import StudySpec
from archsearch.study.store import Store
from archsearch.study.trials import NotBegunError, Trials
from archsearch.unet.config import UNetConfig

if TYPE_CHECKING:
    import pandas as pd

    from archsearch.report.figures import Plots
    from archsearch.study.doctor import Diagnosis

Choice = Literal["knee", "min-latency", "best-quality"]


class Run:
    """The folder of a run and the study it belongs to. ``Study``, which is one that can be gone on
    with, is what users hold.
    """

    folder: Path
    setting: Setting
    _exists: bool
    """Whether the folder is there already and is only looked at."""
    answers: Sequence[dict[str, Any]] = ()
    """After a run: whether the front beats each preset at equal cost; ``results.sentence`` puts one
    in words."""

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """The study of a run that is there. To look at it, neither its data nor its models are
        needed.

        Raises:
            InputError: The folder is not a run, or damaged.
        """
        opened = cls.__new__(cls)
        opened.folder, opened._exists = Path(folder), True
        opened.setting = RunDir(opened.folder).setting()
        return opened

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {str(self.folder)!r})"

    @property
    def name(self) -> str:
        """Of the study."""
        return self.setting.name

    @property
    def spec(self) -> StudySpec:
        """What its file says, every default spelled out."""
        return self.setting.spec

    @property
    def space(self) -> Space:
        """What is searched."""
        return self.setting.space

    @cached_property
    def run_dir(self) -> RunDir:
        """The run's folder, made where it is not there yet.

        Raises:
            InputError: It holds the run of another study, or something else.
        """
        if self._exists:
            return RunDir(self.folder)
        run = open_run(self.folder, self.setting)
        self.setting = run.setting()
        return run

    @cached_property
    def store(self) -> Store:
        """Every score of the study's networks; trains what is asked for."""
        run = self.run_dir
        return Store(run, self.setting)

    @cached_property
    def results(self) -> Results:
        """What the trials have found so far."""
        run = self.run_dir
        if self._exists and (path := run.storage.path) is not None and not path.is_file():
            raise NotBegunError(f"{run.path}: has no study.db yet; `archsearch run` starts it.")
        trials = Trials(
            run, self.setting, self.store, create=not self._exists, looking=self._exists
        )
        if self._exists:
            trials.collect()
        return Results(trials)

    # What was found

    def trials(self) -> "pd.DataFrame":
        """Every trial, one a row: outcome, scores, costs, where it came from, its point."""
        return self.results.trial_table()

    def progress(self) -> dict[str, Any]:
        """How far the run is, as plain data: trials by outcome, what runs now, the front's size and
        hypervolume, seconds of training, records, further seeds.
        """
        return progress(self.results)

    def importances(self) -> "pd.DataFrame":
        """How much of each objective's variance goes with each knob, over the finished trials: a
        row a knob, a column an objective. Shares of variance, not effects: see
        ``archsearch.study.importances``.

        Raises:
            InputError: Fewer than ten trials have scores.
        """
        return importances(self.results.trials)

    def front(self) -> "pd.DataFrame":
        """The Pareto front, cheapest first, with what each member cannot be told from."""
        return self.results.front_table()

    def after_search(self) -> dict[str, Any] | None:
        """What was done to the front after the search: quality against the latency of a picture by
        number of steps, undistilled and distilled, adapters, and whether the front's order
        survives; see ``archsearch.study.afterwards``. None where nothing of it was done.
        """
        from archsearch.study.afterwards import after_search

        return after_search(self.results)

    def effects(self) -> "pd.DataFrame":
        """What every choice of every knob costs or gains in quality, with its interval, and what it
        saves; see ``Beliefs.effects``.

        Raises:
            InputError: No training of the study has ended yet.
        """
        if not self.results.beliefs().models:
            raise InputError(f"{self.folder}: has no training with a score yet.")
        return self.results.beliefs().effects()

    def records(self, **where: Any) -> "pd.DataFrame":
        """Every training in the store; see ``Store.records``."""
        return self.store.records(**where)

    def pick(self, how: Choice) -> UNetConfig:
        """A member of the front: its knee, its cheapest or its best.

        Raises:
            InputError: There is no front yet.
        """
        return self.network(self.results.pick(how).number)

    def network(self, trial: int) -> UNetConfig:
        """The architecture of a trial.

        Raises:
            InputError: There is no such trial.
        """
        return catalog.trial_network(self.folder, trial)

    def write(self, answers: Sequence[dict[str, Any]] | None = None) -> list[Path]:
        """Write tables and plots of what was found so far; returns the plots' files. These are the
        plots that take no time; :meth:`plot` draws the others too.
        """
        from archsearch.report.figures import draw_all

        if not self.results.trials.complete():
            return []
        self.results.write(answers)
        return draw_all(self.results, quick=True).written

    def plot(
        self,
        kind: str | None = None,
        output: Path | None = None,
        cost: str | None = None,
        quality: str | None = None,
        trials: Sequence[int] = (),
    ) -> "Plots":
        """Draw pictures of the run.

        Args:
            kind: ``front``, ``effects``, ``hypervolume``, ``importances``, ``breakdown``, ``table``
                or ``samples``; by default all that the run allows.
            output: PNG, SVG or PDF to draw this kind into; by default a PNG in ``plots/``.
            cost: Of ``front`` and ``effects``; by default the study's first.
            quality: Of ``front`` and ``effects``; by default the study's first.
            trials: Of ``breakdown``: whose costs are shown; by default the knee of the front.

        Returns:
            The files in ``written``; in ``left_out`` the kinds that the run lacks something for,
            and what.

        Raises:
            InputError: An option is wrong, or the run lacks what this kind is to show.
        """
        from archsearch.report.figures import Plots, draw, draw_all

        options = {"cost": cost, "quality": quality, "trials": tuple(trials)}
        if kind is not None:
            return Plots([draw(self.results, kind, output, **options)])
        if output or any(value not in (None, ()) for value in options.values()):
            raise InputError("--output, --cost, --quality and --trial need --kind.")
        if not self.results.complete():  # says which file is damaged, if one is
            raise InputError(f"{self.folder}: has no finished trial yet.")
        return draw_all(self.results)

    def report(
        self, path: str | Path | None = None, others: "Sequence[Run | str | Path]" = ()
    ) -> Path:
        """Write the report: one HTML page with the front, its networks beside each other, what the
        knobs do, and every trial. Needs the extra ``report``.

        Args:
            path: The file; by default ``report.html`` in the run's folder.
            others: Studies or folders of runs that this one is compared with.

        Raises:
            InputError: The extra is not installed, or a folder is not a run.
        """
        from archsearch.report.page import write

        compared = [each if isinstance(each, Run) else Run.open(each) for each in others]
        return write(self, None if path is None else Path(path), compared)

    def plot_front(self, x: str | None = None, y: str | None = None) -> Any:
        """The front in two scores, as an Altair chart; by default quality over cost. Needs the
        extra ``report``.

        Raises:
            InputError: The extra is not installed, a score is unknown, or no trial has scores.
        """
        from archsearch.report import charts

        return charts.front(self, x, y)

    def plot_effects(self, quality: str | None = None) -> Any:
        """What every choice of every knob does to a quality, as an Altair chart. Needs the extra
        ``report``.

        Raises:
            InputError: The extra is not installed, or nothing is known of the quality.
        """
        from archsearch.report import charts

        return charts.effects(self, quality)

    def plot_hypervolume(self) -> Any:
        """How the front has grown, as an Altair chart. Needs the extra ``report``.

        Raises:
            InputError: The extra is not installed, or no trial has scores.
        """
        from archsearch.report import charts

        return charts.hypervolume(self)

    def plot_importances(self) -> Any:
        """How much of each objective's variance goes with each knob, as an Altair chart. Needs the
        extra ``report``.

        Raises:
            InputError: The extra is not installed, or fewer than ten trials have scores.
        """
        from archsearch.report import charts

        return charts.knob_importances(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the answer in a sentence, and the front."""
        from archsearch.report.contents import in_short

        begun = "results" in self.__dict__ or (self.folder / "study.yaml").is_file()
        return in_short(self) if begun else f"<p>{escape(repr(self))}: not begun yet.</p>"

    def doctor(self, mend: bool = True) -> "Diagnosis":
        """Look for what crashes, kills and full disks leave in the run, and mend it; what somebody
        is at work on is left alone.

        Args:
            mend: Whether to mend; else nothing is written.

        Raises:
            ArchsearchError: Mending failed: the disk is full, say.
        """
        from archsearch.study.doctor import examine

        return examine(self.folder, mend)
