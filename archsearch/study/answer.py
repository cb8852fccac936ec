"""The one question a run is asked: does it beat the preset at equal cost, and by how much against
the spread between seeds?
"""

import json
import statistics
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from archsearch.study import results
from archsearch.study.apart import pooled_deviation
from archsearch.study.finish import comparisons
from archsearch.study.scoring import Scorer
from archsearch.study.spec import is_marked, score_of


def answers(study: optuna.Study, scorer: Scorer) -> list[dict[str, Any]]:
    """Compare every preset of the run with its strongest rival that costs no more, over all seeds
    that were trained.
    """
    setting = scorer.setting
    objectives = list(setting.spec.objectives)
    quality, cost = results.quality_axis(objectives), results.cost_axis(objectives)
    if quality is None or cost is None:
        return []
    found: list[dict[str, Any]] = []
    compared = comparisons(study, setting)
    for preset in results.presets(study):
        if not any(preset.number == pair[0].number for pair in compared):
            found.append(
                {
                    "preset": preset.user_attrs["preset"],
                    "quality": quality,
                    "cost": cost,
                    "rival_trial": None,
                }
            )
    for preset, rival in compared:
        theirs, ours = (_over_seeds(scorer, trial, quality) for trial in (preset, rival))
        sign = 1.0 if setting.spec.objectives[quality] == "minimize" else -1.0
        # The rival was chosen for its first seed: a fair mean leaves that one out, of both.
        fair = [values[1:] or values for values in (theirs, ours)]
        gain = sign * (statistics.mean(fair[0]) - statistics.mean(fair[1]))
        spread = pooled_deviation(theirs, ours)
        architectures = [trial.user_attrs[quality] for trial in results.complete(study)]
        found.append(
            {
                "preset": preset.user_attrs["preset"],
                "preset_trial": preset.number,
                "rival_trial": rival.number,
                "quality": quality,
                "cost": cost,
                "preset_cost": preset.user_attrs[cost],
                "rival_cost": rival.user_attrs[cost],
                "cost_notes": _notes(cost, preset, rival),
                "preset_quality_by_seed": theirs,
                "rival_quality_by_seed": ours,
                "preset_mean": statistics.mean(fair[0]),
                "rival_mean": statistics.mean(fair[1]),
                "gain": gain,
                "seed_deviation": spread,
                "gain_in_seed_deviations": gain / spread if spread else None,
                "architecture_deviation": statistics.stdev(architectures)
                if len(architectures) > 1
                else None,
            }
        )
    return found


def _notes(cost: str, *trials: FrozenTrial) -> list[str]:
    """What has to be said of the costs that are compared: estimates, published figures."""
    notes = [trial.user_attrs.get("latency_note") for trial in trials]
    return list(dict.fromkeys(note for note in notes if note and is_marked(cost, note)))


def sentence(answer: dict[str, Any]) -> str:
    """One line for people."""
    return _claim(answer) + (
        f" (≈ costs: {' / '.join(answer['cost_notes'])})" if answer.get("cost_notes") else ""
    )


def _claim(answer: dict[str, Any]) -> str:
    name, quality, cost = answer["preset"], answer["quality"], score_of(answer["cost"]).label
    head = f"Does the front beat {name} at equal or lower {cost}?"
    if answer["rival_trial"] is None:
        return f"{head} Not known: no other trial costs as little."
    ratio = answer["rival_cost"] / answer["preset_cost"]
    means = (
        f"trial {answer['rival_trial']} has {quality} {answer['rival_mean']:.4f} against "
        f"{answer['preset_mean']:.4f} at {ratio:.2f} × the cost"
    )
    times = answer["gain_in_seed_deviations"]
    if times is None:
        return (
            f"{head} {'Yes' if answer['gain'] > 0 else 'No'}: {means}; one seed, so the seed "
            "spread is not known."
        )
    verdict = "Yes" if times > 2 else "No" if times < 0 else "Not clearly"
    return (
        f"{head} {verdict}: {means}: a gain of {answer['gain']:+.4f}, {times:+.1f} seed "
        "standard deviations "
        f"({answer['seed_deviation']:.4f}); means over fresh seeds, {_seeds(answer)}."
    )


def _seeds(answer: dict[str, Any]) -> str:
    """How many fresh seeds stand behind the two means."""
    counts = [max(1, len(answer[f"{who}_quality_by_seed"]) - 1) for who in ("preset", "rival")]
    return f"{counts[0]} each" if counts[0] == counts[1] else f"{counts[0]} and {counts[1]}"


def _over_seeds(scorer: Scorer, trial: FrozenTrial, quality: str) -> list[float]:
    """A trial's quality for every seed in the store, the first included."""
    values = [float(trial.user_attrs[quality])]
    proxy = scorer.setting.proxy(results.trial_config(scorer.run, trial.number))
    for seed in range(1, scorer.setting.spec.search.confirm_seeds):
        key = scorer.digest(proxy, seed)
        path = scorer.run.scores / f"{key}.json"
        if path.is_file():
            scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
            scores |= results.sampled_scores(scorer.run, key, scorer.setting.spec)
            if quality in scores:
                values.append(scores[quality])
    return values
