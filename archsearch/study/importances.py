"""How much of the spread of each objective goes with each knob, over the trials of a run.

These are shares of variance, not effects: they say which knobs the objective hung on among the
trials that were made, and neither in which direction nor by how much. Adaptive samplers try good
values more often, which changes the shares; ``proxy ablate`` measures effects.
"""

from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial

from archsearch.errors import InputError
from archsearch.study.trials import Trials

if TYPE_CHECKING:
    import pandas as pd

LEAST_TRIALS = 10
"""Finished trials below which a forest of trees says nothing."""
MOST_TRIALS = 200
"""Finished trials up to which all are looked at; of more so many, evenly taken: it takes too long
else."""
TREES, FEWER_TREES = 64, 32
"""Trees of a forest, and where there are more trials than are looked at."""
WORDS = (
    "Shares of variance by fANOVA (Hutter et al. 2014), each knob by itself; what is lacking to 1 "
    "lies in their interplay. They say which knobs an objective hung on among these trials, not in "
    "which direction nor by how much. Of more than "
    f"{MOST_TRIALS} trials {MOST_TRIALS} are looked at, evenly taken."
)


def importances(trials: Trials) -> "pd.DataFrame":
    """Share of each objective's variance that goes with each knob by itself.

    Returns:
        A row a knob, a column an objective, the most important knob of the first one first. Knobs
        that Optuna leaves out, since a condition keeps them out of some trials, or since they had
        one value only, have no number; ``.attrs["left_out"]`` says why.

    Raises:
        InputError: Fewer than ``LEAST_TRIALS`` trials have scores.
    """
    import optuna
    import pandas as pd
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    complete, names = trials.complete(), list(trials.setting.spec.objectives)
    if len(complete) < LEAST_TRIALS:
        raise InputError(
            f"{trials.run.path}: importances need {LEAST_TRIALS} trials with scores; there are "
            f"{len(complete)}."
        )
    left_out = {}
    for knob in trials.setting.space.dimensions:
        values = [trial.params[knob] for trial in complete if knob in trial.params]
        if len(values) < len(complete):
            left_out[knob] = f"in {len(values)} of {len(complete)} trials only"
        elif len(set(values)) == 1:
            left_out[knob] = f"always {values[0]}"
    knobs = [knob for knob in trials.setting.space.dimensions if knob not in left_out]
    study, trees = trials.study, TREES
    if len(complete) > MOST_TRIALS:
        step = len(complete) / MOST_TRIALS
        complete = [complete[int(step * place)] for place in range(MOST_TRIALS)]
        trees = FEWER_TREES
        study = optuna.create_study(directions=[*trials.setting.spec.objectives.values()])
        study.add_trials(complete)
    table = pd.DataFrame(index=pd.Index(trials.setting.space.dimensions, name="knob"))
    for index, name in enumerate(names):

        def target(trial: FrozenTrial, index: int = index) -> float:
            return float(trial.values[index])

        # Alike in all trials, an objective has no variance to share out.
        varies = len({target(trial) for trial in complete}) > 1
        shares = (
            get_param_importances(
                study,
                evaluator=FanovaImportanceEvaluator(
                    n_trees=trees, seed=trials.setting.spec.search.seed
                ),
                params=knobs,
                target=target,
                normalize=False,
            )
            if knobs and varies
            else {}
        )
        table[name] = pd.Series(shares, dtype="float64")
    table = table.sort_values(names[0], ascending=False, na_position="last", kind="stable")
    table.attrs["left_out"] = left_out
    return table
