"""What the report says in sentences and small tables: what was searched, how sure the findings are,
how trials ended, what the numbers were made with, and what others have published.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from archsearch import catalog, documents
from archsearch.cost.price import price
from archsearch.errors import ArchsearchError
from archsearch.latency.predict import load_table
from archsearch.latency.table import PublishedTable
from archsearch.study.beliefs import Beliefs
from archsearch.study.notes import notes_of, outcome
from archsearch.study.results import UNTRAINED, Results, sentence
from archsearch.study.rundir import DATA
from archsearch.study.setting import Setting
from archsearch.study.spec import score_of
from archsearch.unet.presets import preset

Row = tuple[str, str]

PUBLISHED = {
    "sd15": ("859,520,964", "", "Stable Diffusion 1.5, unet/config.json"),
    "sdxl": ("2,567,463,684", "", "SDXL, arXiv 2307.01952"),
    "bk-sdm-base": ("579,384,964", "", "BK-SDM, arXiv 2305.15798"),
    "mobilediffusion": ("386 M", "182 G", "MobileDiffusion, arXiv 2311.16567"),
    "mobilediffusion-lite": ("278 M", "153 G", "MobileDiffusion, arXiv 2311.16567"),
}
"""Parameters, MACs and source as published, by preset; see ``archsearch.unet.presets``."""
PUBLISHED_STEPS: dict[tuple[str, int], tuple[str, float, float, str]] = {
    ("mobilediffusion", 50): ("DDIM", 8.65, 0.325, "cited"),
    ("mobilediffusion", 8): ("distillation", 9.01, 0.321, "unchecked"),
    ("mobilediffusion", 1): ("UFOGen", 11.67, 0.320, "cited"),
    ("mobilediffusion-lite", 50): ("DDIM", 9.45, 0.322, "unchecked"),
    ("mobilediffusion-lite", 8): ("distillation", 9.87, 0.314, "unchecked"),
    ("mobilediffusion-lite", 1): ("UFOGen", 12.89, 0.315, "unchecked"),
}
"""MobileDiffusion's own figures (arXiv 2311.16567), by network and steps: how it draws, FID on
30,000 captions of COCO, CLIP score; and whether papers that cite it have them (``cited``). None was
checked against the paper's own table."""
VERDICTS = ("Yes", "Not clearly", "Not known", "No")
"""How ``sentence`` answers, the longer words first."""
PUBLISHED_LATENCIES = "iphone-15-pro.published"


def listed(parts: Sequence[str], last: str = "and") -> str:
    """``a, b and c``."""
    return f" {last} ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def several(count: int, what: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def minutes(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


# What was searched, and how sure what was found is


def searched(setting: Setting, found: Mapping[str, Any], beliefs: Beliefs) -> list[str]:
    """What was searched: the space, quality and cost, and what the trainings took."""
    spec, space = setting.spec, setting.space
    wanted = listed(
        [
            f"{'low' if score_of(name).direction == 'minimize' else 'high'} "
            f"{score_of(name).label.partition(' (')[0]}"
            for name in spec.objectives
        ]
    )
    base = space.file.base if isinstance(space.file.base, str) else "a network of its own"
    limits = listed(
        [
            f"{name} {sign} {end:,.0f}" if end >= 1000 else f"{name} {sign} {end:g}"
            for name, limit in spec.limits.items()
            for sign, end in (("≥", limit.min), ("≤", limit.max))
            if end is not None
        ]
    )
    sentences = [
        f"This study searches for text-to-image UNets of {wanted}"
        f"{f', with {limits}' if limits else ''}. The space turns "
        f"{several(len(space.dimensions), 'knob')} of {base}, which makes {space.size:,} "
        "combinations."
    ]
    sources = spec.data.source if isinstance(spec.data.source, tuple) else (spec.data.source,)
    if beliefs.qualities:
        shorter = ", ".join(f"{budget:,}" for budget in spec.budgets[:-1])
        sentences.append(
            "Quality is that of a small proxy of each network, "
            f"{spec.proxy.width:g} of its width: "
            + (
                f"it is trained on pictures of {spec.data.size}² pixels with captions "
                f"({listed(sources)}) until it has seen {spec.proxy.samples:,} of them"
                + (f", and only what does well after {shorter} goes on so far." if shorter else ".")
                if spec.proxy.samples
                else f"it begins with the weights of the parent {spec.proxy.parent}."
            )
        )
    devices = []
    for device in setting.devices:
        table = device.table
        published = isinstance(table, PublishedTable)
        how = "from published figures of" if published else "from units measured on"
        devices.append(f"{how} {device.name} ({table.soc}, {table.runtime})")
    if devices:
        sentences.append(
            f"Latency is that of the network as it is deployed, predicted {listed(devices)}."
        )
    store = found["store"]
    if store["records"]:
        spent = store["train_seconds"] + store["scoring_seconds"]
        repeated = (
            f", {beliefs.repetitions} of them repetitions with another seed,"
            if beliefs.repetitions
            else ""
        )
        sentences.append(
            f"{several(store['records'], 'training')}{repeated} took {minutes(spent)} of training "
            "and scoring, all workers added up."
        )
    return sentences


def standing(setting: Setting, found: Mapping[str, Any]) -> str:
    """Where the search stands, in a sentence."""
    finished, target, time = found["finished"], found["target"], found["minutes"]
    counted = f"{finished:,} of {several(target, 'trial')} finished"
    if time["of"] and time["taken"] >= 0.95 * time["of"] and not found["running"]:
        return (
            f"The search is at its end: {counted} in the {time['of']:g} minutes that it was given."
        )
    if finished >= target and not found["running"]:
        return f"The search is at its end: {counted}."
    running = f", {several(len(found['running']), 'trial')} under way" if found["running"] else ""
    spent = f", {time['taken']:.1f} of {time['of']:g} minutes taken" if time["of"] else ""
    return f"The search is not at its end: {counted}{running}{spent}. What stands here may change."


def answer(found: Mapping[str, Any]) -> dict[str, Any]:
    """An answer of ``Results.answers``: the question, the verdict in a word or two, and the rest of
    its sentences.
    """
    question, _, rest = sentence(dict(found)).partition("? ")
    verdict = next(word for word in VERDICTS if rest.startswith(word))
    return {
        "preset": found["preset"],
        "question": f"{question}?",
        "verdict": verdict,
        "rest": rest.removeprefix(verdict).replace(" %", "\N{NO-BREAK SPACE}%"),
    }


def sureness(results: Results) -> list[str]:
    """How sure the findings are."""
    noise, beliefs = results.noise(), results.beliefs()
    if noise is None:
        return [
            "All objectives are costs, which are counted or predicted: nothing in them scatters."
        ]
    if results.setting.spec.proxy.samples == 0:
        return [UNTRAINED]
    sentences = [
        "What is believed of a network comes from a model of "
        f"{several(beliefs.trainings, 'training')}, which knows how much seeds scatter; the "
        "interval holds the true value in 95 of 100 cases."
        if beliefs.trainings
        else "What is believed of a network comes from a model of the scores that were told."
    ]
    if noise.seed_deviation is None:
        sentences.append(
            "No network was trained with a second seed under the same conditions, so that how much "
            f"{noise.score} scatters between seeds was not measured."
        )
    else:
        sentences.append(
            f"Two trainings of one network differ in {noise.score} by "
            f"{noise.least_difference:.2g} or less in 95 of 100 cases (measured on "
            f"{several(noise.repetitions, 'training')} of {several(noise.networks, 'network')})."
        )
    return sentences


# How trials ended


def rungs(setting: Setting, found: Mapping[str, Any]) -> str:
    """How many trials have got to each budget."""
    reached = found["rungs"]["reached"]
    if len(reached) < 2:
        return ""
    counts = listed(
        [f"{count} after {int(budget):,} pictures" for budget, count in reached.items()]
    )
    return (
        f"Trials that were trained so far: {counts}. Stopping the others early saved "
        f"{100 * found['rungs']['saved']:.0f} % of the training."
    )


def endings(results: Results) -> list[dict[str, Any]]:
    """Trials that have no scores, and proposals that became no trial, by what became of them and
    why.
    """
    rows: dict[tuple[str, str], list[int]] = defaultdict(list)
    for trial in results.trials.all():
        if (ended := outcome(trial)) != "complete":
            rows[ended, str(notes_of(trial).get("reason") or "")].append(trial.number)
    found: list[dict[str, Any]] = [
        {"what": ended, "count": len(numbers), "reason": reason, "trials": numbers[:20]}
        for (ended, reason), numbers in rows.items()
    ]
    found += [
        {"what": "proposal that became no trial", "count": count, "reason": reason, "trials": []}
        for reason, count in results.redrawn().items()
    ]
    return found


# What the numbers were made with


def provenance(results: Results) -> list[dict[str, Any]]:
    """What the numbers were made with: groups of keys and values, in words."""
    setting, made = results.setting, results.run.environment()
    spec = setting.spec
    data = _given(
        {
            "source": spec.data.source,
            "size": f"{spec.data.size}² pixels",
            "held out": f"{100 * spec.data.held_out:g} % of the families of near-duplicates",
            "captions": f"{spec.data.text}, {spec.data.tokens} tokens",
            "latent space": spec.proxy.latent,
            "fingerprint": _fingerprint(results),
        }
    )
    recipe = spec.proxy
    training = _given(
        {
            "width": f"× {recipe.width:g}",
            "pictures seen": f"{recipe.samples:,}, {recipe.batch} a step",
            "precision": recipe.precision,
            "prediction": recipe.prediction,
            "learning rate": f"{recipe.learning_rate:g}",
            "seeds": f"all from the study's seed, {spec.search.seed}",
            **{f"version of {name}": str(v) for name, v in made.get("versions", {}).items()},
        }
    )
    steps = spec.sampling.searched or (spec.sampling.steps,)
    sampled = _given(
        {
            "reported": ", ".join(spec.report),
            "pictures a score": str(spec.metrics.images),
            "steps": f"{', '.join(map(str, steps))} of DDIM, guidance {spec.sampling.guidance:g}",
        }
    )
    devices = [(device.name, _described(device.table)) for device in setting.devices]
    packages = [(name, str(version)) for name, version in made.get("packages", {}).items()]
    machine = _given(
        {
            "Python": made.get("python"),
            "platform": made.get("platform"),
            "processor": f"{made.get('processor')}, {made.get('cores')} cores",
            "GPUs": ", ".join(made.get("gpus") or []),
            "trained on": _devices(results),
        }
    )
    search = _given(
        {
            "sampler": spec.search.sampler.name,
            "seed": str(spec.search.seed),
            "trials": f"{spec.search.trials:,} at most",
            "minutes": f"{spec.search.minutes:g}" if spec.search.minutes else "",
        }
    )
    groups = {
        "Data": data,
        "Training of the proxies": training,
        "Scores of pictures": sampled,
        "Latency tables": devices,
        "Search": search,
        "Machine the run began on": machine,
        "Versions": packages,
    }
    return [{"title": title, "rows": rows} for title, rows in groups.items() if rows]


def _given(rows: Mapping[str, Any]) -> list[Row]:
    """Rows that have a value."""
    found = []
    for name, value in rows.items():
        words = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        if words not in (None, ""):
            found.append((name, str(words)))
    return found


def _devices(results: Results) -> str:
    """What the networks were trained on."""
    records = results.store.records()
    conditions = set(records.conditions) if len(records) else set()
    return listed(sorted({str(json.loads(each).get("device")) for each in conditions}))


def _fingerprint(results: Results) -> str:
    path = results.run.path / DATA
    return str(documents.read(path).data.get("fingerprint", "")) if path.is_file() else ""


def _described(table: Any) -> str:
    if isinstance(table, PublishedTable):
        return f"published figures of {table.soc}: {table.source}"
    return (
        f"{table.soc}, {table.runtime}, {table.dtype}, {several(table.threads, 'thread')}, "
        f"measured {table.date}: {several(len(table.entries), 'unit')}"
    )


# What others have published


def published() -> dict[str, Any]:
    """Published figures of the presets, beside what is counted of them here."""
    try:
        table = load_table(catalog.find("table", PUBLISHED_LATENCIES))
    except ArchsearchError:
        table = None
    known = {each.name: each for each in table.whole} if isinstance(table, PublishedTable) else {}
    rows = []
    for name, (params, macs, source) in PUBLISHED.items():
        counted = price(preset(name))
        taken = counted.macs - counted.macs_by_kind.attention
        measured = f"{known[name].measured:g} ms" if name in known else ""
        rows.append(
            {
                "name": name,
                "params": params,
                "macs": macs,
                "latency": measured,
                "source": source,
                "counted_params": counted.params,
                "counted_macs": taken,
            }
        )
    described = isinstance(table, PublishedTable)
    return {
        "steps": _published_steps(table if isinstance(table, PublishedTable) else None),
        "device": table.soc if described and table else "",
        "rows": rows,
        "source": table.source if isinstance(table, PublishedTable) else "",
        "note": table.note if isinstance(table, PublishedTable) else "",
    }


def _published_steps(table: PublishedTable | None) -> list[dict[str, Any]]:
    """Published quality by number of steps, with the latency of a picture where a step is one pass:
    text encoder, passes and decoder added up, as the paper's own totals are.
    """
    passes = {each.name: each.measured for each in table.whole} if table else {}
    parts = sum(each.p50 for each in table.parts) if table else 0.0
    rows: list[dict[str, Any]] = []
    for (name, steps), (how, fid, clip, known) in PUBLISHED_STEPS.items():
        row = {"name": name, "steps": steps, "how": how, "fid": fid, "clip": clip, "known": known}
        one_pass = how != "DDIM" and name in passes
        rows.append(row | {"latency": parts + steps * passes[name] if one_pass else None})
    return rows
