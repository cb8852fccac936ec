"""What was done to a run's networks after the search, as far as the run knows of it: quality
against the latency of a picture by number of steps, undistilled and distilled; adapters; and
whether the order that the search has found survives. Needs neither data nor models.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from archsearch.metrics.registry import METRICS
from archsearch.study.agreement import correlate
from archsearch.study.derived import Derived
from archsearch.study.results import Results, ScoredTrial
from archsearch.study.spec import of_device, score_of

UNDISTILLED = "undistilled"
NAMES = {
    "progressive": "distilled",
    "ufogen": "generator (UFOGen)",
    "dmd": "generator (DMD)",
    "lora": "LoRA",
    "control": "control by edges",
    "inpaint": "inpainting",
}
"""What is made from a network, by method."""
METHODS = {"progressive": "progressive distillation", "ufogen": "by UFOGen", "dmd": "by DMD"}


def after_search(results: Results) -> dict[str, Any] | None:
    """Everything that is known of a run's networks in few steps and with adapters, as plain data;
    None where nothing of it was done.

    Returns:
        ``quality``: the objective that orders the networks as the search believes them;
        ``cost``: what a picture costs, a score's name, or ``macs`` where the study names no table;
        ``metrics``: the scores there are. ``steps``: a row for each network, way and number of
        steps, the cheapest network first, with ``passes`` of the UNet, ``cost`` and ``scores``;
        ``adapters``: a row for each adapter. ``orders``: Kendall's τ, with the ends of its interval
        of 95 % and the number of networks, between the order that the search believes in and the
        one that a score gives afterwards. ``settings``: how each kind of network was made.
    """
    made = results.store.derived.all()
    of_training = _trials(results, made)
    made = [each for each in made if (each.record, each.budget) in of_training]
    trials = _by_cost(results, [trial for of in of_training.values() for trial in of])
    labels = _labels(made)
    steps = _step_rows(results, of_training, made, labels)
    adapters = [
        {"network": trial.name, "trial": trial.number, "how": labels[each.key], **row}
        for each in made
        for trial in of_training[each.record, each.budget]
        for row in each.rows
        if each.what == "adapt"
    ]
    if not steps and not adapters:
        return None
    rank = {trial.number: place for place, trial in enumerate(trials)}
    ways = [UNDISTILLED, *sorted(set(labels.values()))]
    steps.sort(key=lambda row: (rank[row["trial"]], ways.index(row["how"]), -row["steps"]))
    adapters.sort(key=lambda row: (ways.index(row["how"]), rank[row["trial"]]))
    metrics = dict.fromkeys(name for row in steps for name in row["scores"])
    return {
        "quality": results.quality,
        "cost": next((row["cost_of"] for row in steps), None),
        "metrics": [name for name in METRICS if name in metrics],
        "steps": steps,
        "adapters": adapters,
        "orders": _orders(results, trials, steps, adapters),
        "settings": [
            {"how": how, "settings": settings}
            for how, settings in {labels[each.key]: _told(each) for each in made}.items()
        ],
    }


Trials = Mapping[tuple[str, int], Sequence[ScoredTrial]]
"""By key and budget of a training, the trials whose networks it stands for: two networks can have
one proxy."""


def _trials(results: Results, made: Sequence[Derived]) -> Trials:
    """The front, the presets, and whatever else something was made from; each network once."""
    shown = results.shown()
    wanted = {(each.record, each.budget) for each in made}
    wanted -= {(trial.key, trial.budget) for trial in shown}
    every = results.complete() if wanted else []
    others = [trial for trial in every if (trial.key, trial.budget) in wanted]
    found: dict[tuple[str, int], list[ScoredTrial]] = {}
    for trial in (*shown, *others):
        of = found.setdefault((trial.key, trial.budget), [])
        if trial.digest not in [each.digest for each in of]:
            of.append(trial)
    return found


def _by_cost(results: Results, trials: Iterable[ScoredTrial]) -> list[ScoredTrial]:
    return sorted(trials, key=lambda trial: trial.known.get(results.cost or "", trial.number))


def _labels(made: Sequence[Derived]) -> dict[str, str]:
    """What each derived network is called, by key: by its method alone where all of that method
    were made in one way.
    """
    ways: dict[str, list[str]] = defaultdict(list)
    for each in made:
        if (told := _told(each)) not in ways[each.settings["method"]]:
            ways[each.settings["method"]].append(told)
    found = {}
    for each in made:
        known = ways[each.settings["method"]]
        number = f" {known.index(_told(each)) + 1}" if len(known) > 1 else ""
        found[each.key] = f"{NAMES.get(each.settings['method'], 'derived')}{number}"
    return found


def _told(each: Derived) -> str:
    """How a network was made, in words; the steps that it was to reach stand in its rows."""
    of = each.settings
    parts = [
        METHODS.get(of["method"], ""),
        f"from {of['from']} steps" if of.get("from") else "",
        f"of rank {of['rank']}" if of.get("rank") else "",
        f"{of['samples']:,} pictures{' in each round' if of['method'] == 'progressive' else ''}",
        f"other pictures than the network's own (data {of['data'][:6]})" if of.get("data") else "",
        f"learning rate {of['learning_rate']:g}"
        + (f", {of['folding_rate']:g} in the first round" if of.get("folding_rate") else ""),
        f"guidance weights {of['guidance'][0]:g} to {of['guidance'][1]:g}"
        if of.get("guidance")
        else "",
        f"seed {of['seed']}",
        f"on {of['device']}" if of.get("device") else "",
    ]
    return ", ".join(filter(None, parts))


# Few steps


def _step_rows(
    results: Results, of_training: Trials, made: Sequence[Derived], labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Undistilled networks in every number of steps that they were scored in, where the study's own
    number is not the only one; and distilled ones in theirs.
    """
    spec, taken = results.setting.spec, results.store.taken()
    guided = 1 if spec.sampling.guidance == 1 else 2
    own_steps = {*spec.sampling.searched, spec.sampling.steps}
    by_training: dict[tuple[str, int], dict[int, dict[str, float]]] = defaultdict(dict)
    for (key, budget, steps), scores in taken.items():
        number = steps or (0 if isinstance(spec.sampling.steps, tuple) else spec.sampling.steps)
        drawn = {name: value for name, value in scores.items() if name in METRICS}
        if number and drawn:
            by_training[key, budget].setdefault(number, {}).update(drawn)
    rows: dict[tuple[int, str, int], dict[str, Any]] = {}

    def add(trial: ScoredTrial, how: str, steps: int, passes: int, **known: Any) -> None:
        cost_of, cost = picture_cost(results, trial, passes)
        if not known["scores"] and (trial.number, how, steps) in rows:
            return  # a round of two distillations, which are the same up to it
        rows[trial.number, how, steps] = {
            "network": trial.name,
            "trial": trial.number,
            "preset": trial.preset is not None,
            "how": how,
            "steps": steps,
            "passes": passes,
            "cost_of": cost_of,
            "cost": cost,
            "provenance": trial.provenance,
            **known,
        }

    for training, trials in of_training.items():
        by_steps = by_training[training]
        for steps, scores in by_steps.items() if by_steps.keys() - own_steps else ():
            for trial in trials:
                add(trial, UNDISTILLED, steps, steps * guided, scores=scores)
    for each in made:
        for row in each.rows if each.what == "distill" else ():
            if own := row.get("steps"):
                scores = by_training[each.key, each.budget].get(own, {})
                errors = {name: row[name] for name in ("error", "error_before") if name in row}
                for trial in of_training[each.record, each.budget]:
                    add(trial, labels[each.key], own, own, scores=scores, **errors)
    return list(rows.values())


def picture_cost(results: Results, trial: ScoredTrial, passes: int) -> tuple[str, float]:
    """What a picture of so many passes of the UNet costs, and the name of that: the latency from
    prompt to picture (``pipeline_ms``), of the UNet's passes alone (``pipeline_unet_ms``) where the
    study names no text encoder and decoder, or their MACs where it names no latency table.
    """
    known, devices = trial.known, results.setting.devices
    each = {
        device.name: known.get(of_device(device.name), known.get("latency_ms"))
        for device in devices
    }
    found = {name: ms for name, ms in each.items() if ms is not None}
    if not found or len(found) < len(devices):
        return "macs", passes * known["macs"]
    costs = results.setting.pipeline_latency(found, passes)
    name = "pipeline_ms" if "pipeline_ms" in costs else "pipeline_unet_ms"
    return name, costs[name]


# Orders


def _orders(
    results: Results,
    trials: Iterable[ScoredTrial],
    steps: Sequence[Mapping[str, Any]],
    adapters: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """How far the order of the networks by what the search believes is the order afterwards, by
    every score, in every way and number of steps in which at least three were scored.
    """
    quality = results.quality
    if quality is None:
        return []
    believed = {
        trial.number: way(quality) * trial.believed.get(quality, (trial.known[quality],))[0]
        for trial in trials
        if quality in trial.believed or quality in trial.known
    }
    groups: dict[tuple[str, int | None, str], dict[int, float]] = defaultdict(dict)
    for row in steps:
        scores = {name: way(name) * value for name, value in row["scores"].items()}
        for name, value in (scores | {k: row[k] for k in ("error",) if k in row}).items():
            groups[row["how"], row["steps"], name][row["trial"]] = value
    for row in adapters:
        groups[row["how"], None, "val_loss"][row["trial"]] = row["val_loss"]
    found: list[dict[str, Any]] = []
    kinds = list(dict.fromkeys(how for how, _, _ in groups))
    for how, number, score in sorted(groups, key=lambda g: (kinds.index(g[0]), -(g[1] or 0), g[2])):
        values = groups[how, number, score]
        shared = [trial for trial in values if trial in believed]
        tau = correlate([believed[t] for t in shared], [values[t] for t in shared])
        if tau is not None:
            interval = {"tau": tau.tau, "low": tau.low, "high": tau.high}
            row = {"how": how, "steps": number, "score": score}
            found.append(row | interval | {"networks": len(shared)})
    return found


def way(score: str) -> int:
    """1 where less of a score is better, -1 where more is."""
    return 1 if score_of(score).direction == "minimize" else -1
