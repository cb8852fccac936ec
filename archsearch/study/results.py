"""What a run has found: its scored trials, its Pareto front, how sure that is, and the files in
which all of it lies.
"""

import math
import shlex
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from archsearch import documents, files
from archsearch.catalog import PARETO, PICKS
from archsearch.errors import InputError
from archsearch.study.beliefs import Beliefs
from archsearch.study.front import non_dominated
from archsearch.study.notes import AGAIN, REPEATED, is_finished, notes_of, outcome, steps_of
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
from archsearch.study.trials import Trials
from archsearch.study.volume import Box

if TYPE_CHECKING:
    import pandas as pd

CERTAINTY = 1.96
"""Standard deviations about its mean between which a normal variable lies in 95 of 100 cases."""

SURE = 0.95
"""The probability from which on the front is said to beat a preset."""

_NOTED = (
    "latency_note", "budget", "val_loss_low", "val_loss_high", "samples", "capped", "train_loss",
    "train_seconds", "scoring_seconds", "from_store", "estimated", "key", "reason", "last_good",
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
    budget: int = 0
    """Pictures that its training has seen so far, up to the study's budget."""
    believed: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """By quality that is an objective: what is believed of it, with the ends of its interval of
    95 %. The scores are what one training measured."""
    chance: float | None = None
    """The probability that it is on the front of all trials that were trained to the end."""

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
        return self._scored(t for t in self.trials.complete() if "preset" in notes_of(t))

    def beliefs(self) -> Beliefs:
        """What is believed of the networks' quality, given every training so far."""
        return self.trials.beliefs()

    def front(self) -> list[ScoredTrial]:
        """The Pareto front by what is believed of the quality, cheapest first; among the trials
        that were trained for the longest budget. Of trials with one architecture (and number of
        steps) the first.
        """
        return self._by_cost(self.beliefs().front)

    def raw_front(self) -> list[ScoredTrial]:
        """The Pareto front of the scores as measured, cheapest first: a front of lucky seeds."""
        beliefs = self.beliefs()
        judged = set(beliefs.judged)
        scored = [t for t in self.complete() if t.number in judged]
        rows = [[beliefs.sign(n) * t.known[n] for n in self.objectives] for t in scored]
        if not rows:
            return []
        kept = non_dominated(rows)
        return self._by_cost([t.number for t, own in zip(scored, kept, strict=True) if own])

    def _by_cost(self, numbers: Iterable[int]) -> list[ScoredTrial]:
        wanted = set(numbers)
        return sorted(
            self._scored(t for t in self.trials.complete() if t.number in wanted),
            key=lambda member: member.scores.get(self.cost or "", member.number),
        )

    def dominates(self, one: ScoredTrial, other: ScoredTrial) -> bool:
        """Whether a trial is as good as another or better in every objective, by what is believed
        of the qualities.
        """
        return all(self._signed(one, name) <= self._signed(other, name) for name in self.objectives)

    def references(self) -> dict[str, dict[str, Any]]:
        """The points that a network's knobs are compared with, by name: those of the presets that
        lie in the space; without any that of the space's base.
        """
        space, presets = self.setting.space, self.setting.presets()
        if not presets and (base := space.locate(space.base)) is not None:
            named = space.file.base
            presets = {named if isinstance(named, str) else "the base of the space": base}
        return {name: space.labels(point) for name, point in presets.items()}

    def shown(self) -> list[ScoredTrial]:
        """The presets and the front: those that further scores and pictures are taken of."""
        found = {trial.number: trial for trial in [*self.front(), *self.presets()]}
        return list(found.values())

    def _scored(self, trials: Iterable[FrozenTrial]) -> list[ScoredTrial]:
        taken, beliefs, listed = self.store.taken(), self.beliefs(), list(trials)
        marginals, chances = beliefs.marginals, beliefs.chances
        found = []
        for trial in listed:
            attrs, steps, record = (
                notes_of(trial),
                steps_of(trial),
                beliefs.longest.get(trial.number),
            )
            key = attrs.get("key", attrs["digest"])  # told from outside, it has no training
            budget = beliefs.reached[trial.number]
            scores = {name: value for name, value in attrs.items() if is_score(name)}
            believed = {}
            for name, known in marginals.items():
                mean, deviation = known[trial.number]
                half = CERTAINTY * deviation
                believed[name] = (mean, mean - half, mean + half)
            found.append(
                ScoredTrial(
                    trial.number,
                    attrs.get("preset"),
                    key,
                    attrs["digest"],
                    dict(trial.params),
                    scores=scores | (record.scores if record else {}),
                    extra=taken.get((key, budget, steps or 0), {}),
                    steps=steps,
                    provenance=attrs.get("provenance", {}),
                    note=attrs.get("latency_note", ""),
                    measured=self.metrics_of(trial.number).get("measured", {}),
                    capped=attrs.get("capped", False),
                    budget=budget,
                    believed=believed,
                    chance=chances.get(trial.number),
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
            raise InputError(
                f"{error}\n`archsearch doctor {shlex.quote(str(self.run.path))}` mends it."
            ) from error

    def weights(self, number: int) -> Path:
        """File of the trained weights of a trial's proxy.

        Raises:
            InputError: They are not kept.
        """
        for trial in self.trials.complete():
            if trial.number == number:
                budget = self.beliefs().reached[number]
                name = f"{notes_of(trial).get('key')}-{budget}"
                if path := self.trials.store.files.fetch_weights(name):
                    return path
        raise InputError(
            f"{self.run.path}: trial {number} has no weights; they are kept for the front and the "
            "presets only."
        )

    def ways_to_pick(self) -> tuple[str, ...]:
        """What ``pick`` can be asked for in this study, out of ``catalog.PICKS``."""
        lacking = {"min-latency": self.cost is None, "best-quality": self.quality is None}
        return tuple(how for how in PICKS if not lacking.get(how))

    def pick(self, how: str) -> ScoredTrial:
        """Choose a member of the front by one of ``catalog.PICKS``.

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
        """The value of an objective so that less is better; of a quality, what is believed."""
        value = (
            trial.believed[objective][0] if objective in trial.believed else trial.known[objective]
        )
        return value if self.objectives[objective] == "minimize" else -value

    def box(self) -> Box | None:
        """The box that the run's hypervolumes are shares of, around every trial with scores so far;
        None before the first.
        """
        values = [trial.values for trial in self.trials.complete()]
        return Box.around(self.objectives, values) if values else None

    def growth(self) -> list[dict[str, Any]]:
        """How the front has grown: a row a finished trial, in the order in which they ended.

        ``finished`` counts the trials, ``train_seconds`` adds up the trainings behind them, each
        once, and ``hypervolume`` is the share of :meth:`box` that is dominated. The box is the same
        for all rows, around the trials so far: a history that is taken later has another.
        """
        box, seconds, share = self.box(), dict[str, float](), 0.0
        ended = [trial for trial in self.trials.all() if is_finished(trial)]
        ended.sort(key=lambda trial: (trial.datetime_complete or datetime.max, trial.number))
        scored = [trial.values for trial in ended if trial.state == TrialState.COMPLETE]
        shares = iter(box.growth(scored) if box else ())
        rows: list[dict[str, Any]] = []
        for trial in ended:
            noted = notes_of(trial)
            seconds.setdefault(
                noted.get("key", f"trial {trial.number}"), noted.get("train_seconds", 0.0)
            )
            if trial.state == TrialState.COMPLETE:
                share = next(shares)
            rows.append(
                {
                    "finished": len(rows) + 1,
                    "trial": trial.number,
                    "train_seconds": round(sum(seconds.values()), 3),
                    "hypervolume": share,
                }
            )
        return rows

    def hypervolume_history(self) -> "pd.DataFrame":
        """``growth`` as a table."""
        import pandas as pd

        columns = ["finished", "trial", "train_seconds", "hypervolume"]
        return pd.DataFrame(self.growth(), columns=columns)

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
        rows = [row for row in self.store.rows() if row["outcome"] == "complete"]
        keys, budget = {member.key for member in self.front()}, self.setting.spec.proxy.samples
        own = {row["conditions"] for row in rows if row["key"] in keys and row["budget"] == budget}
        found = {}
        for score in scores:
            values: dict[tuple[str, str], list[float]] = defaultdict(list)
            for row in rows:
                value = row.get(score)
                if row["conditions"] in own and value is not None and not math.isnan(value):
                    values[row["conditions"], row["proxy"]].append(value)
            repeated = [each for _, each in sorted(values.items()) if len(each) > 1]
            found[score] = Noise(
                score, pooled_deviation(*repeated), sum(map(len, repeated)), len(repeated)
            )
        return found

    def comparisons(self, cost: str | None = None) -> list[tuple[ScoredTrial, ScoredTrial | None]]:
        """Each finished preset with its strongest rival: the one believed best among the others
        that were trained as long and cost no more; None where there is none.
        """
        quality, cost = self.quality, cost or self.cost
        if quality is None or cost is None:
            return []
        judged = set(self.beliefs().judged)
        known = [trial for trial in self.complete() if trial.number in judged]
        pairs = []
        for preset in self.presets():
            rivals = [
                trial
                for trial in known
                if trial.digest != preset.digest and trial.scores[cost] <= preset.scores[cost]
            ]
            best = min(rivals, key=lambda trial: self._signed(trial, quality), default=None)
            pairs.append((preset, best))
        return pairs

    def answers(self) -> list[dict[str, Any]]:
        """The question a run is asked: does it beat each preset at equal cost, and how cheap is
        what is no worse? By the posterior of the difference, given every training.
        """
        if self.quality is None or self.cost is None:
            return []
        return [
            self._answer(preset, rival, cost)
            for cost in dict.fromkeys((self.cost, *self.setting.spec.search.compare_at))
            for preset, rival in self.comparisons(cost)
        ]

    def _answer(self, preset: ScoredTrial, rival: ScoredTrial | None, cost: str) -> dict[str, Any]:
        quality, beliefs = self.quality or "", self.beliefs()
        found: dict[str, Any] = {
            "preset": preset.preset,
            "preset_trial": preset.number,
            "quality": quality,
            "cost": cost,
            "preset_cost": preset.scores[cost],
            "rival_trial": rival.number if rival else None,
        }
        noise = beliefs.models[quality].deviations()["noise"]
        margin = self.setting.spec.margin(quality, noise)
        judged = {trial.number: trial for trial in self._by_cost(beliefs.judged)}
        others = [trial for trial in judged.values() if trial.digest != preset.digest]
        numbers = [trial.number for trial in others]
        differences, deviations = beliefs.differences(preset.number, numbers, quality)
        losses = beliefs.sign(quality) * differences  # how much worse than the preset
        uppers = losses + CERTAINTY * deviations
        as_good = [
            trial
            for trial, upper in zip(others, uppers, strict=True)
            if upper <= margin and trial.scores[cost] < preset.scores[cost]
        ]
        cheapest = min(as_good, key=lambda trial: trial.scores[cost], default=None)
        found |= {
            "margin": margin,
            "seed_deviation": noise,
            "as_good_trial": cheapest.number if cheapest else None,
            "as_good_cost": cheapest.scores[cost] if cheapest else None,
            "preset_mean": beliefs.marginals[quality][preset.number][0],
        }
        if rival is None:
            return found
        at = numbers.index(rival.number)
        gain, deviation = -float(losses[at]), float(deviations[at])
        notes = [trial.note for trial in (preset, rival) if is_marked(cost, trial.provenance)]
        return found | {
            "rival_cost": rival.scores[cost],
            "cost_notes": list(dict.fromkeys(notes)),
            "rival_mean": beliefs.marginals[quality][rival.number][0],
            "gain": gain,
            "gain_low": gain - CERTAINTY * deviation,
            "gain_high": gain + CERTAINTY * deviation,
            "probability": statistics.NormalDist().cdf(gain / deviation)
            if deviation
            else float(gain > 0),
            "seeds": {
                "preset": beliefs.seeds.get(preset.number, 0),
                "rival": beliefs.seeds.get(rival.number, 0),
            },
        }

    # Files

    def trial_rows(self) -> list[dict[str, Any]]:
        """Of every trial: number, outcome, scores, costs, where it came from, its point. All have
        the same keys; what a trial does not have is None.
        """
        rows, longest = [], self.beliefs().longest
        for trial in self.trials.all():
            attrs = notes_of(trial)
            if record := longest.get(trial.number):
                attrs |= record.scores | record.details | {"budget": record.budget}
            row: dict[str, Any] = {"trial": trial.number, "outcome": outcome(trial)}
            row["preset"] = attrs.get("preset")
            row |= {name: attrs[name] for name in attrs if is_score(name)}
            row |= {name: attrs.get(name) for name in _NOTED}
            row |= {f"point.{name}": value for name, value in trial.params.items()}
            rows.append(row)
        names = dict.fromkeys(name for row in rows for name in row)
        return [{name: row.get(name) for name in names} for row in rows]

    def trial_table(self) -> "pd.DataFrame":
        """``trial_rows`` as a table."""
        import pandas as pd

        return pd.DataFrame(self.trial_rows())

    def remarks(self) -> dict[int, str]:
        """What is to be said of each trial beside its scores: where its network is from, whether
        it ran before or runs again, what ended it. By number; nothing of ordinary trials.
        """
        every = self.trials.all()
        followers = {notes_of(t)[AGAIN]: t.number for t in every if AGAIN in notes_of(t)}
        found = {}
        for trial in every:
            noted = notes_of(trial)
            said = {
                str(noted.get("preset")): "preset" in noted,
                "the cheapest of the space": "cheapest" in noted,
                "asked for by search.points": "given" in noted,
                f"trial {noted.get(AGAIN)} run again": AGAIN in noted,
                f"runs again as trial {followers.get(trial.number)}": trial.number in followers,
                str(noted.get("reason")): "reason" in noted,
                "ended by proxy.max_seconds": noted.get("capped"),
                "estimated, not trained": noted.get("estimated"),
                "scores of an earlier training": noted.get("from_store"),
                "a network that was known already": noted.get(REPEATED),
            }
            if words := [text for text, holds in said.items() if holds]:
                found[trial.number] = "; ".join(words)
        return found

    def redrawn(self) -> dict[str, int]:
        """How many proposals of the sampler became no trial, by what they broke."""
        found: dict[str, int] = defaultdict(int)
        for trial in self.trials.all():
            for reason, count in notes_of(trial).get("redrawn", {}).items():
                found[reason] += count
        return dict(found)

    def pareto(self, answers: Sequence[dict[str, Any]] | None = None) -> dict[str, Any]:
        """The front and the presets with their architectures and scores, and which of the front
        cannot be told apart: what ``pareto.json`` holds.

        Args:
            answers: What ``answers`` found, where the run is at its end.
        """
        noise, members, spec = self.noise(), self.front(), self.setting.spec
        beliefs, raw = self.beliefs(), self.raw_front()
        same = not_told_from(members, noise)
        scored = [
            name
            for name in dict.fromkeys((*spec.objectives, *spec.report))
            if score_of(name).source in OF_PROXY
        ]

        def entry(trial: ScoredTrial) -> dict[str, Any]:
            network = self.trials.network(trial.number)
            return {
                "trial": trial.number, "preset": trial.preset, "digest": trial.digest,
                "key": trial.key, "point": trial.point, "scores": trial.scores,
                "latency_note": trial.note, "latency_measured": trial.measured,
                "sampled": trial.extra, "capped": trial.capped, "budget": trial.budget,
                "believed": {
                    name: dict(zip(("mean", "low", "high"), ends, strict=True))
                    for name, ends in trial.believed.items()
                },
                "chance": trial.chance, "seeds": beliefs.seeds.get(trial.number, 0),
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
            "raw_front": [trial.number for trial in raw],
            "model": {name: model.deviations() for name, model in beliefs.models.items()},
            "presets": [entry(trial) for trial in self.presets()],
            "picks": {how: self.pick(how).number for how in self.ways_to_pick()} if members else {},
            "answer": None
            if answers is None
            else {"comparisons": list(answers), "sentences": [sentence(each) for each in answers]},
        }

    def front_table(self) -> "pd.DataFrame":
        """The front as a table, cheapest first: what ``pareto.csv`` holds."""
        import pandas as pd

        members = self.front()
        same = not_told_from(members, self.noise())
        rows = []
        for member in members:
            row: dict[str, Any] = {"trial": member.number, "preset": member.preset}
            row |= {"digest": member.digest} | member.scores
            for name, ends in member.believed.items():
                row |= dict(
                    zip((f"{name} believed", f"{name} low", f"{name} high"), ends, strict=True)
                )
            row |= {"chance": member.chance, "budget": member.budget}
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
        files.write_json(self.run.path / PARETO, self.pareto(answers))


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


UNUSED = "unused"


def changed_knobs(point: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The knobs in which a point differs from another, with both values; ``UNUSED`` where a
    condition of the space has switched a knob off.
    """
    knobs = dict.fromkeys([*base, *point])
    pairs = {knob: (base.get(knob, UNUSED), point.get(knob, UNUSED)) for knob in knobs}
    return {knob: pair for knob, pair in pairs.items() if pair[0] != pair[1]}


def pooled_deviation(*groups: Sequence[float]) -> float | None:
    """Standard deviation within groups, each about its own mean; None with fewer than two values in
    each.
    """
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    squares = sum((value - statistics.mean(group)) ** 2 for group in groups for value in group)
    return float((squares / freedom) ** 0.5)


UNTRAINED = (
    "No network was trained: scores are those of the weights that each inherits, and intervals say "
    "nothing of how networks rank once they are trained."
)
"""Stands beside a front of a study with ``proxy.samples: 0``."""


def sentence(answer: dict[str, Any]) -> str:
    """An answer in two sentences, for people."""
    label = score_of(answer["cost"]).label
    head = f"Does the front beat {answer['preset']} at equal or lower {label}?"
    if answer["rival_trial"] is None:
        text = f"{head} Not known: no other trial costs as little."
    else:
        sure = answer["probability"]
        verdict = "Yes" if sure >= SURE else "No" if sure <= 0.5 else "Not clearly"
        text = (
            f"{head} {verdict}: trial {answer['rival_trial']} has {answer['quality']} "
            f"{answer['rival_mean']:.4f} against {answer['preset_mean']:.4f} at "
            f"{answer['rival_cost'] / answer['preset_cost']:.2f} × the cost: a gain of "
            f"{answer['gain']:+.4f} (95 %: {answer['gain_low']:+.4f} to "
            f"{answer['gain_high']:+.4f}), better with a probability of {sure:.2f}."
        )
        if notes := answer["cost_notes"]:
            text += f" (≈ costs: {' / '.join(notes)})"
    if answer["as_good_trial"] is None:
        return (
            f"{text} Nothing cheaper is known to be no worse by more than {answer['margin']:.2g}."
        )
    ratio = answer["as_good_cost"] / answer["preset_cost"]
    return (
        f"{text} The cheapest that is no worse by more than {answer['margin']:.2g} is trial "
        f"{answer['as_good_trial']}, at {ratio:.2f} × the cost."
    )
