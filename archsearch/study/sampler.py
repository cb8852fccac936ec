"""What Optuna chooses: a point of the space, and the number of steps where that is searched."""

from typing import Any

import optuna
from optuna.trial import Trial

from archsearch.diffusion.sample import Sampling
from archsearch.space.format import Dimension, label
from archsearch.space.space import Point, Space
from archsearch.study.setting import STEPS_PARAMETER
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
    return trial.suggest_categorical(STEPS_PARAMETER, list(sampling.searched)) if sampling.searched else None


def make_sampler(sampler: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    """Build the Optuna sampler."""
    match sampler.name:
        case "nsga2":
            return optuna.samplers.NSGAIISampler(population_size=sampler.population_size or 50, seed=seed)
        case "tpe":
            startup = 10 if sampler.startup_trials is None else sampler.startup_trials
            return optuna.samplers.TPESampler(n_startup_trials=startup, multivariate=True, group=True, seed=seed)
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
