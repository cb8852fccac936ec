"""What a study believes of the quality of its networks, from all its trainings: who is on the front
and how surely, what each choice of each knob costs or gains.
"""

import hashlib
import json
import math
import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from archsearch.errors import InputError
from archsearch.search_space.space import Dimension, InvalidPointError, Point, Space, label
from archsearch.study.front import non_dominated
from archsearch.study.kept import KeptValues
from archsearch.study.notes import notes_of
from archsearch.study.setting import STEPS, Candidate, Setting
from archsearch.study.spec import OF_PROXY, score_of
from archsearch.study.store import Record, Store
from archsearch.study.surrogate import Array, Design, Measurement, Posterior, Surrogate

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 512
"""Joint draws of all qualities that probabilities are taken from."""
SURE = 1.96
"""Standard deviations about its mean between which a normal variable lies in 95 of 100 cases."""
EFFECT_POINTS = 32
"""Random networks of the space over which an effect is a mean."""
MOST_DRAWN = 400
"""Trials up to which all are drawn jointly; of more those that are most likely on the front."""
WORTH_KEEPING = 100
"""Trainings from which on what the model believes is kept for the next look."""
_CODE = [
    hashlib.sha256((Path(__file__).parent / name).read_bytes()).hexdigest()
    for name in ("beliefs.py", "surrogate.py", "front.py")
]
"""Of what believes: another version of it believes something else."""
CAPACITY_RATIO = 1.1
"""From this ratio of parameters on, two choices of a knob differ in capacity."""


@dataclass(frozen=True)
class Subject:
    """A network that something is believed of: a trial, or a point of the space."""

    design: Design
    costs: Mapping[str, float]
    """Every score that needs no training."""


def of_trial(trial: FrozenTrial, proxy: str | None = None) -> Subject:
    """A trial; ``proxy`` names what is trained for it, where that is known."""
    attrs = notes_of(trial)
    name = f"{proxy or attrs['digest']} {trial.params.get(STEPS, '')}".rstrip()
    return Subject(Design(trial.params, attrs["params"], attrs["macs"], name), attrs)


def of_candidate(candidate: Candidate) -> Subject:
    """A point of the space."""
    scores = candidate.costs.scores
    point = {name: label(value) for name, value in candidate.point.items()}
    name = f"{candidate.network.digest} {candidate.steps or ''}".rstrip()
    return Subject(Design(point, scores["params"], scores["macs"], name), scores)


def _of_design(design: Design) -> tuple[Any, ...]:
    return dict(design.point), design.params, design.macs, design.network


class Beliefs:
    """The posterior of a study's qualities, given every training in its store.

    Args:
        setting: The study.
        store: Its store.
        trials: All its trials.
        keys: Of further trainings whose conditions count, where no trial says them.
        qualities: Scores of trained networks; by default those that are objectives.
    """

    def __init__(
        self,
        setting: Setting,
        store: Store,
        trials: Sequence[FrozenTrial],
        keys: Iterable[str] = (),
        qualities: Sequence[str] | None = None,
    ) -> None:
        self.setting, self._store = setting, store
        self._dimensions = setting.space.dimensions
        self.objectives = setting.spec.objectives
        own = [n for n in self.objectives if score_of(n).source in OF_PROXY]
        self.qualities = own if qualities is None else list(qualities)
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        notes = {trial.number: notes_of(trial) for trial in trials}
        own_keys = {t.number: notes[t.number]["key"] for t in complete if "key" in notes[t.number]}
        self._records = store.alike(set(own_keys.values()) | set(keys))
        proxies = {record.key: record.proxy for record in self._records}
        self.subjects = {
            t.number: of_trial(t, proxies.get(notes[t.number].get("key", "")))
            for t in trials
            if "digest" in notes[t.number]
        }
        """Trials that have a network, by number."""
        full = setting.spec.proxy.samples
        longest: dict[str, Record] = {}
        for record in self._records:
            if record.seed == 0 and record.budget <= full:
                known = longest.get(record.key)
                if known is None or known.budget < record.budget:
                    longest[record.key] = record
        self.longest = {n: longest[key] for n, key in own_keys.items() if key in longest}
        """The record of each trial with the longest budget, up to the study's own; none of trials
        that were told from outside."""
        self.reached = {
            t.number: self.longest[t.number].budget if t.number in self.longest else full
            for t in complete
        }
        """The budget that each complete trial has been trained for."""
        self.presets = frozenset(t.number for t in complete if "preset" in notes[t.number])
        self.trainings = len(self._records)
        self.repetitions = sum(record.seed > 0 for record in self._records)
        seeds: dict[str, set[int]] = {}
        for record in self._records:
            seeds.setdefault(record.proxy, set()).add(record.seed)
        self.seeds = {n: len(seeds[proxies[key]]) for n, key in own_keys.items() if key in proxies}
        """With how many seeds each trial's network was trained; trials that were told from outside
        have none."""
        self._taken = store.taken() if self.qualities else {}
        self._told = [t for t in complete if t.number not in self.longest]
        self._trials = {
            own_keys[t.number]: {"point": t.params, **notes[t.number]}
            for t in complete
            if t.number in own_keys
        }

    def sign(self, name: str) -> float:
        """1 for a score that is to be small, -1 for one that is to be large."""
        return 1.0 if score_of(name).direction == "minimize" else -1.0

    # What was measured

    def measured(self, quality: str) -> list[Measurement]:
        """Every training that has the score ``quality``: of trials, of further seeds and budgets,
        of networks that no trial has.
        """
        found = []
        for record in self._records:
            known = record.details if record.details.get("point") else self._trials.get(record.key)
            if known is None:
                continue  # of a network outside the space
            searched = self.setting.spec.sampling.searched
            for steps in (0,) if quality in record.scores or not searched else searched:
                taken = self._taken.get((record.key, record.budget, steps), {})
                value = record.scores.get(quality, taken.get(quality))
                if value is None or not np.isfinite(value):
                    continue
                design = Design(
                    known["point"] | ({STEPS: steps} if steps else {}),
                    known["params"],
                    known["macs"],
                    f"{record.proxy} {steps or ''}".rstrip(),
                )
                found.append(Measurement(design, value, record.budget, f"{record.key} {steps}"))
        for trial in self._told:  # scores that were told from outside
            if (told := notes_of(trial).get(quality)) is not None:
                value = float(told)
                design = self.subjects[trial.number].design
                budget = self.setting.spec.proxy.samples
                found.append(Measurement(design, value, budget, f"trial {trial.number}"))
        return found

    @cached_property
    def _measurements(self) -> dict[str, list[Measurement]]:
        """What was measured of each quality; none of one that never was."""
        found = {name: self.measured(name) for name in self.qualities}
        return {name: measured for name, measured in found.items() if measured}

    @cached_property
    def _kept(self) -> KeptValues | None:
        """What was computed of these very trainings before; None of few, where it is computed in a
        moment.
        """
        if sum(map(len, self._measurements.values())) < WORTH_KEEPING:
            return None
        state = {
            "code": _CODE,
            "knobs": {n: list(map(label, d.values)) for n, d in self._dimensions.items()},
            "budget": self.setting.spec.proxy.samples,
            "objectives": self.objectives,
            "measured": {
                name: [(_of_design(m.design), m.value, m.budget, m.training) for m in measured]
                for name, measured in self._measurements.items()
            },
            "trials": [
                (
                    number,
                    budget,
                    _of_design(subject.design),
                    [subject.costs.get(o) for o in self.objectives],
                )
                for number, budget in self.reached.items()
                for subject in [self.subjects[number]]
            ],
        }
        text = json.dumps(state, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return KeptValues(self._store.engine, self.setting.name, digest)

    def _once(self, name: str, compute: Callable[[], Any]) -> Any:
        return compute() if self._kept is None else self._kept.get(name, compute)

    @cached_property
    def models(self) -> dict[str, Surrogate]:
        """A model of each objective that needs training; none of one that was never measured."""
        budget = self.setting.spec.proxy.samples

        def model(name: str, measured: Sequence[Measurement]) -> Surrogate:
            def fit() -> list[list[float]]:
                found: list[list[float]] = Surrogate(
                    self._dimensions, measured, budget
                ).log_variances.tolist()
                return found

            fitted = self._once(f"variances of {name}", fit)
            return Surrogate(self._dimensions, measured, budget, log_variances=fitted)

        return {name: model(name, measured) for name, measured in self._measurements.items()}

    # What is believed

    @cached_property
    def marginals(self) -> dict[str, dict[int, tuple[float, float]]]:
        """By objective, mean and standard deviation of what is believed of each complete trial."""
        numbers = list(self.reached)

        def columns() -> dict[str, list[list[float]]]:
            designs = [self.subjects[number].design for number in numbers]
            return {
                name: [column.tolist() for column in model.marginals(designs)]
                for name, model in self.models.items()
            }

        return {
            name: dict(zip(numbers, zip(means, deviations, strict=True), strict=True))
            for name, (means, deviations) in self._once("marginals", columns).items()
        }

    def posteriors(self, subjects: Sequence[Subject]) -> dict[str, Posterior]:
        """What is believed of the qualities of networks, by objective."""
        designs = [subject.design for subject in subjects]
        return {name: model.posterior(designs) for name, model in self.models.items()}

    def means(self, subjects: Sequence[Subject]) -> Array:
        """Objectives so that less is better, (N, M): costs, and posterior means of qualities."""
        found = self.posteriors(subjects)
        return self._columns(subjects, {name: each.mean for name, each in found.items()})

    def draws(self, subjects: Sequence[Subject], count: int = DRAWS, seed: int = 0) -> Array:
        """Joint draws of the objectives so that less is better, (count, N, M)."""
        found = {name: p.draws(count, seed) for name, p in self.posteriors(subjects).items()}
        return np.stack(
            [
                self._columns(subjects, {name: values[i] for name, values in found.items()})
                for i in range(count)
            ]
        )

    def _columns(self, subjects: Sequence[Subject], qualities: Mapping[str, Array]) -> Array:
        columns = [
            qualities[name] if name in qualities else [s.costs[name] for s in subjects]
            for name in self.objectives
        ]
        signs = np.array([self.sign(name) for name in self.objectives])
        found: Array = np.array(columns, dtype=np.float64).reshape(len(signs), -1).T * signs
        return found

    @cached_property
    def judged(self) -> list[int]:
        """Numbers of the trials that may be on the front: those trained for the longest budget, or
        all where none is; of trials with one network the first.
        """
        longest = [n for n, b in self.reached.items() if b >= self.setting.spec.proxy.samples]
        known: dict[str, int] = {}
        for number in longest or self.reached:
            known.setdefault(self.subjects[number].design.network, number)
        return list(known.values())

    @cached_property
    def chances(self) -> dict[int, float]:
        """The probability that each judged trial is on the front of all of them."""
        if not self.judged:
            return {}

        def shares() -> list[float]:
            numbers = self.judged if len(self.judged) <= MOST_DRAWN else self._contenders()
            drawn = self.draws([self.subjects[n] for n in numbers])
            on_front = np.mean([non_dominated(values) for values in drawn], axis=0)
            known = dict(zip(numbers, on_front.tolist(), strict=True))
            return [known.get(number, 0.0) for number in self.judged]

        return dict(zip(self.judged, self._once("chances", shares), strict=True))

    def _contenders(self) -> list[int]:
        """The ``MOST_DRAWN`` judged trials that are most likely on the front: those that no other
        trial beats in every objective by many standard deviations.
        """
        means = self._judged_means()
        variances = (self._judged_means(1.0) - means) ** 2  # of costs none

        def beaten(row: Array, variance: Array) -> float:
            gaps = (row - means) / np.sqrt(variance + variances + np.finfo(np.float64).tiny)
            return float(gaps.min(axis=1).max())

        rows = zip(means, variances, strict=True)
        order = np.argsort([beaten(*row) for row in rows], kind="stable")[:MOST_DRAWN]
        return [self.judged[place] for place in sorted(order)]

    def _judged_means(self, shift: float = 0.0) -> Array:
        """Objectives of the judged trials so that less is better, (N, M): costs, and of qualities
        the means, shifted by so many standard deviations.
        """
        qualities = {
            name: np.array(
                [
                    known[number][0] + self.sign(name) * shift * known[number][1]
                    for number in self.judged
                ]
            )
            for name, known in self.marginals.items()
        }
        return self._columns([self.subjects[number] for number in self.judged], qualities)

    @cached_property
    def front(self) -> list[int]:
        """Numbers of the trials whose posterior means no other's dominates."""
        if not self.judged:
            return []
        kept = non_dominated(self._judged_means())
        return [number for number, member in zip(self.judged, kept, strict=True) if member]

    def of(self, numbers: Sequence[int], quality: str) -> Posterior:
        """What is believed of the quality of trials.

        Raises:
            KeyError: The quality was never measured.
        """
        return self.models[quality].posterior([self.subjects[n].design for n in numbers])

    def differences(self, number: int, others: Sequence[int], quality: str) -> tuple[Array, Array]:
        """What is believed of the difference between the quality of each of ``others`` and that of
        trial ``number``: means and standard deviations, (N,) each.
        """

        def columns() -> list[list[float]]:
            designs = [self.subjects[other].design for other in others]
            found = self.models[quality].marginals(designs, self.subjects[number].design)
            return [column.tolist() for column in found]

        named = hashlib.sha256(json.dumps(list(others)).encode()).hexdigest()[:16]
        means, deviations = self._once(f"{quality} less trial {number} of {named}", columns)
        return np.array(means, dtype=np.float64), np.array(deviations, dtype=np.float64)

    # Effects of knobs

    def effects(self, report: Iterable[str] = ("latency_ms", "macs", "params")) -> "pd.DataFrame":
        """What every choice of every knob does, beside the reference choice of the knob (that of
        the first preset in the space, else of its base, else the first): a mean over random
        networks of the space, in which nothing but the knob differs.

        Columns: ``knob``, ``choice``, ``reference``; for each quality Q its difference ``Q``,
        ``Q low`` and ``Q high`` (95 %), ``Q margin`` and ``Q verdict``; for each cost C of
        ``report`` that the study knows, the mean ratio ``C ratio``. The verdicts are *better*
        (surely, by any amount), *no worse within* the margin, *worse*, *not known*, and
        *not judged* where choices differ in capacity and the proxy shows no difference at all.
        """
        import pandas as pd

        setting = self.setting
        rng = random.Random(0)
        drawn = [setting.space.draw_valid(rng)[0] for _ in range(EFFECT_POINTS)]
        subject = _subjects(setting)
        located = [*setting.presets().values(), setting.space.locate(setting.space.base)]
        rows = []
        for knob, dimension in setting.space.dimensions.items():
            choices = [label(value) for value in dimension.values]
            reference = _reference(located, knob, dimension)
            if len(choices) < 2:
                continue
            pairs = _pairs(setting.space, subject, drawn, knob, reference)
            for choice in choices:
                if choice == reference or choice not in pairs:
                    continue
                befores, afters = zip(*pairs[choice], strict=True)
                row: dict[str, Any] = {"knob": knob, "choice": choice, "reference": reference}
                for name, model in self.models.items():
                    row |= self._effect(name, model, befores, afters)
                for cost in report:
                    if cost in befores[0].costs:
                        ratios = [a.costs[cost] / b.costs[cost] for b, a in pairs[choice]]
                        row[f"{cost} ratio"] = statistics.geometric_mean(ratios)
                rows.append(row)
        table = pd.DataFrame(rows)
        for name in self.models:
            _mark_not_judged(table, name)
        return table

    def _effect(
        self,
        quality: str,
        model: Surrogate,
        befores: Sequence[Subject],
        afters: Sequence[Subject],
    ) -> dict[str, Any]:
        designs = [subject.design for subject in (*afters, *befores)]
        found = model.posterior(designs, apart=False)
        weights = np.repeat([1.0, -1.0], len(afters)) / len(afters)
        mean = float(weights @ found.mean)
        deviation = math.sqrt(max(0.0, float(weights @ found.covariance @ weights)))
        margin = self.setting.spec.margin(quality, model.deviations()["noise"])
        low, high = mean - SURE * deviation, mean + SURE * deviation
        worse = sorted((self.sign(quality) * low, self.sign(quality) * high))
        return {
            quality: mean,
            f"{quality} low": low,
            f"{quality} high": high,
            f"{quality} margin": margin,
            f"{quality} verdict": verdict(worse[0], worse[1], margin),
        }


def verdict(low: float, high: float, margin: float) -> str:
    """What an interval says of a difference of which less is better."""
    if high < 0:
        return "better"
    if high <= margin:
        return "no worse"
    return "worse" if low > 0 else "not known"


def _mark_not_judged(table: "pd.DataFrame", quality: str) -> None:
    """Knobs whose choices differ in capacity, and of which the proxy shows no difference."""
    if "params ratio" not in table:
        return
    for _, rows in table.groupby("knob"):
        ratios = [1.0, *rows["params ratio"]]
        unseen = (rows[f"{quality} low"] < 0) & (rows[f"{quality} high"] > 0)
        equal = rows[f"{quality} verdict"].isin(["no worse", "better"])
        if max(ratios) / min(ratios) >= CAPACITY_RATIO and (unseen & equal).all():
            table.loc[rows.index, f"{quality} verdict"] = "not judged"


def _reference(located: Sequence[Point | None], knob: str, dimension: Dimension) -> Any:
    """The label of the choice that the others of a knob are compared with: that of the first of
    ``located`` in which the knob is active, else the first.
    """
    found = next((point[knob] for point in located if point and knob in point), dimension.values[0])
    return label(found)


def _subjects(setting: Setting) -> Callable[[Point], Subject | None]:
    """What gives the network of a point, each built once; None where there is no such network, or
    no latency of it. The limits are not asked: an effect is the knob's, wherever the search may go.
    """
    known: dict[str, Subject | None] = {}

    def subject(point: Point) -> Subject | None:
        key = json.dumps(setting.space.labels(point))
        if key not in known:
            try:
                network = setting.space.build(point)
                costs = setting.priced(network, point.get(STEPS))
                known[key] = of_candidate(Candidate(point, network, costs))
            except (InvalidPointError, InputError):
                known[key] = None
        return known[key]

    return subject


def _pairs(
    space: Space,
    subject: Callable[[Point], Subject | None],
    drawn: Sequence[Point],
    knob: str,
    reference: Any,
) -> dict[Any, list[tuple[Subject, Subject]]]:
    """By label of a choice: the drawn networks with the reference choice, and the same with that
    one.
    """
    found: dict[Any, list[tuple[Subject, Subject]]] = {}
    for point in drawn:
        if knob not in point:
            continue
        subjects: dict[Any, Subject] = {}
        for choice in space.dimensions[knob].values:
            changed = space.point(space.labels(point) | {knob: label(choice)})
            if (made := subject(changed)) is not None:
                subjects[label(choice)] = made
        if reference in subjects:
            for name, each in subjects.items():
                found.setdefault(name, []).append((subjects[reference], each))
    return found
