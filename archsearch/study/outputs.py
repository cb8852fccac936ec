"""The files in which a run's results lie: ``trials.csv``, ``pareto.csv``, ``pareto.json``."""

import csv
import io
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial

from archsearch import files
from archsearch.study import results
from archsearch.study import trials as storage
from archsearch.study.apart import noise_of, noises_of, not_told_from
from archsearch.study.rundir import RunDir
from archsearch.study.setting import Setting
from archsearch.study.spec import OF_PROXY, SCORES, device_of, is_score, of_device, score_of


def trial_table(study: optuna.Study) -> pd.DataFrame:
    """Every trial, one a row: number, outcome, scores, costs, where it came from, its point."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        attrs = trial.user_attrs
        row: dict[str, Any] = {
            "trial": trial.number,
            "outcome": storage.outcome(trial),
            "preset": attrs.get("preset"),
        }
        row |= {name: attrs[name] for name in attrs if is_score(name)}
        row |= {
            name: attrs.get(name)
            for name in (
                "latency_note",
                "val_loss_low",
                "val_loss_high",
                "samples",
                "capped",
                "train_loss",
                "train_seconds",
                "scoring_seconds",
                "from_store",
                "key",
                "reason",
                "last_good",
            )
        }
        row |= {f"point.{name}": value for name, value in trial.params.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def write_results(
    run: RunDir, setting: Setting, study: optuna.Study, answer: dict[str, Any] | None
) -> None:
    """Write ``trials.csv``, ``pareto.csv`` and ``pareto.json``."""
    table = trial_table(study)
    files.write_text(run.path / "trials.csv", table.to_csv(index=False))
    members = [results.candidate(run, trial, setting.spec) for trial in results.front(study)]
    same = not_told_from(members, noise_of(run, study, setting.spec))
    files.write_text(
        run.path / "pareto.csv", _csv([_row(member, same[member.number]) for member in members])
    )
    files.write_json(run.path / "pareto.json", pareto_json(run, setting, study, answer))


def pareto_json(
    run: RunDir, setting: Setting, study: optuna.Study, answer: dict[str, Any] | None
) -> dict[str, Any]:
    """The front and the presets with their architectures and scores, and which of the front cannot
    be told apart.
    """
    noise = noise_of(run, study, setting.spec)
    members = results.front(study)
    same = not_told_from([results.candidate(run, trial, setting.spec) for trial in members], noise)
    scored = [
        name
        for name in dict.fromkeys((*setting.spec.objectives, *setting.spec.report))
        if score_of(name).source in OF_PROXY
    ]

    def entry(trial: FrozenTrial) -> dict[str, Any]:
        found = results.candidate(run, trial, setting.spec)
        config = results.trial_config(run, trial.number)
        return {
            "trial": found.number, "preset": found.preset, "digest": found.digest, "key": found.key, "point": found.point,
            "scores": found.scores, "latency_note": found.note, "latency_measured": found.measured,
            "sampled": found.extra, "capped": trial.user_attrs.get("capped", False),
            "config": config.to_dict(),
            "proxy": setting.proxy(config).to_dict(),
        }  # fmt: skip

    return {
        "schema": 1,
        "study": setting.name,
        "objectives": dict(setting.spec.objectives),
        "scales": {"deployment": [n for n in SCORES if SCORES[n].source in ("counted", "predicted")],
                   "proxy": [n for n in SCORES if SCORES[n].source in OF_PROXY]},
        "noise": noise.to_dict() if noise else None,
        "noise_by_score": {name: found.to_dict() for name, found in noises_of(run, study, setting.spec, scored).items()},
        "front": [entry(trial) | {"not_told_from": same[trial.number]} for trial in members],
        "presets": [entry(trial) for trial in results.presets(study)],
        "answer": answer,
    }  # fmt: skip


def _row(member: results.Candidate, same: list[int] | None) -> dict[str, Any]:
    head = {"trial": member.number, "preset": member.preset, "digest": member.digest}
    several = any(device_of(name) is not None for name in member.scores)
    measured = {
        f"{of_device(name) if several else 'latency_ms'} measured": line["measured"]
        for name, line in member.measured.items()
    }
    note = {"latency_note": member.note} if member.note else {}
    apart = {"not_told_from": "unknown" if same is None else " ".join(map(str, same))}
    point = {f"point.{name}": value for name, value in member.point.items()}
    return head | member.scores | apart | measured | note | member.extra | point


def _csv(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
