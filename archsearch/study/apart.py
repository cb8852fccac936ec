"""Which members of the front can be told apart: whether their qualities differ by more than one
network's does between seeds.
"""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna

from archsearch.study import results
from archsearch.study.results import Candidate
from archsearch.study.rundir import RunDir
from archsearch.study.spec import StudySpec

CERTAINTY = 1.96
"""Standard deviations about its mean between which a normal variable lies in 95 of 100 cases."""


@dataclass(frozen=True)
class Noise:
    """How much a quality scatters when nothing but the seed of a training changes."""

    score: str
    """The quality's name."""
    seed_deviation: float | None
    """Standard deviation within networks, pooled over those trained more than once; None where none
    was.
    """
    repetitions: int
    """Trainings that it rests on."""
    networks: int
    """Networks that these are of."""

    @property
    def least_difference(self) -> float | None:
        """Two trainings of one network differ by less in 95 of 100 cases: 1.96 · √2 ·
        ``seed_deviation``.
        """
        return (
            None if self.seed_deviation is None else CERTAINTY * math.sqrt(2) * self.seed_deviation
        )

    @property
    def margin(self) -> float | None:
        """Half the height of an error bar: 1.96 · ``seed_deviation``."""
        return None if self.seed_deviation is None else CERTAINTY * self.seed_deviation

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``pareto.json``."""
        return asdict(self) | {"least_difference": self.least_difference}


def noise_of(run: RunDir, study: optuna.Study, spec: StudySpec) -> Noise | None:
    """Estimate the noise of a run's quality; None where no objective needs training."""
    quality = results.quality_axis(list(spec.objectives))
    return None if quality is None else noises_of(run, study, spec, [quality])[quality]


def noises_of(
    run: RunDir, study: optuna.Study, spec: StudySpec, scores: Sequence[str]
) -> dict[str, Noise]:
    """Estimate the noise of several scores from the trainings in a run's store, each under its
    name.

    Only trainings under the conditions of the front count, the same in all but network and seed:
    another budget has another noise.
    """
    keys = {trial.user_attrs["key"] for trial in results.front(study)}
    found: dict[str, list[tuple[str, str, dict[str, float]]]] = defaultdict(
        list
    )  # conditions → (name, network, scores)
    for path in sorted(run.scores.glob("*.json")):
        if path.name.count(".") > 1:  # sampled scores, which stand beside those of their training
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        conditions = {
            name: value for name, value in record["key"].items() if name not in ("proxy", "seed")
        }
        known = record["scores"] | results.sampled_scores(run, path.stem, spec)
        found[json.dumps(conditions, sort_keys=True)].append(
            (path.stem, record["key"]["proxy"], known)
        )
    alike = [
        trainings for trainings in found.values() if any(name in keys for name, _, _ in trainings)
    ]
    return {score: _noise(score, alike) for score in scores}


def _noise(score: str, alike: Sequence[Sequence[tuple[str, str, dict[str, float]]]]) -> Noise:
    networks: dict[tuple[int, str], list[float]] = defaultdict(list)
    for conditions, trainings in enumerate(alike):
        for _, network, known in trainings:
            if score in known:
                networks[conditions, network].append(known[score])
    repeated = [values for values in networks.values() if len(values) > 1]
    return Noise(score, pooled_deviation(*repeated), sum(map(len, repeated)), len(repeated))


def not_told_from(members: Sequence[Candidate], noise: Noise | None) -> dict[int, list[int] | None]:
    """The members of a front that each cannot be told from.

    Args:
        members: The front.
        noise: Of its quality.

    Returns:
        For each trial number those of the others whose quality differs by
        ``noise.least_difference`` or less; None where that is not known, since no network was
        trained with a second seed.
    """
    least = None if noise is None else noise.least_difference
    if noise is None or least is None:
        return {member.number: None for member in members}
    qualities = {member.number: (member.scores | member.extra)[noise.score] for member in members}
    return {
        number: [
            other
            for other, theirs in qualities.items()
            if other != number and abs(theirs - mine) <= least
        ]
        for number, mine in qualities.items()
    }


def pooled_deviation(*groups: Sequence[float]) -> float | None:
    """Standard deviation within groups, each about its own mean; None with fewer than two values in
    each.
    """
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    squares = sum((value - statistics.mean(group)) ** 2 for group in groups for value in group)
    return float((squares / freedom) ** 0.5)
