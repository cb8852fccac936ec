"""What a run has found: its trials as a table, its Pareto front, and the files that hold them."""

import csv
import io
import json
from dataclasses import dataclass, field
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from archsearch import files
from archsearch.architectures import read_config
from archsearch.errors import InputError
from archsearch.study import storage
from archsearch.study.rundir import RunDir
from archsearch.study.scores import SCORES
from archsearch.study.setting import Setting
from archsearch.study.spec import StudySpec
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

    @property
    def name(self) -> str:
        """The preset's name, or the trial's number."""
        return self.preset or f"#{self.number}"


def candidate(run: RunDir, trial: FrozenTrial) -> Candidate:
    """Read a finished trial."""
    attrs = trial.user_attrs
    scores = {name: value for name, value in attrs.items() if name in SCORES or name.startswith("latency_ms[")}
    return Candidate(
        trial.number,
        attrs.get("preset"),
        attrs["key"],
        attrs["digest"],
        dict(trial.params),
        scores,
        sampled_scores(run, attrs["key"]),
    )


def sampled_scores(run: RunDir, key: str) -> dict[str, float]:
    """Sampled scores in the store, or none."""
    path = run.scores / f"{key}.sampled.json"
    if not path.is_file():
        return {}
    values: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))["scores"]
    return values


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """Trials with scores, by number."""
    return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def front(study: optuna.Study) -> list[FrozenTrial]:
    """The Pareto front, cheapest first; of trials with one architecture the first."""
    seen: set[str] = set()
    members = []
    for trial in sorted(study.best_trials, key=lambda trial: trial.number):
        if trial.user_attrs["digest"] not in seen:
            seen.add(trial.user_attrs["digest"])
            members.append(trial)
    axis = cost_axis(list(study.metric_names or []))
    return sorted(members, key=lambda trial: trial.user_attrs.get(axis or "", trial.number))


def presets(study: optuna.Study) -> list[FrozenTrial]:
    """Finished presets."""
    return [trial for trial in complete(study) if "preset" in trial.user_attrs]


def quality_axis(objectives: list[str]) -> str | None:
    """The first objective that needs training."""
    return next((name for name in objectives if SCORES[name].source in ("trained", "sampled")), None)


def cost_axis(objectives: list[str]) -> str | None:
    """The first objective that does not."""
    return next((name for name in objectives if SCORES[name].source in ("counted", "predicted")), None)


def trial_table(study: optuna.Study) -> pd.DataFrame:
    """Every trial, one a row: number, outcome, scores, costs, where it came from, its point."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        attrs = trial.user_attrs
        row: dict[str, Any] = {"trial": trial.number, "outcome": storage.outcome(trial), "preset": attrs.get("preset")}
        row |= {name: attrs[name] for name in attrs if name in SCORES or name.startswith("latency_ms[")}
        row |= {
            name: attrs.get(name)
            for name in ("samples", "capped", "train_loss", "train_seconds", "scoring_seconds", "from_store", "key", "reason")
        }
        row |= {f"point.{name}": value for name, value in trial.params.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def write_results(run: RunDir, setting: Setting, study: optuna.Study, answer: dict[str, Any] | None) -> None:
    """Write ``trials.csv``, ``pareto.csv`` and ``pareto.json``."""
    table = trial_table(study)
    files.write_text(run.path / "trials.csv", table.to_csv(index=False))
    members = [candidate(run, trial) for trial in front(study)]
    files.write_text(run.path / "pareto.csv", _csv([_row(member) for member in members]))
    files.write_json(run.path / "pareto.json", pareto_json(run, setting, study, answer))


def pareto_json(run: RunDir, setting: Setting, study: optuna.Study, answer: dict[str, Any] | None) -> dict[str, Any]:
    """The front and the presets with their architectures and scores."""

    def entry(trial: FrozenTrial) -> dict[str, Any]:
        found = candidate(run, trial)
        config = trial_config(run, trial.number)
        return {
            "trial": found.number, "preset": found.preset, "digest": found.digest, "key": found.key, "point": found.point,
            "scores": found.scores, "sampled": found.extra, "capped": trial.user_attrs.get("capped", False),
            "config": config.to_dict(),
            "proxy": setting.proxy(config).to_dict(),
        }  # fmt: skip

    return {
        "schema": 1,
        "study": setting.name,
        "objectives": dict(setting.spec.objectives),
        "scales": {"deployment": [n for n in SCORES if SCORES[n].source in ("counted", "predicted")],
                   "proxy": [n for n in SCORES if SCORES[n].source in ("trained", "sampled")]},
        "front": [entry(trial) for trial in front(study)],
        "presets": [entry(trial) for trial in presets(study)],
        "answer": answer,
    }  # fmt: skip


def trial_config(run: RunDir, number: int) -> UNetConfig:
    """The architecture of a trial.

    Raises:
        InputError: The run has no such trial, or it was never built.
    """
    path = run.trial(number) / "config.json"
    if not path.is_file():
        raise InputError(f"{run.path}: trial {number} has no architecture; see trials.csv or `archsearch status {run.path}`.")
    return read_config(path)


def pick(run: RunDir, study: optuna.Study, spec: StudySpec, how: str) -> FrozenTrial:
    """Choose a member of the front: ``knee``, ``min-latency`` or ``best-quality``.

    The knee is the member closest to the ideal point, every objective scaled to [0, 1] over the front.

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
            scaled = [(v - lo) / (hi - lo) if hi > lo else 0.0 for v, lo, hi in zip(values(trial), low, high, strict=True)]
            return sum(value**2 for value in scaled)

        return min(members, key=distance)
    axis = cost_axis(names) if how == "min-latency" else quality_axis(names)
    if axis is None:
        raise InputError(f"--{how}: the study has no such objective; its objectives are {', '.join(names)}.")
    return min(members, key=lambda trial: values(trial)[names.index(axis)])


def _row(member: Candidate) -> dict[str, Any]:
    head = {"trial": member.number, "preset": member.preset, "digest": member.digest}
    return head | member.scores | member.extra | {f"point.{name}": value for name, value in member.point.items()}


def _csv(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
