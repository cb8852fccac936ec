"""What a run has found: its scored trials, its Pareto front, how sure that is, and the files in
which all of it lies.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial

from archsearch import documents, files
from archsearch.catalog import trial_network
from archsearch.errors import InputError
from archsearch.study.rundir import RunDir
from archsearch.study.setting import Setting
from archsearch.study.spec import (
    OF_PROXY,
    SCORES,
    cost_axis,
    device_of,
    is_marked,
    is_score,
    of_device,
    quality_axis,
    score_of,
)
from archsearch.study.store import Store
from archsearch.study.trials import Trials, outcome, steps_of

CERTAINTY = 1.96
"""Standard deviations about its mean between which a normal variable lies in 95 of 100 cases."""

_NOTED = (
    "latency_note", "val_loss_low", "val_loss_high", "samples", "capped", "train_loss",
    "train_seconds", "scoring_seconds", "from_store", "key", "reason", "last_good",
)  # fmt: skip
"""What ``trials.csv`` says of a trial beside its scores and its point."""


@dataclass(frozen=True)
class ScoredTrial:
    """A finished trial with its scores."""

    number: int
    preset: str | None
    key: str
    digest: str
    point: dict[str, Any]
    scores: dict[str, float]
    extra: dict[str, float] = field(default_factory=dict)
    """Metrics that the store has of its training, with their companions."""
    steps: int | None = None
    """Steps of its pictures, where these are searched."""
    provenance: dict[str, str] = field(default_factory=dict)
    """By device: what its latencies rest on, where that is not measured units alone."""
    note: str = ""
    """The same in words."""
    measured: dict[str, dict[str, float]] = field(default_factory=dict)
    """By device: what the whole network was measured to take, beside the prediction."""
    capped: bool = False

    @property
    def name(self) -> str:
        """The preset's name, or the trial's number."""
        return self.preset or f"#{self.number}"

    @property
    def known(self) -> dict[str, float]:
        """Every score that is known of it."""
        return self.scores | self.extra


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
        return None if self.margin is None else math.sqrt(2) * self.margin

    @property
    def margin(self) -> float | None:
        """Half the height of an error bar: 1.96 · ``seed_deviation``."""
        return None if self.seed_deviation is None else CERTAINTY * self.seed_deviation

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``pareto.json``."""
        return asdict(self) | {"least_difference": self.least_difference}


class Results:
    """What the trials of a run have found so far. Needs neither its data nor its models."""

    def __init__(self, trials: Trials) -> None:
        self.trials = trials
        self.run: RunDir = trials.run
        self.setting: Setting = trials.setting
        self.store: Store = trials.store
        self.objectives = dict(self.setting.spec.objectives)
        self.quality, self.cost = quality_axis(self.objectives), cost_axis(self.objectives)

    # Trials

    def complete(self) -> list[ScoredTrial]:
        """Trials with scores, by number."""
        return self._scored(self.trials.complete())

    def presets(self) -> list[ScoredTrial]:
        """Finished presets."""
        return self._scored(t for t in self.trials.complete() if "preset" in t.user_attrs)

    def front(self) -> list[ScoredTrial]:
        """The Pareto front, cheapest first; of trials with one architecture (and number of steps)
        the first.
        """
        trials = self.trials.complete()
        signs = [1.0 if d == "minimize" else -1.0 for d in self.objectives.values()]
        values = np.array([trial.values for trial in trials]).reshape(-1, len(signs)) * signs
        members: dict[tuple[str, int | None], FrozenTrial] = {}
        for trial, own in zip(trials, values, strict=True):
            if not ((values <= own).all(1) & (values < own).any(1)).any():
                members.setdefault((trial.user_attrs["digest"], steps_of(trial)), trial)
        return sorted(
            self._scored(members.values()),
            key=lambda member: member.scores.get(self.cost or "", member.number),
        )

    def shown(self) -> list[ScoredTrial]:
        """The presets and the front: those that further scores and pictures are taken of."""
        found = {trial.number: trial for trial in [*self.front(), *self.presets()]}
        return list(found.values())

    def _scored(self, trials: Iterable[FrozenTrial]) -> list[ScoredTrial]:
        taken, budget = self.store.taken(), self.setting.spec.proxy.samples
        found = []
        for trial in trials:
            attrs, steps = trial.user_attrs, steps_of(trial)
            key = attrs.get("key", attrs["digest"])  # told from outside, it has no training
            found.append(
                ScoredTrial(
                    trial.number,
                    attrs.get("preset"),
                    key,
                    attrs["digest"],
                    dict(trial.params),
                    scores={name: value for name, value in attrs.items() if is_score(name)},
                    extra=taken.get((key, budget, steps or 0), {}),
                    steps=steps,
                    provenance=attrs.get("provenance", {}),
                    note=attrs.get("latency_note", ""),
                    measured=self.metrics_of(trial.number).get("measured", {}),
                    capped=attrs.get("capped", False),
                )
            )
        return found

    def metrics_of(self, number: int) -> dict[str, Any]:
        """What ``metrics.json`` of a trial holds; nothing where there is none.

        Raises:
            InputError: It is damaged.
        """
        path = self.run.trial(number) / "metrics.json"
        try:
            return documents.read(path).data if path.is_file() else {}
        except InputError as error:
            raise InputError(f"{error}\n`archsearch doctor {self.run.path}` mends it.") from error

    def weights(self, number: int) -> Path:
        """File of the trained weights of a trial's proxy.

        Raises:
            InputError: They are not kept.
        """
        for trial in self.trials.complete():
            if trial.number == number:
                name = f"{trial.user_attrs.get('key')}-{self.setting.spec.proxy.samples}"
                if (path := self.run.weights / f"{name}.safetensors").is_file():
                    return path
        raise InputError(
            f"{self.run.path}: trial {number} has no weights; they are kept for the front and the "
            "presets only."
        )

    def pick(self, how: str) -> ScoredTrial:
        """Choose a member of the front: ``knee``, ``min-latency`` or ``best-quality``.

        The knee is the member closest to the ideal point, every objective scaled to [0, 1] over the
        front.

        Raises:
            InputError: There is no front yet, or the study has no objective of the kind asked for.
        """
        members = self.front()
        if not members:
            raise InputError(f"{self.run.path}: has no finished trial yet.")
        if how == "knee":
            columns = {
                name: [self._signed(member, name) for member in members] for name in self.objectives
            }

            def distance(member: ScoredTrial) -> float:
                total = 0.0
                for name, column in columns.items():
                    low, high = min(column), max(column)
                    if high > low:
                        total += ((self._signed(member, name) - low) / (high - low)) ** 2
                return total

            return min(members, key=distance)
        axis = self.cost if how == "min-latency" else self.quality
        if axis is None:
            names = ", ".join(self.objectives)
            raise InputError(
                f"--{how}: the study has no such objective; its objectives are {names}."
            )
        return min(members, key=lambda member: self._signed(member, axis))

    def _signed(self, trial: ScoredTrial, objective: str) -> float:
        """The value of an objective so that less is better."""
        value = trial.known[objective]
        return value if self.objectives[objective] == "minimize" else -value

    # How sure

    def noise(self) -> Noise | None:
        """Estimate the noise of the run's quality; None where no objective needs training."""
        return None if self.quality is None else self.noises([self.quality])[self.quality]

    def noises(self, scores: Iterable[str]) -> dict[str, Noise]:
        """Estimate the noise of several scores from the trainings in the store, each under its
        name.

        Only trainings under the conditions of the front count, the same in all but network and
        seed: another budget has another noise.
        """
        table = self.store.records(outcome="complete")
        found = {}
        for score in scores:
            values: list[list[float]] = []
            if len(table) and score in table:
                keys = {member.key for member in self.front()}
                own = table.key.isin(keys) & (table.budget == self.setting.spec.proxy.samples)
                alike = table[table.conditions.isin(table[own].conditions)]
                scored = alike.dropna(subset=[score])
                values = [list(v) for _, v in scored.groupby(["conditions", "proxy"])[score]]
            repeated = [each for each in values if len(each) > 1]
            found[score] = Noise(
                score, pooled_deviation(*repeated), sum(map(len, repeated)), len(repeated)
            )
        return found

    def comparisons(self) -> list[tuple[ScoredTrial, ScoredTrial]]:
        """Each finished preset with its strongest rival: the best quality among the others that
        cost no more.
        """
        quality, cost = self.quality, self.cost
        if quality is None or cost is None:
            return []
        pairs, known = [], self.complete()
        for preset in self.presets():
            rivals = [
                trial
                for trial in known
                if trial.key != preset.key and trial.scores[cost] <= preset.scores[cost]
            ]
            if rivals:
                pairs.append((preset, min(rivals, key=lambda trial: self._signed(trial, quality))))
        return pairs

    def answers(self) -> list[dict[str, Any]]:
        """The one question a run is asked: does it beat each preset at equal cost, over all seeds
        that were trained?
        """
        quality, cost = self.quality, self.cost
        if quality is None or cost is None:
            return []
        pairs = self.comparisons()
        compared = {preset.number for preset, _ in pairs}
        found: list[dict[str, Any]] = [
            {"preset": preset.preset, "quality": quality, "cost": cost, "rival_trial": None}
            for preset in self.presets()
            if preset.number not in compared
        ]
        architectures = [trial.known[quality] for trial in self.complete()]
        for preset, rival in pairs:
            theirs, ours = self._over_seeds(preset, quality), self._over_seeds(rival, quality)
            # The rival was chosen for its first seed: a fair mean leaves that one out, of both.
            fair = [values[1:] or values for values in (theirs, ours)]
            sign = 1.0 if self.objectives[quality] == "minimize" else -1.0
            gain = sign * (statistics.mean(fair[0]) - statistics.mean(fair[1]))
            spread = pooled_deviation(theirs, ours)
            notes = [trial.note for trial in (preset, rival) if is_marked(cost, trial.provenance)]
            found.append(
                {
                    "preset": preset.preset,
                    "preset_trial": preset.number,
                    "rival_trial": rival.number,
                    "quality": quality,
                    "cost": cost,
                    "preset_cost": preset.scores[cost],
                    "rival_cost": rival.scores[cost],
                    "cost_notes": list(dict.fromkeys(notes)),
                    "preset_quality_by_seed": theirs,
                    "rival_quality_by_seed": ours,
                    "preset_mean": statistics.mean(fair[0]),
                    "rival_mean": statistics.mean(fair[1]),
                    "gain": gain,
                    "seed_deviation": spread,
                    "gain_in_seed_deviations": gain / spread if spread else None,
                    "architecture_deviation": (
                        statistics.stdev(architectures) if len(architectures) > 1 else None
                    ),
                }
            )
        return found

    def _over_seeds(self, trial: ScoredTrial, quality: str) -> list[float]:
        """A trial's quality for every seed in the store, the first included."""
        values = [float(trial.known[quality])]
        record = self.store.find(trial.key, self.setting.spec.proxy.samples)
        for other in self.store.seeds_of(record) if record else []:
            scores = dict(other.scores)
            for taken in self.store.known_metrics(other).values():
                scores |= taken
            if 0 < other.seed < self.setting.spec.search.confirm_seeds and quality in scores:
                values.append(scores[quality])
        return values

    # Files

    def trial_table(self) -> pd.DataFrame:
        """Every trial, one a row: number, outcome, scores, costs, where it came from, its point."""
        rows = []
        for trial in self.trials.all():
            attrs = trial.user_attrs
            row: dict[str, Any] = {"trial": trial.number, "outcome": outcome(trial)}
            row["preset"] = attrs.get("preset")
            row |= {name: attrs[name] for name in attrs if is_score(name)}
            row |= {name: attrs.get(name) for name in _NOTED}
            row |= {f"point.{name}": value for name, value in trial.params.items()}
            rows.append(row)
        return pd.DataFrame(rows)

    def redrawn(self) -> dict[str, int]:
        """How many proposals of the sampler became no trial, by what they broke."""
        found: dict[str, int] = defaultdict(int)
        for trial in self.trials.all():
            for reason, count in trial.user_attrs.get("redrawn", {}).items():
                found[reason] += count
        return dict(found)

    def pareto(self, answers: Sequence[dict[str, Any]] | None = None) -> dict[str, Any]:
        """The front and the presets with their architectures and scores, and which of the front
        cannot be told apart: what ``pareto.json`` holds.

        Args:
            answers: What ``answers`` found, where the run is at its end.
        """
        noise, members, spec = self.noise(), self.front(), self.setting.spec
        same = not_told_from(members, noise)
        scored = [
            name
            for name in dict.fromkeys((*spec.objectives, *spec.report))
            if score_of(name).source in OF_PROXY
        ]

        def entry(trial: ScoredTrial) -> dict[str, Any]:
            network = trial_network(self.run.path, trial.number)
            return {
                "trial": trial.number, "preset": trial.preset, "digest": trial.digest,
                "key": trial.key, "point": trial.point, "scores": trial.scores,
                "latency_note": trial.note, "latency_measured": trial.measured,
                "sampled": trial.extra, "capped": trial.capped,
                "config": network.to_dict(), "proxy": self.setting.proxy(network).to_dict(),
            }  # fmt: skip

        return {
            "schema": 1,
            "study": self.setting.name,
            "objectives": self.objectives,
            "scales": {
                "deployment": [n for n in SCORES if SCORES[n].source not in OF_PROXY],
                "proxy": [n for n in SCORES if SCORES[n].source in OF_PROXY],
            },
            "noise": noise.to_dict() if noise else None,
            "noise_by_score": {name: n.to_dict() for name, n in self.noises(scored).items()},
            "front": [entry(m) | {"not_told_from": same[m.number]} for m in members],
            "presets": [entry(trial) for trial in self.presets()],
            "answer": None
            if answers is None
            else {"comparisons": list(answers), "sentences": [sentence(each) for each in answers]},
        }

    def front_table(self) -> pd.DataFrame:
        """The front as a table, cheapest first: what ``pareto.csv`` holds."""
        members = self.front()
        same = not_told_from(members, self.noise())
        rows = []
        for member in members:
            row: dict[str, Any] = {"trial": member.number, "preset": member.preset}
            row |= {"digest": member.digest} | member.scores
            others = same[member.number]
            row["not_told_from"] = "unknown" if others is None else " ".join(map(str, others))
            several = any(device_of(name) is not None for name in member.scores)
            for name, line in member.measured.items():
                row[f"{of_device(name) if several else 'latency_ms'} measured"] = line["measured"]
            row |= {"latency_note": member.note} if member.note else {}
            row |= member.extra
            rows.append(row | {f"point.{name}": value for name, value in member.point.items()})
        return pd.DataFrame(rows)

    def write(self, answers: Sequence[dict[str, Any]] | None = None) -> None:
        """Write ``trials.csv``, ``pareto.csv`` and ``pareto.json``."""
        for name, table in (("trials", self.trial_table()), ("pareto", self.front_table())):
            files.write_text(self.run.path / f"{name}.csv", table.to_csv(index=False))
        files.write_json(self.run.path / "pareto.json", self.pareto(answers))


def not_told_from(
    members: Sequence[ScoredTrial], noise: Noise | None
) -> dict[int, list[int] | None]:
    """The members of a front that each cannot be told from.

    Args:
        members: The front.
        noise: Of its quality.

    Returns:
        For each trial number those of the others whose quality differs by
        ``noise.least_difference`` or less; None where that is not known, since no network was
        trained with a second seed.
    """
    if noise is None or noise.least_difference is None:
        return {member.number: None for member in members}
    qualities = {member.number: member.known[noise.score] for member in members}
    least = noise.least_difference
    return {
        number: [
            o for o, theirs in qualities.items() if o != number and abs(theirs - mine) <= least
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


def sentence(answer: dict[str, Any]) -> str:
    """An answer in one line, for people."""
    cost = score_of(answer["cost"]).label
    head = f"Does the front beat {answer['preset']} at equal or lower {cost}?"
    if answer["rival_trial"] is None:
        return f"{head} Not known: no other trial costs as little."
    ratio, times = answer["rival_cost"] / answer["preset_cost"], answer["gain_in_seed_deviations"]
    means = (
        f"trial {answer['rival_trial']} has {answer['quality']} {answer['rival_mean']:.4f} against "
        f"{answer['preset_mean']:.4f} at {ratio:.2f} × the cost"
    )
    if times is None:
        verdict = "Yes" if answer["gain"] > 0 else "No"
        text = f"{head} {verdict}: {means}; one seed, so the seed spread is not known."
    else:
        verdict = "Yes" if times > 2 else "No" if times < 0 else "Not clearly"
        fresh = [max(1, len(answer[f"{who}_quality_by_seed"]) - 1) for who in ("preset", "rival")]
        seeds = f"{fresh[0]} each" if fresh[0] == fresh[1] else f"{fresh[0]} and {fresh[1]}"
        text = (
            f"{head} {verdict}: {means}: a gain of {answer['gain']:+.4f}, {times:+.1f} seed "
            f"standard deviations ({answer['seed_deviation']:.4f}); means over fresh seeds, "
            f"{seeds}."
        )
    notes = answer.get("cost_notes")
    return f"{text} (≈ costs: {' / '.join(notes)})" if notes else text
