"""What a trial of Optuna's says of itself: how it ended, its candidate, its training.

Each attribute of a trial is a transaction of its own. So what is known of the candidate is one
attribute, and what came of its training another; ``notes_of`` reads them as one.
"""

from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from archsearch.study.setting import STEPS

CANDIDATE = "candidate"
"""Attribute: ``digest`` of the network, its costs, what they rest on, proposals set aside, and the
``worker`` that runs it."""
TRAINING = "training"
"""Attribute: ``key`` of the training, its scores, what it took."""

FINAL_OUTCOMES = ("diverged", "infeasible: memory", "killed")
"""Outcomes that end a trial for good, beside ``complete``."""
INTERRUPTED = "interrupted"
AGAIN = "again"
"""Note of a trial that runs another again, which was interrupted: the number of that."""
REPEATED = "repeated"


def notes_of(trial: FrozenTrial | Trial) -> dict[str, Any]:
    """Everything that is noted of a trial, by name."""
    attrs = trial.user_attrs
    return {**attrs, **attrs.get(CANDIDATE, {}), **attrs.get(TRAINING, {})}


def outcome(trial: FrozenTrial) -> str:
    """How a trial ended, in words; ``running`` or ``waiting`` before that."""
    if trial.state == TrialState.FAIL:
        return str(trial.user_attrs.get("outcome", INTERRUPTED))
    return trial.state.name.lower()


def is_finished(trial: FrozenTrial) -> bool:
    """Whether a trial counts towards the number that was asked for."""
    return outcome(trial) in ("complete", *FINAL_OUTCOMES)


def steps_of(trial: FrozenTrial) -> int | None:
    """Steps of the trial's pictures, where these are searched."""
    return trial.params.get(STEPS)
