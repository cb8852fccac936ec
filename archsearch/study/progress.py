"""How far a run is, as plain data: what ``archsearch status`` shows."""

from collections import Counter
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from archsearch.study.finish import repetitions_under_way, showings_under_way
from archsearch.study.notes import notes_of, outcome
from archsearch.study.results import Results


def progress(results: Results) -> dict[str, Any]:
    """Trials by outcome, what runs now, the front and its hypervolume, and what the store has.

    Returns:
        ``finished`` trials of the ``target``; ``outcomes``, and proposals ``redrawn``, by name;
        ``running`` trials with the share of their pictures seen; ``further`` trainings under way,
        and ``showings``, scores and pictures of what is shown at the end; each ``training`` is the
        folder of its log below ``RUN_DIR/training``, None where that is not known yet;
        ``rungs``, how many trials have got to each budget, with the share of pictures that stopping
        has saved; ``minutes`` taken, of how many; ``front``, its size;
        ``hypervolume`` with its box and history, None before the first trial with scores;
        ``train_seconds`` of the trials and of all records of the ``store``; ``further_seeds`` that
        were trained.
    """
    trials, spec = results.trials, results.setting.spec
    every, growth, box = trials.all(), results.growth(), results.box()
    records = results.store.all()
    again = [each for each in records if each.seed > 0 and each.budget == spec.proxy.samples]
    known = {(each.key, each.budget) for each in records}

    def total(seconds: str) -> float:
        return round(sum((each.details.get(seconds) or 0.0 for each in records), 0.0), 1)

    return {
        "study": results.setting.name,
        "finished": trials.finished(),
        "target": spec.search.trials,
        "outcomes": dict(Counter(map(outcome, every))),
        "redrawn": results.redrawn(),
        "running": [
            _running(results, trial, spec.budgets[0])
            for trial in every
            if trial.state == TrialState.RUNNING
        ],
        "further": [
            {
                "trial": each.number,
                "budget": each.budget,
                "seed": each.seed,
                "training": _training(results, every[each.number], each.budget, each.seed),
            }
            for each in (*trials.further_under_way(), *repetitions_under_way(results))
        ],
        "showings": showings_under_way(results),
        "rungs": _rungs(results),
        "minutes": {
            "taken": round(results.store.clock.seconds() / 60, 2),
            "of": spec.search.minutes,
        },
        "front": len(results.beliefs().front),
        "hypervolume": box
        and {
            "value": growth[-1]["hypervolume"],
            **box.to_dict(),
            "history": growth,
        },
        "train_seconds": growth[-1]["train_seconds"] if growth else 0.0,
        "store": {
            "records": len(records),
            "train_seconds": total("train_seconds"),
            "scoring_seconds": total("scoring_seconds"),
            "with_metrics": len(known & {each[:2] for each in results.store.taken()}),
        },
        "further_seeds": {
            "trainings": len(again),
            "networks": len({each.proxy for each in again}),
            "seeds_of_each": spec.search.confirm_seeds,
        },
    }


def _rungs(results: Results) -> dict[str, Any]:
    budgets, reached = results.setting.spec.budgets, results.beliefs().reached.values()
    seen, whole = sum(reached), len(reached) * budgets[-1]
    return {
        "reached": {str(budget): sum(b >= budget for b in reached) for budget in budgets},
        "saved": round(1 - seen / whole, 3) if whole else 0.0,
    }


def _running(results: Results, trial: FrozenTrial, samples: int) -> dict[str, Any]:
    """A running trial: how much of its budget it has seen, and for how long it has run."""
    began = trial.datetime_start
    return {
        "trial": trial.number,
        "preset": notes_of(trial).get("preset"),
        "training": _training(results, trial, samples),
        "share": round(min(1.0, notes_of(trial).get("samples_seen", 0) / max(1, samples)), 3),
        "seconds": round(max(0.0, (datetime.now() - began).total_seconds()), 1) if began else None,
    }


def _training(results: Results, trial: FrozenTrial, budget: int, seed: int = 0) -> str | None:
    """Folder of the log of a training under way; None where its key is not known yet."""
    key = notes_of(trial).get("key")
    if seed and key is not None:
        key = results.store.key_with_seed(key, seed)
    return None if key is None else f"{key}-{budget}"
