"""What is done once, after the last trial: further seeds for comparing, sampled scores, sample
pictures.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial
from PIL import Image
from torch import Tensor

from archsearch.diffusion.sample import sample
from archsearch.files import write_bytes, write_json
from archsearch.metrics.evaluate import seen_rows
from archsearch.study import results
from archsearch.study.rundir import RunDir
from archsearch.study.scoring import Scorer
from archsearch.study.setting import Setting
from archsearch.study.spec import MEASURED
from archsearch.unet.config import UNetConfig

GRID_PICTURES = 16
GRID_COLUMNS = 8


@dataclass(frozen=True)
class Job:
    """A piece of work that several workers may meet and one does."""

    name: str
    is_done: Callable[[], bool]
    do: Callable[[], None]

    def run_once(self, run: RunDir) -> None:
        """Do the job, unless it is done or another worker is at it."""
        try:
            with FileLock(run.locks / f"job-{self.name}.lock", timeout=0):
                if not self.is_done():
                    self.do()
        except Timeout:
            return


def finishing_jobs(study: optuna.Study, scorer: Scorer) -> list[Job]:
    """Everything left to do for a run whose trials are finished, the longest first."""
    setting, run = scorer.setting, scorer.run
    shown = {trial.number: trial for trial in [*results.front(study), *results.presets(study)]}
    jobs = [
        _seed_job(scorer, trial, seed)
        for trial in repeated(study, setting)
        for seed in range(1, setting.spec.search.confirm_seeds)
    ]
    names = tuple(name for name in setting.spec.report if name in MEASURED)
    if names:
        jobs += [_sampled_job(scorer, trial, names) for trial in shown.values()]
    jobs += [
        _grid_job(scorer, trial, run.trial(trial.number) / "samples.png")
        for trial in shown.values()
    ]
    return jobs


def repeated(study: optuna.Study, setting: Setting) -> list[FrozenTrial]:
    """Trials that are trained with further seeds: what is compared, or the ends of the front where
    no preset is there to compare.

    Without any, nobody could say which members of the front differ by more than seeds do.
    """
    compared = {trial.number: trial for pair in comparisons(study, setting) for trial in pair}
    if not compared and results.quality_axis(list(setting.spec.objectives)):
        members = results.front(study)
        compared = {trial.number: trial for trial in (*members[:1], *members[-1:])}
    return list(compared.values())


def comparisons(study: optuna.Study, setting: Setting) -> list[tuple[FrozenTrial, FrozenTrial]]:
    """Each finished preset with its strongest rival: the best quality among the others that cost no
    more.
    """
    objectives = list(setting.spec.objectives)
    quality, cost = results.quality_axis(objectives), results.cost_axis(objectives)
    if quality is None or cost is None:
        return []
    sign = 1.0 if setting.spec.objectives[quality] == "minimize" else -1.0
    pairs = []
    for preset in results.presets(study):
        rivals = [
            trial
            for trial in results.complete(study)
            if trial.user_attrs["key"] != preset.user_attrs["key"]
            and trial.user_attrs[cost] <= preset.user_attrs[cost]
        ]
        if rivals:
            pairs.append((preset, min(rivals, key=lambda trial: sign * trial.user_attrs[quality])))
    return pairs


def _proxy_of(scorer: Scorer, trial: FrozenTrial) -> UNetConfig:
    return scorer.setting.proxy(results.trial_config(scorer.run, trial.number))


def _seed_job(scorer: Scorer, trial: FrozenTrial, seed: int) -> Job:
    """Train once more, and take what else the study scores its networks by, so that the noise of
    each score is known.

    Not where steps are searched: there one training has a quality for each number of them.
    """
    proxy, run = _proxy_of(scorer, trial), scorer.run
    key = scorer.digest(proxy, seed)
    score, weights = run.scores / f"{key}.json", run.weights / f"{key}.safetensors"
    spec = scorer.setting.spec
    wanted = dict.fromkeys(name for name in (*spec.objectives, *spec.report) if name in MEASURED)
    names = tuple(wanted) if results.steps_of(trial) is None else ()

    def is_done() -> bool:
        if not score.is_file():
            return False
        trained = json.loads(score.read_text(encoding="utf-8"))["outcome"] == "complete"
        return not trained or scorer.stored(key, names).keys() >= set(names)

    def do() -> None:
        if (
            names and not weights.is_file()
        ):  # a run of an earlier version, which took no such quality, has removed them
            score.unlink(missing_ok=True)
        if scorer.score(proxy, seed).outcome == "complete" and names:
            scorer.sampled(proxy, key, names)
        weights.unlink(missing_ok=True)

    return Job(f"seed-{key}", is_done, do)


def _sampled_job(scorer: Scorer, trial: FrozenTrial, names: tuple[str, ...]) -> Job:
    key = trial.user_attrs["key"]

    steps = results.steps_of(trial)

    def do() -> None:
        scorer.sampled(_proxy_of(scorer, trial), key, names, steps)

    return Job(
        f"sampled-{key}" if steps is None else f"sampled-{key}-{steps}", lambda: False, do
    )  # the store answers where it is done


def _grid_job(scorer: Scorer, trial: FrozenTrial, path: Path) -> Job:
    def do() -> None:
        data, spec = scorer.data, scorer.setting.spec
        index = seen_rows(data.train, GRID_PICTURES)
        model = scorer.load(_proxy_of(scorer, trial), trial.user_attrs["key"])
        sampling = spec.sampling.at(results.steps_of(trial))
        seed = spec.search.seed + 1
        pictures = sample(
            model,
            data.context[index],
            data.null_context,
            sampling,
            seed,
            scorer.device,
            data.latent,
            spec.proxy.prediction,
        )
        captions = [data.captions[i] for i in index.tolist()]
        write_json(
            path.with_suffix(".json"), {"schema": 1, "captions": captions, "columns": GRID_COLUMNS}
        )
        save_grid(pictures, path)

    return Job(f"grid-{trial.number}", path.is_file, do)


def save_grid(pictures: Tensor, path: Path, scale: int = 3) -> None:
    """Write pictures (N, 3, H, W) as one PNG, eight a row, enlarged ``scale`` times without
    smoothing.
    """
    side = pictures.shape[-1] * scale
    rows = -(-len(pictures) // GRID_COLUMNS)
    sheet = Image.new("RGB", (GRID_COLUMNS * side, rows * side), "white")
    for index, picture in enumerate(pictures):
        tile = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize(
            (side, side), Image.Resampling.NEAREST
        )
        sheet.paste(tile, ((index % GRID_COLUMNS) * side, (index // GRID_COLUMNS) * side))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
