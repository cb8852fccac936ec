"""Searches of other libraries, behind one small face for ``search.py``: those for many objectives
of neural-pipeline-search and of Syne Tune. They are no dependencies of archsearch; install them
beside it: ``pip install neural-pipeline-search syne-tune``, and botorch 0.12 for the former.

Every dimension is a categorical one to them, active or not. Those with several fidelities may train
a third as long: that costs a third, and has the noise of a third of the pictures (√3 times the
whole's); the order of the networks is the same, which is kind to them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

FULL = 3
"""Units of a whole training; the shortest is one."""


class Proposal(NamedTuple):
    """A point that is to be trained for so many units; ``handle`` is the library's own."""

    point: dict[str, Any]
    units: int
    paid: int
    """Units that an earlier, shorter training of it has been paid for."""
    handle: Any


class Searcher(Protocol):
    """What all of them can do."""

    def ask(self) -> Proposal: ...

    def tell(self, proposal: Proposal, values: Sequence[float]) -> None: ...


class Neps:
    """PriMO or MO-ASHA of neural-pipeline-search."""

    def __init__(self, name: str, choices: Mapping[str, Sequence[Any]], seed: int) -> None:
        import neps
        import torch

        np.random.seed(seed)
        torch.manual_seed(seed)
        elements: dict[str, Any] = {
            knob: neps.HPOCategorical(list(map(str, values))) for knob, values in choices.items()
        }
        elements["units"] = neps.HPOInteger(1, FULL, is_fidelity=True)
        space = neps.SearchSpace(elements)
        optimizer = (
            neps.algorithms.primo(space, prior_centers={})
            if name == "primo"
            else neps.algorithms.moasha(space)
        )
        self._search = neps.AskAndTell(optimizer)
        self._names = {knob: {str(v): v for v in values} for knob, values in choices.items()}
        self._paid: dict[str, int] = {}

    def ask(self) -> Proposal:
        trial = self._search.ask()
        point = {knob: names[trial.config[knob]] for knob, names in self._names.items()}
        units, start = int(trial.config["units"]), trial.metadata.id.partition("_")[0]
        return Proposal(point, units, self._paid.get(start, 0), trial.metadata.id)

    def tell(self, proposal: Proposal, values: Sequence[float]) -> None:
        self._paid[proposal.handle.partition("_")[0]] = proposal.units
        result = {"objective_to_minimize": list(map(float, values))}
        self._search.tell(proposal.handle, result)


class SyneTune:
    """Regularised evolution for several objectives, or MO-ASHA, of Syne Tune."""

    def __init__(self, name: str, choices: Mapping[str, Sequence[Any]], seed: int) -> None:
        from syne_tune.config_space import choice
        from syne_tune.optimizer.schedulers.multiobjective import MultiObjectiveRegularizedEvolution
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        self._names = {knob: {str(v): v for v in values} for knob, values in choices.items()}
        space = {knob: choice(list(names)) for knob, names in self._names.items()}
        np.random.seed(seed)
        self._halving = self._evolution = None
        if name == "moasha":
            self._halving = MOASHA(
                space, ["loss", "cost"], time_attr="units", max_t=FULL, random_seed=seed
            )
        else:
            self._evolution = MultiObjectiveRegularizedEvolution(
                space, population_size=10, sample_size=5, random_seed=seed
            )
        self._count, self._going_on = 0, list[Proposal]()

    def ask(self) -> Proposal:
        if self._going_on:
            return self._going_on.pop()
        self._count += 1
        if self._evolution is not None:
            config = self._evolution.suggest()
            return Proposal(self._point(config), FULL, 0, (str(self._count), config))
        from syne_tune.backend.trial_status import Trial

        config = self._halving.suggest().config
        trial = Trial(self._count, config, None)
        self._halving.on_trial_add(trial)
        return Proposal(self._point(config), 1, 0, trial)

    def _point(self, config: Mapping[str, str]) -> dict[str, Any]:
        return {knob: names[config[knob]] for knob, names in self._names.items()}

    def tell(self, proposal: Proposal, values: Sequence[float]) -> None:
        loss, cost = map(float, values)
        if self._evolution is not None:
            self._evolution.on_trial_complete(*proposal.handle, [loss, cost])
            return
        result = {"loss": loss, "cost": cost, "units": proposal.units}
        if self._halving.on_trial_result(proposal.handle, result) == "CONTINUE":
            self._going_on.append(Proposal(proposal.point, FULL, proposal.units, proposal.handle))


def searcher(name: str, choices: Mapping[str, Sequence[Any]], seed: int) -> Searcher:
    """``neps-primo``, ``neps-moasha``, ``syne-evolution`` or ``syne-moasha``."""
    library, _, kind = name.partition("-")
    return {"neps": Neps, "syne": SyneTune}[library](kind, choices, seed)
