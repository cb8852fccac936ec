"""Two or more runs beside each other: how far the front of each has come, which dominates how much
of which, and what differs between their studies.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archsearch import documents
from archsearch.errors import InputError
from archsearch.search_space.space import label
from archsearch.study.front import non_dominated
from archsearch.study.results import Results, ScoredTrial
from archsearch.study.rundir import DATA, ENVIRONMENT, what_predicts
from archsearch.study.spec import OF_PROXY, OF_STEPS, Direction, cost_axis, quality_axis, score_of
from archsearch.study.volume import Box

QUANTILES = (0.25, 0.5, 0.75, 1.0)
"""Of the costs of all trials: where qualities are compared, beside the presets' costs."""
WHERE_DATA_LIE = frozenset({"data.path", "data.images", "data.text"})
"""Keys that may differ where the data's fingerprint is the same."""

Objectives = Mapping[str, Direction]


@dataclass(frozen=True)
class Compared:
    """What one run has come to."""

    folder: str
    study: str
    trials: int
    """With scores."""
    finished: int
    target: int
    train_seconds: float
    """Of the trainings behind the trials."""
    front: int
    """Networks on its front."""
    hypervolume: float
    """Share of the box of all runs together that the front dominates."""
    cost_notes: tuple[str, ...]
    """What latencies of the front rest on, where that is not measured units alone."""
    seed_deviation: float | None
    """How much the quality scatters between seeds; None where that is not known."""
    least_difference: float | None
    """Qualities that differ by less are as two seeds of one network."""


@dataclass(frozen=True)
class Difference:
    """A key that is not the same in all studies."""

    key: str
    values: tuple[Any, ...]
    """One a run; None where a run has no such key."""
    matters_to: tuple[str, ...]
    """Objectives whose values do not compare because of it; none where it only leads the search
    elsewhere."""


@dataclass(frozen=True)
class AtCost:
    """The best quality that each run has at a cost or below."""

    at: str
    """A preset, or a quantile of the costs of all trials."""
    cost: float
    best: tuple[float | None, ...]
    """One a run; None where it has nothing so cheap."""
    trials: tuple[int | None, ...]


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` finds."""

    objectives: Mapping[str, Direction]
    """What was compared: all objectives of the studies, or their costs alone."""
    runs: tuple[Compared, ...]
    box: Box
    """Around every trial of all runs: hypervolumes are shares of it."""
    coverage: tuple[tuple[float, ...], ...]
    """In row i and column j, the share of the front of run j of whose every member the front of run
    i has one that is at least as good in every objective."""
    quality: str | None
    cost: str | None
    at_cost: tuple[AtCost, ...]
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "schema": 1,
            "objectives": dict(self.objectives),
            "runs": [asdict(run) for run in self.runs],
            "box": self.box.to_dict(),
            "coverage": [list(row) for row in self.coverage],
            "quality": self.quality,
            "cost": self.cost,
            "at_cost": [asdict(line) for line in self.at_cost],
            "differences": [asdict(each) for each in self.differences],
        }


def compare(runs: Sequence[Results], costs_only: bool = False) -> Comparison:
    """Compare the fronts of runs with the same objectives.

    All hypervolumes are shares of one box, around every trial with scores of all runs: from the
    best value of each objective to the worst plus a tenth of the range, costs by their logarithm.

    Args:
        runs: Two or more.
        costs_only: Leave out the objectives that need training, which compare only where data,
            proxy and training are the same.

    Raises:
        InputError: Fewer than two runs, other objectives, a run without scores, or values that do
            not compare since the studies differ in what they rest on.
    """
    if len(runs) < 2:
        raise InputError(f"compare: two or more runs are needed, but got {len(runs)}.")
    for run in runs[1:]:
        if run.objectives != runs[0].objectives:
            raise InputError(
                f"{run.run.path}: its objectives are {_listed(run.objectives)}, but those of "
                f"{runs[0].run.path} are {_listed(runs[0].objectives)}. Runs compare only with the "
                "same objectives."
            )
    for run in runs:
        if not run.trials.complete():
            raise InputError(f"{run.run.path}: has no finished trial yet.")
    objectives = {
        name: direction
        for name, direction in runs[0].objectives.items()
        if not costs_only or score_of(name).source not in OF_PROXY
    }
    if not objectives:
        raise InputError(
            "--costs: the studies have no objective that is a cost; their objectives are "
            f"{_listed(runs[0].objectives)}."
        )
    differences = tuple(_differences(runs, objectives))
    _refuse(runs, objectives, differences)

    known = [run.complete() for run in runs]
    fronts = [_front(trials, objectives) for trials in known]
    values = [_values(front, objectives) for front in fronts]
    box = Box.around(objectives, np.concatenate([_values(each, objectives) for each in known]))
    signed = [_signed(each, objectives) for each in values]
    quality, cost = quality_axis(objectives), cost_axis(objectives)
    return Comparison(
        objectives,
        tuple(
            _compared(run, front, box.hypervolume(each))
            for run, front, each in zip(runs, fronts, values, strict=True)
        ),
        box,
        tuple(tuple(_coverage(one, other) for other in signed) for one in signed),
        quality,
        cost,
        tuple(_at_cost(known, quality, cost, objectives)) if quality and cost else (),
        differences,
    )


def _listed(objectives: Objectives) -> str:
    return ", ".join(f"{name} ({direction})" for name, direction in objectives.items())


def _values(trials: Sequence[ScoredTrial], objectives: Objectives) -> NDArray[np.float64]:
    return np.array([[trial.scores[name] for name in objectives] for trial in trials])


def _signed(values: NDArray[np.float64], objectives: Objectives) -> NDArray[np.float64]:
    """Values so that less is better."""
    return values * [1.0 if way == "minimize" else -1.0 for way in objectives.values()]


def _front(trials: Sequence[ScoredTrial], objectives: Objectives) -> list[ScoredTrial]:
    """Trials that no other dominates; of one architecture (and number of steps) the first."""
    kept = non_dominated(_signed(_values(trials, objectives), objectives))
    members: dict[tuple[str, int | None], ScoredTrial] = {}
    for trial in compress(trials, kept):
        members.setdefault((trial.digest, trial.steps), trial)
    return list(members.values())


def _coverage(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Share of ``other`` of whose every row ``one`` has a row that is as small in every column
    (Zitzler 1999).
    """
    return float((one[:, None] <= other[None]).all(2).any(0).mean())


def _compared(run: Results, front: Sequence[ScoredTrial], hypervolume: float) -> Compared:
    noise, history = run.noise(), run.hypervolume_history()
    return Compared(
        folder=str(run.run.path),
        study=run.setting.name,
        trials=len(run.trials.complete()),
        finished=len(history),
        target=run.setting.spec.search.trials,
        train_seconds=float(history.train_seconds.iloc[-1]),
        front=len(front),
        hypervolume=hypervolume,
        cost_notes=tuple(dict.fromkeys(member.note for member in front if member.note)),
        seed_deviation=noise.seed_deviation if noise else None,
        least_difference=noise.least_difference if noise else None,
    )


def _at_cost(
    known: Sequence[Sequence[ScoredTrial]], quality: str, cost: str, objectives: Objectives
) -> Iterator[AtCost]:
    """The best quality of each run up to the cost of each preset, then up to quantiles of all
    costs.
    """
    every = [trial for trials in known for trial in trials]
    presets = {trial.preset: trial.scores[cost] for trial in every if trial.preset}
    costs = [trial.scores[cost] for trial in every]
    places = {str(name): value for name, value in presets.items()} | {
        f"{share:.0%} of all costs": float(np.quantile(costs, share)) for share in QUANTILES
    }
    best_of = min if objectives[quality] == "minimize" else max
    for at, value in places.items():
        best = [
            best_of(within, key=lambda trial: trial.scores[quality])
            if (within := [trial for trial in trials if trial.scores[cost] <= value])
            else None
            for trials in known
        ]
        yield AtCost(
            at,
            value,
            tuple(None if trial is None else trial.scores[quality] for trial in best),
            tuple(None if trial is None else trial.number for trial in best),
        )


# What differs


def _differences(runs: Sequence[Results], objectives: Objectives) -> Iterator[Difference]:
    """Keys that are not the same in all studies, with the objectives that rest on them."""
    sources = {name: score_of(name).source for name in objectives}
    of_proxy = tuple(name for name, source in sources.items() if source in OF_PROXY)
    sampled = tuple(name for name, source in sources.items() if source == "sampled")
    predicted = tuple(name for name, source in sources.items() if source == "predicted")
    of_steps = tuple(name for name in objectives if name in OF_STEPS)
    ratio = tuple(name for name in objectives if name == "latency_ratio")

    described = [_described(run) for run in runs]
    data = {each.get("fingerprint of the data") for each in described}
    same_data = len(data) == 1 and None not in data
    matters = {
        "data": of_proxy,
        "proxy": of_proxy,
        "sampling": sampled,
        "metrics": sampled,
        "versions": of_proxy,
        "fingerprint of the data": of_proxy,
        "latency tables": predicted,
        "reference": ratio,
        "pipeline": of_steps,
    }
    for key, values in _unequal(described):
        to = () if same_data and key in WHERE_DATA_LIE else matters.get(key.split(".")[0], ())
        yield Difference(key, values, to)


def _described(run: Results) -> dict[str, Any]:
    """Everything a run's values rest on, and everything that leads its search."""
    setting, path = run.setting, run.run.path
    spec, records = setting.spec.to_dict(), run.store.records()
    described: dict[str, Any] = {
        name: spec[name] for name in ("data", "proxy", "sampling", "metrics", "limits", "search")
    }
    described["pipeline"] = spec["deployment"]["pipeline"]
    described["versions"] = documents.read(path / ENVIRONMENT).data.get("versions", {})
    described["dimensions"] = {
        name: [label(value) for value in dimension.values]
        for name, dimension in setting.space.dimensions.items()
    }
    described["conditions"] = {
        name: dimension.when for name, dimension in setting.space.dimensions.items()
    }
    described["rules"] = list(setting.space.file.rules)
    described["base"] = setting.space.base.digest
    described["reference"] = setting.reference and setting.reference.digest
    described["latency tables"] = {
        device.name: _digest(what_predicts(device.table)) for device in setting.devices
    }
    if (path / DATA).is_file():
        described["fingerprint of the data"] = documents.read(path / DATA).data.get("fingerprint")
    if len(records):
        devices = {str(json.loads(conditions).get("device")) for conditions in records.conditions}
        described["trained on"] = " and ".join(sorted(devices))
    return described


def _digest(value: Any) -> str:
    """A name for plain data: equal data, equal name."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unequal(described: Sequence[Any], key: str = "") -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Keys, dotted, under which the described are not all alike, with the value of each."""
    if all(isinstance(each, dict) for each in described):
        for name in dict.fromkeys(name for each in described for name in each):
            under = [each.get(name) for each in described]
            yield from _unequal(under, f"{key}.{name}" if key else str(name))
    elif any(each != described[0] for each in described[1:]):
        yield key, tuple(described)


def _refuse(
    runs: Sequence[Results], objectives: Objectives, differences: Sequence[Difference]
) -> None:
    """Refuse objectives whose values rest on different things."""
    telling = [each for each in differences if each.matters_to]
    if not telling:
        return
    names = dict.fromkeys(name for each in telling for name in each.matters_to)
    keys = "; ".join(
        f"{each.key}: {' against '.join(map(_short, each.values))}" for each in telling
    )
    costs = [name for name in objectives if score_of(name).source not in OF_PROXY]
    cure = (
        f" The costs alone ({', '.join(costs)}) compare: --costs."
        if costs and not set(costs) & names.keys()
        else ""
    )
    folders = ", ".join(str(run.run.path) for run in runs)
    raise InputError(
        f"{folders}: {', '.join(names)} of these runs cannot be compared, since what it rests on "
        f"differs: {keys}.{cure}"
    )


def _short(value: Any) -> str:
    """A value in a sentence."""
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
