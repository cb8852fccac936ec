"""What a run has found: its finished trials, and its Pareto front."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from archsearch.catalog import read_config
from archsearch.errors import InputError
from archsearch.study import scoring
from archsearch.study.rundir import RunDir
from archsearch.study.setting import STEPS_PARAMETER
from archsearch.study.spec import OF_PROXY, StudySpec, is_score, score_of
from archsearch.unet.config import UNetConfig


@dataclass(frozen=True)
class Candidate:
    """A finished trial with a score."""

    number: int
    preset: str | None
    key: str
    digest: str
    point: dict[str, Any]
    scores: dict[str, float]
    extra: dict[str, float] = field(default_factory=dict)
    """Sampled scores computed at the end of the run, with their companions."""
    steps: int | None = None
    """Steps of its pictures, where these are searched."""
    note: str = ""
    """What has to be said of its latencies."""
    measured: dict[str, dict[str, float]] = field(default_factory=dict)
    """By device: what the whole network was measured to take, beside the prediction."""

    @property
    def name(self) -> str:
        """The preset's name, or the trial's number."""
        return self.preset or f"#{self.number}"


def candidate(run: RunDir, trial: FrozenTrial, spec: StudySpec) -> Candidate:
    """Read a finished trial of the study ``spec``."""
    attrs, steps = trial.user_attrs, steps_of(trial)
    return Candidate(
        trial.number,
        attrs.get("preset"),
        attrs["key"],
        attrs["digest"],
        dict(trial.params),
        scores={name: value for name, value in attrs.items() if is_score(name)},
        extra=sampled_scores(run, attrs["key"], spec, steps),
        steps=steps,
        note=attrs.get("latency_note", ""),
        measured=metrics_of(run, trial.number).get("measured", {}),
    )


def steps_of(trial: FrozenTrial) -> int | None:
    """Steps of the trial's pictures, where these are searched."""
    return trial.params.get(STEPS_PARAMETER)


def sampled_scores(
    run: RunDir, key: str, spec: StudySpec, steps: int | None = None
) -> dict[str, float]:
    """Scores in the store that were taken from a trained network under the study's settings by
    today's versions; companions too.
    """
    return {
        label: value
        for values in scoring.read(run.sampled(key, steps), spec, steps).values()
        for label, value in values.items()
    }


def metrics_of(run: RunDir, number: int) -> dict[str, Any]:
    """What ``metrics.json`` of a trial holds; nothing where there is none."""
    return _read(run.trial(number) / "metrics.json")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """Trials with scores, by number."""
    return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def front(study: optuna.Study) -> list[FrozenTrial]:
    """The Pareto front, cheapest first; of trials with one architecture (and number of steps) the
    first.
    """
    seen: set[tuple[str, int | None]] = set()
    members = []
    for trial in sorted(study.best_trials, key=lambda trial: trial.number):
        identity = (trial.user_attrs["digest"], steps_of(trial))
        if identity not in seen:
            seen.add(identity)
            members.append(trial)
    axis = cost_axis(list(study.metric_names or []))
    return sorted(members, key=lambda trial: trial.user_attrs.get(axis or "", trial.number))


def presets(study: optuna.Study) -> list[FrozenTrial]:
    """Finished presets."""
    return [trial for trial in complete(study) if "preset" in trial.user_attrs]


def quality_axis(objectives: list[str]) -> str | None:
    """The first objective that needs training."""
    return next((name for name in objectives if score_of(name).source in OF_PROXY), None)


def cost_axis(objectives: list[str]) -> str | None:
    """The first objective that does not."""
    return next(
        (name for name in objectives if score_of(name).source in ("counted", "predicted")), None
    )


def trial_config(run: RunDir, number: int) -> UNetConfig:
    """The architecture of a trial.

    Raises:
        InputError: The run has no such trial, or it was never built.
    """
    path = run.trial(number) / "config.json"
    if not path.is_file():
        raise InputError(
            f"{run.path}: trial {number} has no architecture; see trials.csv or `archsearch "
            f"status {run.path}`."
        )
    return read_config(path)


def pick(run: RunDir, study: optuna.Study, spec: StudySpec, how: str) -> FrozenTrial:
    """Choose a member of the front: ``knee``, ``min-latency`` or ``best-quality``.

    The knee is the member closest to the ideal point, every objective scaled to [0, 1] over the
    front.

    Raises:
        InputError: There is no front yet, or the study has no objective of the kind asked for.
    """
    members = front(study)
    if not members:
        raise InputError(f"{run.path}: has no finished trial yet.")
    names = list(spec.objectives)
    signed = {name: 1.0 if spec.objectives[name] == "minimize" else -1.0 for name in names}

    def values(trial: FrozenTrial) -> list[float]:
        return [signed[name] * value for name, value in zip(names, trial.values, strict=True)]

    if how == "knee":
        columns = list(zip(*(values(member) for member in members), strict=True))
        low, high = [min(column) for column in columns], [max(column) for column in columns]

        def distance(trial: FrozenTrial) -> float:
            scaled = [
                (v - lo) / (hi - lo) if hi > lo else 0.0
                for v, lo, hi in zip(values(trial), low, high, strict=True)
            ]
            return sum(value**2 for value in scaled)

        return min(members, key=distance)
    axis = cost_axis(names) if how == "min-latency" else quality_axis(names)
    if axis is None:
        raise InputError(
            f"--{how}: the study has no such objective; its objectives are {', '.join(names)}."
        )
    return min(members, key=lambda trial: values(trial)[names.index(axis)])
