"""What is done once, after the last trial: further seeds to compare, metrics, sample pictures."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from archsearch import documents
from archsearch.files import write_bytes, write_json
from archsearch.study.pace import GRID_PICTURES
from archsearch.study.results import Results, ScoredTrial
from archsearch.study.search import Further
from archsearch.study.spec import MEASURED
from archsearch.study.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from archsearch.unet.model import UNet

GRID_COLUMNS = 8
REPETITION = "seed"
"""First word of the claims of further seeds."""


@dataclass(frozen=True)
class Job:
    """A piece of work that several workers may meet and one does."""

    name: str
    do: Callable[[], None]
    is_done: Callable[[], bool]
    seconds: float
    """What it will take, about."""

    def run_once(self, store: Store, wait: bool = False) -> None:
        """Do the job, unless it is done, or another worker is at it; with ``wait``, when that one
        has ended.
        """
        with store.claims.held(self.name, wait, poll_seconds=0.5) as mine:
            if mine and not self.is_done():
                self.do()


@dataclass(frozen=True)
class Repetition(Job):
    """A training with a further seed."""

    samples: int
    macs: float


def repetitions(results: Results) -> list[Repetition]:
    """Further seeds of what is compared, before anything is shown: they decide what that is."""
    seeds = range(1, results.setting.spec.search.confirm_seeds)
    return [_seed_job(results, trial, seed) for trial in _repeated(results) for seed in seeds]


def showings(results: Results) -> list[Job]:
    """Scores and pictures of the front and the presets: the longest first, or, where the search
    ends by time, what is looked at first. The presets come before all: the others are compared with
    them.
    """
    names = [name for name in results.setting.spec.report if name in MEASURED]
    of_one = results.trials.pace.drawing_seconds(results.trials.complete())
    presets = results.beliefs().presets
    shown = sorted(results.shown(), key=lambda trial: trial.number not in presets)
    looks = [_pictures_job(results, trial, of_one) for trial in shown]
    takes = [_metrics_job(results, trial, names, of_one) for trial in shown] if names else []
    return [*takes, *looks] if results.setting.spec.search.minutes is None else [*looks, *takes]


def repetitions_under_way(results: Results) -> list[Further]:
    """Further seeds that somebody alive is at, after the last trial."""
    reached, begin = results.beliefs().reached, f"{REPETITION} "
    found = []
    for name in results.store.claims.held_with(begin):
        seed, number = map(int, name.removeprefix(begin).split(" of trial "))
        found.append(Further(number, reached[number], seed))
    return found


def showings_under_way(results: Results) -> list[str]:
    """Names of the scores and pictures that somebody alive is at."""
    begins = ("metrics of trial ", "pictures of trial ")
    return sorted(name for name in results.store.claims.living() if name.startswith(begins))


def left_undone(results: Results) -> list[str]:
    """Names of what time has not allowed at the end of a run."""
    return [job.name for job in (*repetitions(results), *showings(results)) if not job.is_done()]


def _metrics_job(results: Results, trial: ScoredTrial, names: list[str], seconds: float) -> Job:
    network, store = results.trials.network(trial.number), results.store

    def do() -> None:
        store.metrics(store.score(network, trial.budget), names, trial.steps)

    def is_done() -> bool:
        record = store.find(trial.key, trial.budget)
        return (
            record is not None
            and set(names) <= store.known_metrics(record, names, trial.steps).keys()
        )

    return Job(f"metrics of trial {trial.number}", do, is_done, seconds)


def _pictures_job(results: Results, trial: ScoredTrial, seconds: float) -> Job:
    network, store = results.trials.network(trial.number), results.store
    name = f"trials/{trial.number}/samples"

    def do() -> None:
        model, path = (
            store.load(store.score(network, trial.budget)),
            results.run.path / f"{name}.png",
        )
        draw_seen(store, model, path, results.setting.spec.search.seed + 1, trial.steps)
        store.run.artifacts.push(f"{name}.json", f"{name}.png")

    def is_done() -> bool:
        return store.run.artifacts.fetch(f"{name}.png") is not None

    return Job(f"pictures of trial {trial.number}", do, is_done, seconds)


def _repeated(results: Results) -> list[ScoredTrial]:
    """Trials that are trained with further seeds: what is compared, or the ends of the front where
    no preset is there to compare.

    Without any, nobody could say which members of the front differ by more than seeds do.
    """
    pairs = [pair for pair in results.comparisons() if pair[1] is not None]
    compared = {trial.number: trial for pair in pairs for trial in pair if trial is not None}
    if not compared and results.quality:
        members = results.front()
        compared = {trial.number: trial for trial in (*members[:1], *members[-1:])}
    return list(compared.values())


def _seed_job(results: Results, trial: ScoredTrial, seed: int) -> Repetition:
    """Train once more, and take what else the study scores its networks by, so that the noise of
    each score is known.

    Not where steps are searched: there one training has a quality for each number of them.
    """
    network, store, spec = (
        results.trials.network(trial.number),
        results.store,
        results.setting.spec,
    )
    wanted = dict.fromkeys(name for name in (*spec.objectives, *spec.report) if name in MEASURED)
    names = [] if trial.steps is not None else list(wanted)
    key = store.key(results.setting.proxy(network), seed)

    def do() -> None:
        record = store.score(network, trial.budget, seed)
        if record.outcome == "complete" and names:
            store.metrics(record, names)
        store.files.drop(record.name)

    def is_done() -> bool:
        record = store.find(key, trial.budget)
        if record is None or record.outcome != "complete":
            return record is not None
        return set(names) <= store.known_metrics(record, names).keys()

    macs = trial.scores["macs"]
    seconds = results.trials.pace.training_seconds(trial.budget, macs) or 0.0
    name = f"{REPETITION} {seed} of trial {trial.number}"
    return Repetition(name, do, is_done, seconds, trial.budget, macs)


def draw_seen(
    store: Store,
    model: "UNet",
    path: Path,
    seed: int,
    steps: int | None = None,
    count: int = GRID_PICTURES,
) -> None:
    """Draw pictures of captions seen in training into ``path`` (PNG), their captions beside it as
    JSON.
    """
    from archsearch.diffusion.sample import sample
    from archsearch.metrics.evaluate import seen_rows

    data, spec = store.data, store.setting.spec
    index = seen_rows(data.train, count)
    pictures = sample(
        model,
        data.context[index],
        data.null_context,
        spec.sampling.at(steps),
        seed,
        store.device,
        data.latent,
        spec.proxy.prediction,
    )
    captions = [data.captions[i] for i in index.tolist()]
    write_json(
        path.with_suffix(".json"), {"schema": 1, "captions": captions, "columns": GRID_COLUMNS}
    )
    save_grid(pictures, path)


def save_grid(pictures: "Tensor", path: Path, scale: int = 3) -> None:
    """Write pictures (N, 3, H, W) as one PNG, eight a row, enlarged ``scale`` times without
    smoothing.
    """
    from PIL import Image

    side = pictures.shape[-1] * scale
    rows = -(-len(pictures) // GRID_COLUMNS)
    sheet = Image.new("RGB", (GRID_COLUMNS * side, rows * side), "white")
    for index, picture in enumerate(pictures):
        tile = Image.fromarray(picture.permute(1, 2, 0).numpy())
        tile = tile.resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(tile, ((index % GRID_COLUMNS) * side, (index // GRID_COLUMNS) * side))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


class _Sheet(BaseModel):
    """What is read of the file beside a grid of pictures."""

    captions: list[str] = Field(default_factory=list)
    columns: int = Field(default=GRID_COLUMNS, ge=1)


def captions_of(sheet: Path) -> tuple[list[str], int]:
    """The captions of a grid that :func:`save_grid` drew, row by row, and its columns.

    Raises:
        InputError: The file beside it is damaged.
    """
    path = sheet.with_suffix(".json")
    if not path.is_file():
        return [], GRID_COLUMNS
    found = documents.validate(documents.read(path), _Sheet)
    return found.captions, found.columns
