"""What is trained next: a new candidate, a longer training, or a repetition.

The sampler ``surrogate`` begins with candidates that vary all knobs evenly, then takes those whose
expected gain of hypervolume is largest under the model of the scores (Daulton et al. 2021: the
front itself is uncertain, and what is under way counts as done). Rungs are those of asynchronous
successive halving (Li et al. 2020), by non-dominated rank. Everything here is decided by what the
store holds, so that a run that was cut off goes on as if it had not been.
"""

import itertools
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from archsearch.study.beliefs import Beliefs, Subject, of_candidate
from archsearch.study.front import hypervolume, non_dominated, ranks
from archsearch.study.setting import Candidate, InfeasibleError, Setting
from archsearch.study.surrogate import Array, Design, Measurement, Surrogate
from archsearch.study.volume import LEAST, by_logarithm

POOL = 256
"""Random networks that every proposal is chosen from, beside neighbours of the front."""
NEIGHBOURS = 128
DRAWS = 64
"""Joint draws that an expected gain is a mean over."""
EXPLORED = 4
"""One of so many proposals of the model is for the effects of the knobs, not for the front."""
STARTUP = 10
SHORTLIST = 24
"""Candidates whose gain is computed where there are more than two objectives."""
PRESET_DOUBT = 0.25
"""A preset is repeated like a network that is on the front in one of two cases."""
MAX_SEEDS = 8
"""A network is not trained more often."""

FURTHER = "further training of trial"
Taken = Callable[[Candidate], bool]


@dataclass(frozen=True)
class Further:
    """One more training of a trial's network: for a longer budget, or with another seed."""

    number: int
    """Of the trial."""
    budget: int
    seed: int

    @property
    def claim(self) -> str:
        """Name of the claim of whoever does it."""
        return f"{FURTHER} {self.number} {self.budget} {self.seed}"

    @property
    def aim(self) -> str:
        """What it is for, in words."""
        return f"again with seed {self.seed}" if self.seed else f"to {self.budget:,} pictures"

    @classmethod
    def of_claim(cls, name: str) -> "Further":
        """The further training that a claim is of."""
        return cls(*map(int, name.removeprefix(FURTHER).split()))


class Search:
    """Decides what a study trains next."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    # New candidates

    @cached_property
    def _pool(self) -> list[Candidate]:
        """Feasible networks of the space: all of a small one, else random ones."""
        space = self.setting.space
        if space.size <= POOL:
            points = space.points()
        else:
            rng = random.Random(self.setting.spec.search.seed)
            drawn = (space.draw(rng) for _ in range(8 * POOL))
            points = itertools.chain(self.setting.presets().values(), drawn)
        found: dict[tuple[str, int | None], Candidate] = {}
        for point in points:
            try:
                candidate = self.setting.candidate(point)
            except InfeasibleError:
                continue
            found.setdefault((candidate.network.digest, candidate.steps), candidate)
            if len(found) >= POOL:
                break
        return list(found.values())

    def _around(self, beliefs: Beliefs) -> list[Candidate]:
        """Feasible networks that differ from one of the front in one knob."""
        space, found = self.setting.space, []
        members = [beliefs.subjects[number].design.point for number in beliefs.front]
        each = [space.neighbours(space.point(point)) for point in members]
        for point in itertools.chain(*itertools.zip_longest(*each)):
            if point is None:
                continue
            try:
                found.append(self.setting.candidate(point))
            except InfeasibleError:
                continue
            if len(found) == NEIGHBOURS:
                break
        return found

    def propose(
        self, beliefs: Beliefs, running: Sequence[int], taken: Taken, asked: int
    ) -> Candidate | None:
        """The next candidate; None where all that come into question are taken.

        Args:
            beliefs: What is believed so far.
            running: Trials under way, by number.
            taken: Whether a candidate has been a trial.
            asked: Proposals before this one.
        """
        startup = self.setting.spec.search.sampler.startup_trials
        early = len(beliefs.reached) + len(running) < (STARTUP if startup is None else startup)
        even = early or (bool(beliefs.models) and asked % EXPLORED == 0)
        pool = self._pool if even else self._pool + self._around(beliefs)
        pool = [candidate for candidate in pool if not taken(candidate)]
        if not pool:
            return None
        subjects = [of_candidate(candidate) for candidate in pool]
        scores = (
            self._unevenness([s.design for s in beliefs.subjects.values()], subjects)
            if even
            else self._expected_gain(beliefs, running, subjects, asked)
        )
        return pool[int(np.argmax(scores))]

    def balanced(self, count: int) -> list[Candidate]:
        """Networks that vary all knobs evenly, the presets first; no two have one proxy. Fewer than
        ``count`` where the space holds no more.
        """
        setting, chosen, proxies = self.setting, list[Candidate](), set[str]()
        presets = [setting.space.build(point).digest for point in setting.presets().values()]
        left = sorted(self._pool, key=lambda each: each.network.digest not in presets)
        while left and len(chosen) < count:
            subjects = [of_candidate(candidate) for candidate in left]
            known = [of_candidate(candidate).design for candidate in chosen]
            first = left[0].network.digest in presets
            best = 0 if first else int(np.argmax(self._unevenness(known, subjects)))
            candidate = left.pop(best)
            if (proxy := setting.proxy(candidate.network).digest) not in proxies:
                proxies.add(proxy)
                chosen.append(candidate)
        return chosen

    def _unevenness(self, known: Sequence[Design], subjects: Sequence[Subject]) -> Array:
        """How little the effects of knobs and size say of each network, whatever was measured: the
        largest first is the greedy D-optimal design.
        """
        budget = self.setting.spec.proxy.samples
        measured = [Measurement(d, 0.0, budget, str(i)) for i, d in enumerate(known)]
        measured = measured or [Measurement(subjects[0].design, 0.0, budget, "")]
        model = Surrogate(self.setting.space.dimensions, measured, budget, fit=False)
        return model.posterior([subject.design for subject in subjects], apart=False).deviation

    def _expected_gain(
        self,
        beliefs: Beliefs,
        running: Sequence[int],
        subjects: Sequence[Subject],
        seed: int,
    ) -> Array:
        """Expected gain of hypervolume of each network, over joint draws of all qualities."""
        known = [beliefs.subjects[n] for n in (*beliefs.reached, *running) if n in beliefs.subjects]
        drawn = beliefs.draws([*known, *subjects], DRAWS, seed)
        for column, name in enumerate(beliefs.objectives):
            if by_logarithm(name):
                drawn[..., column] = np.log(np.maximum(drawn[..., column], LEAST))
        drawn, mine = drawn[:, : len(known)], drawn[:, len(known) :]
        low, high = drawn.min(axis=(0, 1)), drawn.max(axis=(0, 1))
        span = np.where(high > low, high - low, 1.0)
        drawn, mine = (drawn - low) / span, (mine - low) / span
        corner = np.full(drawn.shape[-1], 1.1)
        if drawn.shape[-1] == 2:
            pairs = zip(drawn, mine, strict=True)
            each = [gains(d[non_dominated(d)], m, corner) for d, m in pairs]
            return np.asarray(np.mean(each, axis=0))
        found = np.zeros(len(subjects))
        promising = np.argsort(ranks(mine.mean(axis=0)), kind="stable")[:SHORTLIST]
        for d, m in zip(drawn[:8], mine[:8], strict=True):
            front = d[non_dominated(d)]
            base = hypervolume(front, corner)
            for i in promising:
                found[i] += hypervolume(np.vstack([front, m[i]]), corner) - base
        return found

    # Further trainings

    def further(
        self,
        beliefs: Beliefs,
        claimed: Collection[Further],
        barred: Callable[[Further], bool],
        ending: bool,
    ) -> Further | None:
        """The further training that is due, if any.

        Args:
            beliefs: What is believed so far.
            claimed: Further trainings under way.
            barred: Whether a further training cannot be done, since it ended without scores.
            ending: Whether no new candidates come: then what is believed to be on the front goes on
                to the longest budget.
        """
        found = self._promotion(beliefs, claimed, barred, ending)
        return found or self._repetition(beliefs, claimed, barred)

    def _promotion(
        self,
        beliefs: Beliefs,
        claimed: Collection[Further],
        barred: Callable[[Further], bool],
        ending: bool,
    ) -> Further | None:
        budgets, eta = self.setting.spec.budgets, self.setting.spec.search.rungs.eta
        if len(budgets) == 1:
            return None
        going = {each.number: each.budget for each in claimed if each.seed == 0}
        best = {n: max(b, going.get(n, 0)) for n, b in beliefs.reached.items()}
        for rung in range(len(budgets) - 2, -1, -1):
            here = [n for n, b in beliefs.reached.items() if b >= budgets[rung]]
            gone = [n for n in here if best[n] > budgets[rung]]
            order = self._by_rank(beliefs, here)
            places = len(here) if ending else len(here) // eta - len(gone)
            for number, rank in order:
                due = rank == 0 if ending else places > 0
                if number in gone or not (due or number in beliefs.presets):
                    continue
                goal = budgets[-1] if number in beliefs.presets else budgets[rung + 1]
                if not barred(further := Further(number, goal, 0)):
                    return further
        return None

    def _by_rank(self, beliefs: Beliefs, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """Trials with their non-dominated rank, the best first, the presets before all."""
        if not numbers:
            return []
        subjects = [beliefs.subjects[number] for number in numbers]
        found = ranks(beliefs.means(subjects))
        drawn = beliefs.draws(subjects, DRAWS)
        chances = np.mean([non_dominated(values) for values in drawn], axis=0)
        order = sorted(
            range(len(numbers)),
            key=lambda i: (numbers[i] not in beliefs.presets, found[i], -chances[i], numbers[i]),
        )
        return [(numbers[i], int(found[i])) for i in order]

    def _repetition(
        self, beliefs: Beliefs, claimed: Collection[Further], barred: Callable[[Further], bool]
    ) -> Further | None:
        """A repetition where they have not had their share yet: of the network whose place on the
        front is least certain, or whose quality is. The presets' counts twice as much as that of
        a member of the front: every member is compared with them.
        """
        share = self.setting.spec.search.share_of_repeats
        repeated = [each for each in claimed if each.seed > 0]
        trainings, repetitions = beliefs.trainings, beliefs.repetitions + len(repeated)
        if not beliefs.models or repetitions + 1 > share * (trainings + len(claimed) + 1):
            return None
        quality = next(iter(beliefs.models))
        deviations = beliefs.of(beliefs.judged, quality).deviation
        found: list[tuple[float, Further]] = []
        for number, deviation in zip(beliefs.judged, deviations, strict=True):
            seeds = beliefs.seeds.get(number, 0) + sum(e.number == number for e in repeated)
            if number not in beliefs.seeds or seeds >= MAX_SEEDS:
                continue
            chance = beliefs.chances[number]
            doubt = max(chance * (1 - chance), PRESET_DOUBT / 2 * chance)
            if number in beliefs.presets:
                doubt = PRESET_DOUBT
            found.append(
                (doubt * deviation / seeds, Further(number, beliefs.reached[number], seeds))
            )
        found.sort(key=lambda each: -each[0])
        return next((f for worth, f in found if worth > 0 and not barred(f)), None)


def gains(front: Array, points: Array, corner: Array) -> NDArray[np.float64]:
    """By how much each point alone would enlarge the hypervolume of a front, for two objectives.

    Args:
        front: (K, 2), non-dominated.
        points: (N, 2).
        corner: (2,), the reference.
    """
    front = front[(front < corner).all(axis=1)]
    front = front[np.argsort(front[:, 0])]
    # The best second value at or left of each stretch of the first axis.
    edges = np.concatenate([[-np.inf], front[:, 0], [corner[0]]])
    levels = np.concatenate([[corner[1]], np.minimum.accumulate(front[:, 1])])
    left, right = edges[:-1], edges[1:]
    widths = np.clip(right[None, :] - np.maximum(left[None, :], points[:, :1]), 0.0, None)
    heights = np.clip(levels[None, :] - points[:, 1:], 0.0, None)
    found: NDArray[np.float64] = (widths * heights).sum(axis=1)
    return found
