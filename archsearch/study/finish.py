"""What is done once, after the last trial: further seeds to compare, metrics, sample pictures."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from archsearch.diffusion.sample import sample
from archsearch.files import write_bytes, write_json
from archsearch.metrics.evaluate import seen_rows
from archsearch.study.results import Results, ScoredTrial
from archsearch.study.spec import MEASURED
from archsearch.study.store import Store
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

GRID_PICTURES = 16
GRID_COLUMNS = 8


@dataclass(frozen=True)
class Job:
    """A piece of work that several workers may meet and one does."""

    name: str
    do: Callable[[], None]

    def run_once(self, store: Store, wait: bool = False) -> None:
        """Do the job, unless another worker is at it; with ``wait``, when that one has ended. What
        is done already takes no time.
        """
        with store.claims.held(self.name, wait, poll_seconds=0.5) as mine:
            if mine:
                self.do()


def finishing_jobs(results: Results) -> list[Job]:
    """Everything left to do for a run whose trials are finished, the longest first."""
    setting, store = results.setting, results.store
    names = [name for name in setting.spec.report if name in MEASURED]
    jobs = []
    for trial in _repeated(results):
        for seed in range(1, setting.spec.search.confirm_seeds):
            jobs.append(_seed_job(results, trial, seed))
    shown = [(trial, results.trials.network(trial.number)) for trial in results.shown()]
    for trial, network in shown if names else ():

        def take(trial: ScoredTrial = trial, network: UNetConfig = network) -> None:
            store.metrics(store.score(network), names, trial.steps)

        jobs.append(Job(f"metrics of trial {trial.number}", take))
    for trial, network in shown:

        def draw(trial: ScoredTrial = trial, network: UNetConfig = network) -> None:
            name = f"trials/{trial.number}/samples"
            if store.artifacts.fetch(f"{name}.png") is None:
                path = results.run.path / f"{name}.png"
                model = store.load(store.score(network))
                draw_seen(store, model, path, setting.spec.search.seed + 1, trial.steps)
                store.artifacts.push(f"{name}.json", f"{name}.png")

        jobs.append(Job(f"pictures of trial {trial.number}", draw))
    return jobs


def _repeated(results: Results) -> list[ScoredTrial]:
    """Trials that are trained with further seeds: what is compared, or the ends of the front where
    no preset is there to compare.

    Without any, nobody could say which members of the front differ by more than seeds do.
    """
    compared = {trial.number: trial for pair in results.comparisons() for trial in pair}
    if not compared and results.quality:
        members = results.front()
        compared = {trial.number: trial for trial in (*members[:1], *members[-1:])}
    return list(compared.values())


def _seed_job(results: Results, trial: ScoredTrial, seed: int) -> Job:
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

    def do() -> None:
        record = store.score(network, seed=seed)
        if record.outcome == "complete" and names:
            store.metrics(record, names)
        store.drop(record.name)

    return Job(f"seed {seed} of trial {trial.number}", do)


def draw_seen(
    store: Store,
    model: UNet,
    path: Path,
    seed: int,
    steps: int | None = None,
    count: int = GRID_PICTURES,
) -> None:
    """Draw pictures of captions seen in training into ``path`` (PNG), their captions beside it as
    JSON.
    """
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


def save_grid(pictures: Tensor, path: Path, scale: int = 3) -> None:
    """Write pictures (N, 3, H, W) as one PNG, eight a row, enlarged ``scale`` times without
    smoothing.
    """
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
