"""What Optuna is told of a study's space, and the samplers that propose points of it: Optuna's, by
the name that a study file has for them, and around each one that asks until a proposal is feasible
and new.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, Trial, TrialState

from archsearch.search_space.space import Dimension, Point, label
from archsearch.study.notes import AGAIN, REPEATED, is_finished, notes_of, steps_of
from archsearch.study.search import Taken
from archsearch.study.setting import Candidate, InfeasibleError, Setting
from archsearch.study.spec import Sampler

MAX_REJECTIONS = 2000
"""Candidates in a row that break rules or limits, after which a search gives up."""
PATIENCE = 50
"""Known networks in a row after which the space counts as searched: from then on they are answered
from the store, so that a study ends."""

Believed = Callable[[Taken, int], Candidate | None]
"""What a model of the scores proposes, given what is taken and how many proposals came before; None
where all it comes upon are taken."""


def distribution(dimension: Dimension) -> BaseDistribution:
    """A dimension as Optuna has it."""
    if dimension.range is not None:
        return IntDistribution(*dimension.range, step=dimension.step)
    return CategoricalDistribution([label(choice) for choice in dimension.values])


def choices(distribution: BaseDistribution) -> str:
    """What a distribution allows, for a message."""
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    return str(distribution)


def suggest(trial: Trial, name: str, dimension: Dimension) -> Any:
    """The value that a trial's sampler gives a dimension."""
    if dimension.range is not None:
        return trial.suggest_int(name, *dimension.range, step=dimension.step)
    return value_of(dimension, trial.suggest_categorical(name, list(map(label, dimension.values))))


def value_of(dimension: Dimension, parameter: Any) -> Any:
    """The value of a dimension that Optuna has as ``parameter``: a number, or a choice's label."""
    if dimension.range is not None:
        return parameter
    return next(choice for choice in dimension.values if label(choice) == parameter)


def make_sampler(sampler: Sampler, seed: int) -> BaseSampler:
    """Build the Optuna sampler that a study names."""
    match sampler.name:
        case "nsga2":
            return NSGAIISampler(population_size=sampler.population_size or 50, seed=seed)
        case "tpe":
            startup = 10 if sampler.startup_trials is None else sampler.startup_trials
            return TPESampler(n_startup_trials=startup, multivariate=True, group=True, seed=seed)
        case "nsga3":
            return NSGAIIISampler(population_size=sampler.population_size or 50, seed=seed)
        case "gp":
            startup = 10 if sampler.startup_trials is None else sampler.startup_trials
            return GPSampler(
                n_startup_trials=startup,
                deterministic_objective=False,
                seed=seed,
                warn_independent_sampling=False,
            )
        case "qmc":
            return QMCSampler(scramble=True, seed=seed, warn_independent_sampling=False)
        case "random" | "surrogate":  # what the model leaves to chance
            return RandomSampler(seed=seed)


class NothingFeasibleError(Exception):
    """Every proposal broke a rule or a limit."""

    def __init__(self, count: int, last: InfeasibleError) -> None:
        super().__init__(
            f"the last {count} candidates all broke the limits or rules, the last one: {last}."
        )
        self.outcome = last.outcome


class Proposals(BaseSampler):
    """Asks an Optuna sampler for points until one is feasible and new.

    Each proposal has a sampler of its own, seeded by the study's seed and the number of proposals
    made before it in the whole study.

    Args:
        setting: The study.
        space: Its dimensions as Optuna has them, by name.
        shared: Those in which every trial has a choice.
        known: Every trial so far.
        believed: What proposes in the sampler's place, as long as it finds something.
    """

    def __init__(
        self,
        setting: Setting,
        space: dict[str, BaseDistribution],
        shared: dict[str, BaseDistribution],
        known: Sequence[FrozenTrial],
        believed: Believed | None = None,
    ) -> None:
        self._setting, self._space, self._shared = setting, space, shared
        self._believed = believed
        self.redrawn: dict[str, int] = {}
        """How many proposals were set aside, by what they broke."""
        self.chosen: Candidate | None = None
        self.gave_up = False
        """Whether it took a known network, since it found no new one."""
        self._taken = {
            (notes_of(t).get("digest"), steps_of(t))
            for t in known
            if is_finished(t) or t.state == TrialState.RUNNING
        }
        # A trial that runs again was proposed once; one that was cut off before its point was whole
        # is proposed again, the same: so a study that was interrupted is that which was not.
        self._asked = sum(
            1 + sum(notes_of(t).get("redrawn", {}).values())
            for t in known
            if AGAIN not in notes_of(t) and {"digest", "outcome"} & notes_of(t).keys()
        )
        last = next((t for t in reversed(known) if is_finished(t)), None)
        self._patience = 0 if last and notes_of(last).get("repeated") else PATIENCE

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """What is to be proposed: all, but for a trial whose point is given."""
        return {} if "queued" in notes_of(trial) else self._space

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """A point that is feasible and new.

        Raises:
            NothingFeasibleError: All that was proposed breaks rules or limits.
        """
        if search_space and self._believed:
            self.chosen = self._believed(self._is_taken, self._asked)
            if self.chosen:
                self._asked += 1
                return self._setting.space.labels(self.chosen.point)
        broken_in_a_row = 0
        while search_space:
            point = self._propose(study, trial)
            self._asked += 1
            try:
                candidate = self._setting.candidate(point)
            except InfeasibleError as error:
                broken_in_a_row += 1
                if broken_in_a_row >= MAX_REJECTIONS:
                    raise NothingFeasibleError(broken_in_a_row, error) from error
                self._set_aside(error.outcome)
                continue
            if self._is_taken(candidate):
                if self.redrawn.get(REPEATED, 0) < self._patience:
                    self._set_aside(REPEATED)
                    continue
                self.gave_up = True
            self.chosen = candidate
            return {name: label(value) for name, value in point.items()}
        return {}

    def _is_taken(self, candidate: Candidate) -> bool:
        return (candidate.network.digest, candidate.steps) in self._taken

    def _propose(self, study: optuna.Study, trial: FrozenTrial) -> Point:
        search = self._setting.spec.search
        digest = hashlib.sha256(f"{search.seed}:{self._asked}".encode()).digest()
        sampler = make_sampler(search.sampler, int.from_bytes(digest[:4], "big"))
        if isinstance(sampler, NSGAIISampler):
            shared = self._shared  # what it would gather from all trials, each time anew
        else:
            shared = sampler.infer_relative_search_space(study, trial)
        relative = sampler.sample_relative(study, trial, shared)

        def choose(name: str, dimension: Dimension) -> Any:
            if len(dimension.values) == 1:
                return dimension.values[0]
            value = (
                relative[name]
                if name in relative
                else sampler.sample_independent(study, trial, name, self._space[name])
            )
            return value_of(dimension, value)

        return self._setting.space.choose(choose)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Never needed: what is not proposed is a queued trial, which names every dimension."""
        raise AssertionError(f"{param_name} was not proposed")

    def _set_aside(self, reason: str) -> None:
        self.redrawn[reason] = self.redrawn.get(reason, 0) + 1
