"""A network that a sampler proposes a second time: nothing new comes of it, so another is asked for
instead.

Genetic and model-based samplers come back to what they know, the more often the smaller the space.
Each time would count as one of the trials that were asked for, answered from the store.
"""

import optuna
from optuna.trial import FrozenTrial, TrialState

from archsearch.study import trials as storage
from archsearch.study.results import steps_of

OUTCOME = "repeated"
PATIENCE = 50
"""Repetitions in a row after which the space counts as searched: further ones are answered from the
store, so that a study ends.
"""


def repeated(study: optuna.Study, number: int) -> int | None:
    """Number of the trial whose network, and whose number of steps where these are searched, trial
    ``number`` proposes again.

    None for what is new, for what was not the sampler's proposal (a preset, a trial that is run
    again), and where the sampler has found nothing new for long. The trial must have its
    ``digest``.
    """
    trials = study.get_trials(deepcopy=False)
    trial = trials[number]
    if "fixed_params" in trial.system_attrs or _in_a_row(trials) >= PATIENCE:
        return None
    wanted = _identity(trial)
    return next(
        (other.number for other in trials if _counts(other, number) and _identity(other) == wanted),
        None,
    )


def _identity(trial: FrozenTrial) -> tuple[str | None, int | None]:
    return trial.user_attrs.get("digest"), steps_of(trial)


def _counts(other: FrozenTrial, number: int) -> bool:
    """Of two that run at the same time, the later one is the repetition."""
    return storage.is_finished(other) or (
        other.state == TrialState.RUNNING and other.number < number
    )


def _in_a_row(trials: list[FrozenTrial]) -> int:
    """How many trials in a row brought nothing new, those left out that run or were rejected."""
    count = 0
    for trial in reversed(trials):
        if storage.outcome(trial) == OUTCOME or trial.user_attrs.get("from_store"):
            count += 1
        elif storage.is_finished(trial):
            break
    return count
