"""Optuna's study of a run: asking for candidates, telling what came of them.

A candidate that breaks a rule or a limit, or that is known, costs no trial: the sampler is asked
again, and how often is noted with the trial that it found at last. A running trial is a claim in
the store; one whose claim is dead is ended as ``interrupted`` and queued again.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from archsearch import files
from archsearch.catalog import CONFIG, trial_network
from archsearch.errors import ArchsearchError, InputError
from archsearch.search_space.space import Point, label
from archsearch.study.beliefs import Beliefs
from archsearch.study.deaths import is_suspect, outcome_of, worker_facts
from archsearch.study.kept import FinishedTrials
from archsearch.study.notes import (
    AGAIN,
    CANDIDATE,
    REPEATED,
    TRAINING,
    is_finished,
    notes_of,
    steps_of,
)
from archsearch.study.pace import Pace
from archsearch.study.proposals import (
    NothingFeasibleError,
    Proposals,
    choices,
    distribution,
    suggest,
    value_of,
)
from archsearch.study.rundir import RunDir
from archsearch.study.search import FURTHER, Further, Search, Taken
from archsearch.study.setting import Candidate, InfeasibleError, Setting
from archsearch.study.store import Store
from archsearch.unet.config import UNetConfig

MAX_KILLS = 3
"""A trial whose worker died so often in a row, without a checkpoint in between, is given up."""

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.WARNING)
optuna.logging.disable_default_handler()  # it would print what a database holds as it is
optuna.logging.enable_propagation()


class NotBegunError(InputError):
    """A run has no trials yet, nor a study to put them into: it was never begun, or is just making
    its data ready.
    """


@dataclass(frozen=True)
class Asked:
    """A candidate that was asked for, and the trial that it is."""

    trial: Trial
    candidate: Candidate

    @property
    def number(self) -> int:
        """Of the trial."""
        return self.trial.number


@dataclass(frozen=True)
class FurtherTraining:
    """A longer or repeated training of a trial's network that is to be done."""

    further: Further
    network: UNetConfig
    steps: int | None


class Trials:
    """The trials of a run.

    Args:
        run: Its folder.
        setting: Its study.
        store: Its store, whose claims say who runs which trial.
        create: Whether to begin the study where there is none, and queue what is tried first.
        looking: Whether finished trials are read from what is kept of them, as is quicker for who
            looks at a run; who works on it needs Optuna to have read them anyway.

    Raises:
        NotBegunError: The run has no study yet.
        InputError: Its database is damaged.
        ArchsearchError: The database cannot be written.
    """

    def __init__(
        self,
        run: RunDir,
        setting: Setting,
        store: Store,
        create: bool = False,
        looking: bool = False,
    ) -> None:
        self.run, self.setting, self.store = run, setting, store
        database = run.storage
        if not create and database.path is not None and not database.path.is_file():
            raise NotBegunError(f"{run.path}: has no study.db yet; `archsearch run` starts it.")
        with database.told():
            with database.alone():  # Optuna makes its tables where there are none
                self._storage = RDBStorage(
                    database.address, engine_kwargs=database.engine_arguments
                )
            try:
                self.study = (
                    optuna.create_study(
                        storage=self._storage,
                        study_name=setting.name,
                        directions=list(setting.spec.objectives.values()),
                        load_if_exists=True,
                    )
                    if create
                    else optuna.load_study(storage=self._storage, study_name=setting.name)
                )
            except KeyError as error:
                message = f"{database}: holds no study named '{setting.name}'."
                raise NotBegunError(message) from error
        dimensions = setting.space.dimensions
        self._space = {name: distribution(d) for name, d in dimensions.items()}
        self._shared = {
            name: self._space[name]
            for name in sorted(dimensions)
            if dimensions[name].when is None and len(dimensions[name].values) > 1
        }
        """Dimensions that every trial has a choice in."""
        self._kept = (
            FinishedTrials(store.engine, self._storage, setting.name, self._space)
            if looking
            else None
        )
        self.search, self.pace = Search(setting), Pace(setting, store)
        self._beliefs: tuple[Any, Beliefs] | None = None
        self.out_of_memory: set[Further] = set()
        """Further trainings that this process had no memory for."""
        self._check_space()
        if create:
            self.study.set_metric_names(list(setting.spec.objectives))
            self._queue_first()

    def all(self) -> list[FrozenTrial]:
        """Every trial, by number; not to be changed."""
        return self._trials()

    def complete(self) -> list[FrozenTrial]:
        """Trials with scores, by number; not to be changed."""
        return self._trials(TrialState.COMPLETE)

    def running(self) -> list[FrozenTrial]:
        """Trials under way, by number; not to be changed."""
        return self._trials(TrialState.RUNNING)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        with self.run.storage.told():
            if self._kept is None:
                return self.study.get_trials(deepcopy=False, states=states or None)
            every = self._kept.all()
        return [trial for trial in every if trial.state in states] if states else every

    def _trial(self, number: int) -> FrozenTrial | None:
        """One trial; None where there is none."""
        if self._kept is not None and (finished := self._kept.finished(number)):
            return finished
        trials = self.all()
        return trials[number] if number < len(trials) else None

    def _check_space(self) -> None:
        """Refuse trials of another space: nothing that is said of them would hold.

        Raises:
            InputError: A trial has a choice that the space has not.
        """
        for trial in self.all():
            for name, theirs in trial.distributions.items():
                own = self._space.get(name)
                if theirs is not own and theirs != own:
                    raise InputError(
                        f"{self.run.path / 'space.yaml'}: is not the space of this run's trials: "
                        f"trial {trial.number} chose '{name}' from {choices(theirs)}. Take "
                        "it from a copy."
                    )

    def finished(self) -> int:
        """How many trials count towards the number that was asked for."""
        return sum(map(is_finished, self.all()))

    def beliefs(self, trials: Sequence[FrozenTrial] | None = None) -> Beliefs:
        """What is believed of the quality of networks, given every training so far."""
        trials = self.all() if trials is None else trials
        state = (self.store.state(), [(t.state, "digest" in notes_of(t)) for t in trials])
        if self._beliefs is None or self._beliefs[0] != state:
            self._beliefs = (state, Beliefs(self.setting, self.store, trials))
        return self._beliefs[1]

    def network(self, number: int) -> UNetConfig:
        """The architecture of a trial. One that another machine has asked for is built from its
        point, and kept beside the others.

        Raises:
            InputError: There is no such trial, or it was never built.
        """
        path = self.run.trial(number) / CONFIG
        trial = self._trial(number)
        digest = None if trial is None else notes_of(trial).get("digest")
        if trial is not None and not path.is_file():
            self._build(trial)
        return trial_network(self.run.path, number, digest)

    def collect(self) -> None:
        """Bring into the run's folder what other machines have made of trials."""
        for trial in self.all():
            if not (self.run.trial(trial.number) / CONFIG).is_file():
                self._build(trial)
        self.run.artifacts.fetch_all("trials")

    def _build(self, trial: FrozenTrial) -> None:
        if (digest := notes_of(trial).get("digest")) is None:
            return
        network = self.setting.space.build(self._point(trial))
        if network.digest == digest:
            files.write_json(self.run.trial(trial.number) / CONFIG, network.to_dict())

    # Asking

    def next(self, target: int) -> Asked | FurtherTraining | None:
        """Take what is to be done next: a further training of a trial that deserves it, else a new
        candidate; None when there is nothing, or nothing that could end in time.

        Further trainings do not count among the ``target`` trials.

        Raises:
            ArchsearchError: The sampler finds nothing that keeps rules and limits.
        """
        with self.store.claims.held("asking"):
            trials = self.all()
            ending = self._busy(trials) >= target
            if found := self._further(trials, ending):
                return found
            if ending or not self._fits(trials):
                return None
            return self._ask(target)

    def ask(self, target: int | None = None) -> Asked | None:
        """Take the next candidate, or None when ``target`` trials are finished or running.

        One worker at a time: counting and asking are one step. The sampler is seeded by the study's
        seed and the number of proposals before. A queued candidate (a preset, say) that breaks a
        limit ends at once, by name, and the next is taken.

        Raises:
            ArchsearchError: The sampler finds nothing that keeps rules and limits.
        """
        with self.store.claims.held("asking"):
            return self._ask(target)

    @staticmethod
    def _busy(trials: Sequence[FrozenTrial]) -> int:
        return sum(is_finished(t) or t.state == TrialState.RUNNING for t in trials)

    def _fits(
        self,
        trials: Sequence[FrozenTrial],
        samples: int | None = None,
        macs: float | None = None,
    ) -> bool:
        if self.store.clock.minutes is None:
            return True
        beliefs = self.beliefs(trials)
        shown = len({*beliefs.front, *beliefs.presets})
        return self.pace.fits(self.complete(), shown, samples, macs)

    def further_under_way(self) -> list[Further]:
        """Further trainings that somebody alive is at."""
        return [Further.of_claim(name) for name in self.store.claims.held_with(FURTHER)]

    def _further(self, trials: Sequence[FrozenTrial], ending: bool) -> FurtherTraining | None:
        search = self.setting.spec.search
        if search.rungs.count == 1 and not search.share_of_repeats:
            return None
        beliefs = self.beliefs(trials)
        claimed = self.further_under_way()

        def barred(further: Further) -> bool:
            if further in claimed or further in self.out_of_memory:
                return True
            trial = trials[further.number]
            if self.store.find(self._key(trial, further.seed), further.budget):
                return True  # it has ended, without scores
            seen = beliefs.reached[trial.number] if further.seed == 0 else 0
            left = further.budget - seen
            return not self._fits(trials, left, notes_of(trial)["macs"])

        further = self.search.further(beliefs, claimed, barred, ending)
        if further is None or not self.store.claims.take(further.claim):
            return None
        return self.further(further)

    def further(self, further: Further) -> FurtherTraining:
        """A further training that somebody holds, with what it trains."""
        steps = steps_of(self.all()[further.number])
        return FurtherTraining(further, self.network(further.number), steps)

    def _key(self, trial: FrozenTrial, seed: int) -> str:
        network = self.network(trial.number)
        return self.store.key(self.setting.proxy(network), seed)

    def _ask(self, target: int | None = None) -> Asked | None:
        while True:
            trials = self.all()
            if target is not None and self._busy(trials) >= target:
                return None
            modelled = self.setting.spec.search.sampler.name == "surrogate"
            believed = partial(self._believed, trials) if modelled else None
            sampler = Proposals(self.setting, self._space, self._shared, trials, believed)
            self.study.sampler = sampler
            trial = self.study.ask()
            try:  # Optuna asks the sampler when the first value is suggested
                point = self.setting.space.choose(lambda name, d, t=trial: suggest(t, name, d))  # type: ignore[misc]
            except NothingFeasibleError as error:
                self.end(trial.number, error.outcome, str(error))
                raise ArchsearchError(str(error)) from error
            try:
                candidate = sampler.chosen or self.setting.candidate(point)
            except InfeasibleError as error:
                self.end(trial.number, error.outcome, str(error))
                continue
            noted = {"redrawn": sampler.redrawn, REPEATED: sampler.gave_up}
            return self._begin(trial, candidate, {k: v for k, v in noted.items() if v})

    def _believed(
        self, trials: Sequence[FrozenTrial], taken: Taken, asked: int
    ) -> Candidate | None:
        """What the model of the scores proposes; None where all it comes upon are taken."""
        running = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
        return self.search.propose(self.beliefs(trials), running, taken, asked)

    def ask_at(self, point: Point) -> Asked:
        """Begin a trial at a point that somebody else has chosen.

        It counts as one proposal, so that a search in which the same points are given at the same
        places repeats.

        Raises:
            InfeasibleError: The point breaks a rule or a limit; it costs no trial.
        """
        candidate = self.setting.candidate(point)
        labels = {name: label(value) for name, value in point.items()}
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=labels,
            distributions={name: self._space[name] for name in labels},
            user_attrs={"queued": labels},
        )
        with self.store.claims.held("asking"):
            study = self._storage.get_study_id_from_name(self.setting.name)
            trial = Trial(self.study, self._storage.create_new_trial(study, template))
            return self._begin(trial, candidate, {})

    def _begin(self, trial: Trial, candidate: Candidate, noted: dict[str, Any]) -> Asked:
        self.store.claims.take(_claim(trial.number))
        self._note(trial, candidate, noted)
        files.write_json(self.run.trial(trial.number) / CONFIG, candidate.network.to_dict())
        return Asked(trial, candidate)

    def take_up(self, number: int) -> Asked | None:
        """A trial that another process has asked for, and holds; None where it has ended."""
        frozen = self.all()[number]
        if frozen.state != TrialState.RUNNING:
            return None
        self.study.sampler = RandomSampler()  # is not asked: every parameter is there
        study = self._storage.get_study_id_from_name(self.setting.name)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study, number)
        return Asked(Trial(self.study, trial_id), self.candidate(frozen))

    def candidate(self, trial: FrozenTrial) -> Candidate:
        """The candidate that a trial is, built from its point.

        Raises:
            KeyError: Its point is not whole.
            InfeasibleError: It breaks a rule or a limit.
        """
        return self.setting.candidate(self._point(trial))

    def _point(self, trial: FrozenTrial) -> Point:
        return self.setting.space.choose(lambda name, d: value_of(d, trial.params[name]))

    def _note(self, trial: Trial, candidate: Candidate, noted: dict[str, Any]) -> None:
        costs = candidate.costs
        for name, limit in self.setting.spec.limits.items():
            if limit.max is not None:
                trial.set_constraint(name, costs.scores[name] / limit.max - 1)
            if limit.min is not None:
                trial.set_constraint(f"{name}, at least", 1 - costs.scores[name] / limit.min)
        noted = noted | costs.scores | {"digest": candidate.network.digest}
        noted["worker"] = worker_facts()
        if costs.provenance:
            noted |= {"provenance": costs.provenance, "latency_note": costs.note}
        trial.set_user_attr(CANDIDATE, noted)

    def _queue_first(self) -> None:
        with self.store.claims.held("asking"):
            queued = [notes_of(trial) for trial in self.all()]
            first = self.setting.spec.search.first
            if "presets" in first:
                for name, point in self.setting.presets().items():
                    if not any(attrs.get("preset") == name for attrs in queued):
                        self._queue(point, {"preset": name})
            if "cheapest" in first and not any("cheapest" in attrs for attrs in queued):
                self._queue(self.setting.cheapest(), {"cheapest": True})
            for index, labels in enumerate(self.setting.spec.search.points):
                if not any(attrs.get("given") == index for attrs in queued):
                    self._queue(self.setting.space.point(labels), {"given": index})

    def _queue(self, point: Point, attrs: dict[str, Any]) -> None:
        labels = {name: label(value) for name, value in point.items()}
        self.study.enqueue_trial(labels, user_attrs=attrs | {"queued": labels})

    # Telling

    def tell(
        self, trial: Trial, scores: Mapping[str, float], details: Mapping[str, Any] | None = None
    ) -> None:
        """End a trial with its scores; those of its costs are known.

        Args:
            trial: A running trial.
            scores: By name.
            details: What else is to be noted of it.

        Raises:
            InputError: A score that is an objective is missing.
        """
        known = {**notes_of(trial), **scores}
        objectives = self.setting.spec.objectives
        if missing := [name for name in objectives if name not in known]:
            raise InputError(f"tell: {', '.join(missing)} is an objective, but was not given.")
        trial.set_user_attr(TRAINING, {**scores, **(details or {})})
        self.study.tell(trial, [known[name] for name in objectives], skip_if_finished=True)
        self.store.claims.release(_claim(trial.number))

    def end(self, number: int, outcome: str, reason: str, **details: Any) -> None:
        """End a running trial that has no scores, with what else is to be noted of it."""
        study = self._storage.get_study_id_from_name(self.setting.name)
        trial = self._storage.get_trial_id_from_study_id_trial_number(study, number)
        self._storage.set_trial_user_attr(trial, "outcome", outcome)
        self._storage.set_trial_user_attr(trial, "reason", reason)
        if details:
            self._storage.set_trial_user_attr(trial, TRAINING, details)
        self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        self.store.claims.release(_claim(number))

    # Giving back

    def give_back(self, number: int) -> None:
        """End a running trial as interrupted and queue it again.

        It is queued before it is ended; cut off between the two, it is not queued twice.
        """
        with self.store.claims.held("asking"):
            self._give_back(self.all()[number])
            self.store.claims.release(_claim(number))

    def _give_back(self, trial: FrozenTrial, **noted: Any) -> None:
        if trial.state != TrialState.RUNNING:
            return
        kept = {
            name: value
            for name, value in notes_of(trial).items()
            if name in ("preset", "cheapest", "given", "kills", "killed_at")
        }
        # One that was cut off before its point was whole is proposed again instead.
        whole = trial.params if "digest" in notes_of(trial) else None
        params = notes_of(trial).get("queued") or whole
        # It may have been cut off right here the last time.
        if params and not any(notes_of(t).get(AGAIN) == trial.number for t in self.all()):
            noted |= {"queued": params, AGAIN: trial.number}
            self.study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.WAITING,
                    user_attrs=kept | noted,
                    # The generation too, as NSGA-II notes it: the trial is to count as it did.
                    system_attrs=trial.system_attrs | {"fixed_params": params},
                )
            )
        self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def let_go(self, number: int) -> None:
        """Give back the claim of a trial that another process has ended for this one."""
        self.store.claims.release(_claim(number))

    def requeue_dead(self, blame: bool = True, own: bool = False) -> int:
        """Queue again what workers left behind that are gone. Returns how many.

        Args:
            blame: Whether a trial whose worker died while its coordinator lives is suspected of
                it: after ``MAX_KILLS`` without any progress it is given up. Not where a whole run
                was killed from outside and is taken up again.
            own: Whether what this very process has asked for and not told counts as left behind.
        """
        claims = self.store.claims
        with claims.held("asking"):
            dead = [
                trial
                for trial in self.running()
                for name in [_claim(trial.number)]
                if not claims.is_held(name) or (own and claims.is_own(name))
            ]
            for trial in dead:
                claims.release(_claim(trial.number))
                noted = notes_of(trial)
                seen = noted.get("samples_seen", 0)
                before = noted.get("kills", 0) if seen <= noted.get("killed_at", 0) else 0
                kills = before + (blame and is_suspect(noted))
                if kills < MAX_KILLS:
                    self._give_back(trial, kills=kills, killed_at=seen)
                else:
                    reason = f"its worker was killed {kills} times"
                    self.end(trial.number, outcome_of(noted), reason)
            return len(dead)


def _claim(number: int) -> str:
    return f"trial {number}"
