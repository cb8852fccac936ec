"""Everything that the report shows of a run, as plain JSON data: gathered once, so that page,
charts and tests read the same figures.
"""

import base64
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from archsearch.cost.price import kind_costs, stage_costs
from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.predict import OnMissing, Predictor, unit_times
from archsearch.latency.table import LatencyTable
from archsearch.report import words
from archsearch.report.diagram import stage_diagram
from archsearch.study.afterwards import after_search, way
from archsearch.study.compare import compare
from archsearch.study.finish import captions_of
from archsearch.study.importances import WORDS, importances
from archsearch.study.progress import progress
from archsearch.study.results import Results, ScoredTrial, not_told_from, sentence
from archsearch.study.setting import Setting
from archsearch.study.spec import LIMITABLE, OF_PROXY, device_of, is_marked, is_score, score_of
from archsearch.study.trials import Trials
from archsearch.study.volume import by_logarithm
from archsearch.unet.config import UNetConfig

if TYPE_CHECKING:
    from archsearch.run import Run

NEAREST, SHOWN = 100, 150
"""Networks beside the front and the presets whose pictures and costs the page holds; and all of
these together at most, unless the front itself is larger."""
DRAWN = 60
"""Networks whose stages are drawn at most, the front first."""
DIGITS = 7
"""Significant digits of a number in the page."""

# How a score shows: what its value is divided by, the unit behind it, the words on an axis.
UNITS = {
    "params": (1e6, "M", "parameters (M)"),
    "macs": (1e9, "G", "GMACs"),
    "peak_activation_bytes": (1e6, "MB", "peak activations (MB)"),
}
KINDS = {
    "residual": "residual blocks",
    "self_attention": "self-attention",
    "cross_attention": "cross-attention",
    "feed_forward": "feed-forward",
    "projection": "projections",
    "downsample": "down- and upsampling",
    "upsample": "down- and upsampling",
}
"""What the units of a network are called in the comparison; the rest is at its ends."""
ENDS = "input, time, output"
COSTS = ("params", "macs", "ms")

PartT = TypeVar("PartT")


class _Notes:
    """Sentences about what the page lacks, each once."""

    def __init__(self) -> None:
        self.sentences: dict[str, None] = {}

    def add(self, sentence: str) -> None:
        self.sentences.setdefault(sentence)

    def try_to(self, what: str, work: Callable[[], PartT], otherwise: PartT) -> PartT:
        """What ``work`` gives, or ``otherwise`` with a sentence why not."""
        try:
            return work()
        except (ArchsearchError, OSError, ValueError, KeyError) as error:
            self.add(f"{what}: {error}")
            return otherwise


class _Tolerant(Results):
    """Results that go on where a file of a trial is damaged, and say so."""

    def __init__(self, trials: Trials, notes: _Notes) -> None:
        super().__init__(trials)
        self._notes, self._known = notes, dict[int, dict[str, Any]]()

    def complete(self) -> list[ScoredTrial]:
        return self._complete

    @cached_property
    def _complete(self) -> list[ScoredTrial]:
        return super().complete()

    def metrics_of(self, number: int) -> dict[str, Any]:
        if number not in self._known:
            read = super().metrics_of
            self._known[number] = self._notes.try_to(
                f"What was measured of trial {number} is not shown", lambda: read(number), {}
            )
        return self._known[number]


def gather(study: "Run", others: Sequence["Run"] = ()) -> dict[str, Any]:
    """Everything that the report shows of a run.

    What cannot be had, since there are no scores yet or a file is damaged, is left out, and a
    sentence in ``notes`` says so.

    Args:
        study: The run.
        others: Runs that it is compared with.

    Returns:
        Plain data: numbers to ``DIGITS`` significant digits, None for what is not a number.

    Raises:
        InputError: The folder is not a run, or its database is damaged.
    """
    notes = _Notes()
    results = _Tolerant(study.results.trials, notes)
    setting, complete = results.setting, results.complete()
    reference = _reference(setting, complete)
    near = _nearest(results, complete)
    found = progress(results)
    if not complete:
        notes.add("No trial has scores yet, so that there is no front to show.")
    elif len(results.objectives) == 1:
        notes.add(
            f"{next(iter(results.objectives))} is the only objective: the front is the best "
            "network alone."
        )
    scored = trials_of(results)
    known = {score["name"] for score in scored["scores"]}
    if complete and (unknown := [name for name in setting.spec.report if name not in known]):
        notes.add(
            f"No trial has {words.listed(unknown)} yet, which the study reports: such scores are "
            "taken at its end, and those of another version of a metric are left out."
        )
    contents: dict[str, Any] = {
        "study": setting.name,
        "folder": str(study.folder),
        "objectives": results.objectives,
        "quality": results.quality,
        "cost": results.cost,
        **scored,
        "limits": {
            name: {"min": limit.min, "max": limit.max}
            for name, limit in setting.spec.limits.items()
        },
        "knobs": [
            {"name": name, "choices": [_text(value) for value in map(_label, each.values)]}
            for name, each in setting.space.dimensions.items()
        ],
        "reference": reference,
        "bills": _bills(results, near, notes),
        "pictures": _pictures(results, near, notes),
        "searched": words.searched(setting, found, results.beliefs()),
        "standing": words.standing(setting, found),
        "answers": [words.answer(each) for each in results.answers()] if complete else [],
        "sure": words.sureness(results) if complete else [],
        "effects": notes.try_to(
            "What each choice does is not shown",
            lambda: effects_of(results),
            list[dict[str, Any]](),
        ),
        "importances": _importances(results, notes) if complete else None,
        "hypervolume": found["hypervolume"],
        "rungs": words.rungs(setting, found),
        "endings": words.endings(results),
        "measured": _measured(complete),
        "after": notes.try_to(
            "What was done after the search is not shown", lambda: _after(results), None
        ),
        "provenance": words.provenance(results),
        "study_file": results.run.study.read_text(encoding="utf-8"),
        "published": words.published(),
        "comparison": _comparison([results, *(_Tolerant(o.results.trials, notes) for o in others)])
        if others
        else None,
    }
    contents["notes"] = list(notes.sentences)
    plain_contents: dict[str, Any] = plain(contents)
    return plain_contents


def in_short(study: "Run") -> str:
    """A run in a few lines of HTML: the answers in sentences, and the front as a table."""
    results = study.results
    lines = [f"<p><strong>{escape(study.name)}</strong> ({escape(str(study.folder))})</p>"]
    if not results.trials.complete():
        return f"{lines[0]}<p>No trial has scores yet.</p>"
    lines += [f"<p>{escape(sentence(each))}</p>" for each in results.answers()]
    spec, rows = results.setting.spec, []
    for member in results.front():
        row: dict[str, Any] = {"network": member.name}
        for name in dict.fromkeys((*spec.objectives, *spec.report)):
            if name in member.believed:
                mean, low, high = member.believed[name]
                row[f"{name} (95 %)"] = f"{mean:.4g} ({low:.4g} to {high:.4g})"
            else:
                row[name] = f"{member.known[name]:,.6g}" if name in member.known else "–"
        rows.append(row)
    table: str = pd.DataFrame(rows).to_html(index=False, border=0)  # it escapes its cells
    return "".join([*lines, table])


def plain(value: Any) -> Any:
    """Plain JSON data: numbers to ``DIGITS`` significant digits, None for NaN and infinities."""

    def rounded(text: str) -> float:
        number = float(text)
        return int(number) if number.is_integer() else float(f"{number:.{DIGITS}g}")

    text = json.dumps(value, default=float)  # numpy's numbers too
    return json.loads(text, parse_float=rounded, parse_constant=lambda _: None)


def _label(value: Any) -> Any:
    return "+".join(map(str, value)) or "none" if isinstance(value, list | tuple) else value


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) or value is None else str(value)


# Scores and trials


def trials_of(results: Results) -> dict[str, Any]:
    """The scores that trials have, and every trial with them, as plain data."""
    complete = results.complete()
    scores = _scores(results.setting, complete)
    return {"scores": scores, "trials": _trials(results, complete, scores)}


def _scores(setting: Setting, complete: Sequence[ScoredTrial]) -> list[dict[str, Any]]:
    """Every score that an axis, a column or a limit can be of, objectives first."""
    known = {name for trial in complete for name in trial.known if is_score(name)}
    spec = setting.spec
    devices = [name for name in sorted(known) if device_of(name) is not None]
    names = dict.fromkeys(
        (*spec.objectives, *spec.limits, *spec.report, *LIMITABLE, *devices),
    )
    found = []
    for name in names:
        score = score_of(name)
        if name not in known and name not in spec.objectives:
            continue
        unit = "ms" if name.endswith("_ms") or device_of(name) else ""
        factor, unit, axis = UNITS.get(name, (1.0, unit, score.label))
        found.append(
            {
                "name": name,
                "label": score.label,
                "axis": axis,
                "unit": unit,
                "factor": factor,
                "direction": score.direction,
                "source": score.source,
                "scale": "proxy" if score.source in OF_PROXY else "deployment",
                "objective": name in spec.objectives,
                "logarithm": by_logarithm(name),
            }
        )
    return found


def _trials(
    results: Results, complete: Sequence[ScoredTrial], scores: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Every trial, by number, those without scores too."""
    names = [score["name"] for score in scores]
    front, raw_front = results.front(), {trial.number for trial in results.raw_front()}
    members = {trial.number for trial in front}
    same = not_told_from(front, results.noise())
    beliefs, raw = results.beliefs(), _raw(results, complete)
    judged, scored = set(beliefs.judged), {trial.number: trial for trial in complete}
    found = []
    table = results.trial_table()
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        number = row["trial"]
        point = {str(k)[len("point.") :]: v for k, v in row.items() if str(k).startswith("point.")}
        entry: dict[str, Any] = {
            "number": number,
            "name": row["preset"] or f"#{number}",
            "preset": row["preset"] is not None,
            "outcome": row["outcome"],
            "reason": row["reason"] or "",
            "seconds": row["train_seconds"],
            "budget": row["budget"],
            "point": {knob: _text(choice) for knob, choice in point.items() if choice is not None},
            "scores": {name: row[name] for name in names if row.get(name) is not None},
        }
        if number in scored:
            trial = scored[number]
            entry |= {
                "scores": {name: trial.known[name] for name in names if name in trial.known},
                "believed": trial.believed,
                "raw": raw.get(number, {}),
                "budget": trial.budget,
                "chance": trial.chance,
                "judged": number in judged,
                "front": number in members,
                "raw_front": number in raw_front,
                "same": same.get(number),
                "seeds": beliefs.seeds.get(number, 0),
                "steps": trial.steps,
                "note": trial.note,
                "marked": [n for n in names if is_marked(n, trial.provenance)],
                "capped": trial.capped,
                "digest": trial.digest,
            }
        found.append(entry)
    return found


def _raw(results: Results, complete: Sequence[ScoredTrial]) -> dict[int, dict[str, list[float]]]:
    """What each training of a trial's network measured, every seed, after the trial's budget: by
    trial and quality that is an objective.
    """
    qualities = [name for name in results.objectives if score_of(name).source in OF_PROXY]
    own = {t.number: {n: [t.known[n]] for n in qualities if n in t.known} for t in complete}
    records = results.store.records(outcome="complete")
    if not len(records):
        return own
    proxies = dict(zip(records.key, records.proxy, strict=True))
    for name in qualities:
        if name not in records:
            continue
        scored = records[records[name].notna()]
        values: dict[tuple[str, int], list[float]] = {}
        for proxy, budget, value in zip(scored.proxy, scored.budget, scored[name], strict=True):
            values.setdefault((proxy, budget), []).append(value)
        for trial in complete:
            known = values.get((proxies.get(trial.key, ""), trial.budget), [])
            if len(known) > 1:
                own[trial.number][name] = list(known)
    return own


def _reference(setting: Setting, complete: Sequence[ScoredTrial]) -> dict[str, Any]:
    """The network whose knobs the others' are shown against: the first preset that was trained,
    else the first in the space, else the space's base.
    """
    for trial in complete:
        if trial.preset:
            point = {knob: _text(choice) for knob, choice in trial.point.items()}
            return {"name": trial.preset, "trial": trial.number, "point": point}
    name, found = next(iter(setting.presets().items()), ("the base of the space", None))
    point = found or setting.space.locate(setting.space.base) or {}
    labels = setting.space.labels(point)
    return {"name": name, "trial": None, "point": {k: _text(v) for k, v in labels.items()}}


# Networks that are shown in full


def _nearest(results: Results, complete: Sequence[ScoredTrial]) -> list[ScoredTrial]:
    """The front, the presets, and the networks nearest to the front on the scale on which
    hypervolumes are taken.
    """
    shown = {trial.number: trial for trial in results.shown()}
    most = min(len(shown) + NEAREST, max(len(shown), SHOWN))
    front = {trial.number for trial in results.front()}
    names = list(results.objectives)
    rows = np.array(
        [[t.believed.get(n, (t.known.get(n, np.nan),))[0] for n in names] for t in complete],
        dtype=np.float64,
    ).reshape(-1, len(names))
    for column, name in enumerate(names):
        if by_logarithm(name):
            rows[:, column] = np.log(np.maximum(rows[:, column], 1e-12))
    finite = np.isfinite(rows).all(axis=1)
    if front and finite.any():
        low, high = rows[finite].min(axis=0), rows[finite].max(axis=0)
        rows = (rows - low) / np.where(high > low, high - low, 1.0)
        on_front = np.array([trial.number in front for trial in complete])
        members = rows[on_front & finite]
        if len(members):
            apart = np.linalg.norm(rows[:, None] - members[None], axis=2).min(axis=1)
            apart = np.where(finite, apart, np.inf)
            for index in np.argsort(apart, kind="stable"):
                if len(shown) >= most:
                    break
                shown.setdefault(complete[index].number, complete[index])
    return list(shown.values())


def _bills(
    results: Results, shown: Iterable[ScoredTrial], notes: _Notes
) -> dict[str, dict[str, Any]]:
    """What each stage and each kind of layer of a network costs, by number of its trial."""
    tables = [device.table for device in results.setting.devices]
    table = next((table for table in tables if isinstance(table, LatencyTable)), None)
    deployment = results.setting.spec.deployment
    times = unit_times(table, deployment.on_missing)

    def bill(place: int, trial: ScoredTrial) -> dict[str, Any]:
        network = results.trials.network(trial.number)
        kinds: dict[str, list[float]] = {}
        for row in kind_costs(network, times):
            costs = kinds.setdefault(KINDS.get(row["kind"], ENDS), [0, 0, 0])
            for column, name in enumerate(COSTS):
                costs[column] += row.get(name, 0)
        stages = [
            {
                "name": f"stage {index + 1}, {stage['size']}²"
                if "size" in stage
                else stage["stage"],
                "channels": stage.get("channels"),
                "costs": [stage.get(name, 0) for name in COSTS],
            }
            for index, stage in enumerate(stage_costs(network, times))
        ]
        return {
            "device": table.name if table else None,
            "stages": stages,
            "kinds": [
                {"name": name, "costs": kinds[name]}
                for name in dict.fromkeys((*KINDS.values(), ENDS))
                if name in kinds
            ],
            "diagram": diagram(network, trial.name, table, deployment.on_missing)
            if place < DRAWN
            else "",
        }

    found = {}
    for place, trial in enumerate(shown):
        what = f"The costs of trial {trial.number} by stage are not shown"
        made = notes.try_to(what, partial(bill, place, trial), None)
        if made is not None:
            found[str(trial.number)] = made
    return found


def diagram(
    network: UNetConfig, name: str, table: LatencyTable | None, on_missing: OnMissing
) -> str:
    """The stages of a network as an inline SVG; the fill of a box is its share of the latency."""
    latency = Predictor(table).by_unit(network, on_missing) if table else None
    return stage_diagram(network, name, latency, standalone=False)


def _pictures(
    results: Results, shown: Iterable[ScoredTrial], notes: _Notes
) -> dict[str, dict[str, Any]]:
    """Sample pictures by number of the trial, in their own size, with their captions."""
    found = {}
    for trial in shown:
        sheet = results.run.trial(trial.number) / "samples.png"
        if sheet.is_file():
            what = f"The pictures of trial {trial.number} are not shown"
            size = results.setting.spec.data.size
            made = notes.try_to(what, partial(_grid, sheet, size), None)
            if made is not None:
                found[str(trial.number)] = made
    if shown and not found:
        notes.add(
            "There are no sample pictures: a run draws them at its end, of the front and the "
            "presets."
        )
    return found


def _grid(sheet: Path, size: int) -> dict[str, Any]:
    """A sheet of pictures, of which each has ``size`` pixels a side, without its enlargement."""
    captions, columns = captions_of(sheet)
    with Image.open(sheet) as picture:
        drawn = picture.convert("RGB")
    scale = drawn.width // (columns * size)
    if scale > 1 and drawn.width == scale * columns * size and drawn.height % scale == 0:
        drawn = drawn.resize(
            (drawn.width // scale, drawn.height // scale), Image.Resampling.NEAREST
        )
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG", optimize=True)
    return {
        "png": base64.b64encode(buffer.getvalue()).decode("ascii"),
        "width": drawn.width,
        "height": drawn.height,
        "captions": captions,
    }


# What the knobs do, and how runs compare


def effects_of(results: Results) -> list[dict[str, Any]]:
    """What each choice of each knob does, as plain data: a row of ``Beliefs.effects`` each; none
    where nothing was trained.
    """
    beliefs = results.beliefs()
    if not beliefs.models:
        return []
    table = beliefs.effects()
    costs = [name.removesuffix(" ratio") for name in table.columns if name.endswith(" ratio")]
    return [
        {
            "knob": row["knob"],
            "choice": _text(row["choice"]),
            "reference": _text(row["reference"]),
            "qualities": {
                name: {
                    "difference": row[name],
                    "low": row[f"{name} low"],
                    "high": row[f"{name} high"],
                    "margin": row[f"{name} margin"],
                    "verdict": row[f"{name} verdict"],
                }
                for name in beliefs.models
            },
            "ratios": {cost: row[f"{cost} ratio"] for cost in costs},
        }
        for row in table.to_dict("records")
    ]


def _importances(results: Results, notes: _Notes) -> dict[str, Any] | None:
    what = "The importances of knobs are not shown"
    table = notes.try_to(what, lambda: importances(results.trials), None)
    if table is None:
        return None
    return {
        "words": WORDS,
        "objectives": list(table.columns),
        "shares": [
            {"knob": knob, "shares": list(shares)}
            for knob, *shares in table.itertuples()
            if not all(map(math.isnan, shares))
        ],
        "left_out": table.attrs["left_out"],
    }


def _measured(complete: Sequence[ScoredTrial]) -> list[dict[str, Any]]:
    """Latencies of whole networks, predicted and measured."""
    return [
        {"trial": trial.number, "name": trial.name, "device": device, **line}
        for trial in complete
        for device, line in trial.measured.items()
    ]


def _after(results: Results) -> dict[str, Any] | None:
    """What was done to the networks after the search; None where nothing was."""
    found = after_search(results)
    if found is None or not found["steps"]:
        return found
    factor, unit, axis = UNITS.get(found["cost"], (1.0, "ms", score_of(found["cost"]).label))
    labels = {"pipeline_ms": "a picture (ms)", "pipeline_unet_ms": "all UNet passes (ms)"}
    steps = [
        row | {"marked": is_marked(row["cost_of"], row["provenance"])} for row in found["steps"]
    ]
    return found | {
        "steps": steps,
        "factor": factor,
        "unit": unit,
        "cost_label": labels.get(found["cost"], f"{axis} of all passes"),
        "guidance": results.setting.spec.sampling.guidance,
        "images": results.setting.spec.metrics.images,
        "labels": {name: score_of(name).label for name in found["metrics"]},
        "axes": {
            name: f"{name}, {'less' if way(name) > 0 else 'more'} is better"
            for name in found["metrics"]
        },
        "networks": list(dict.fromkeys(row["network"] for row in found["steps"])),
        "marked": any(row["marked"] for row in steps),
        "has_error": any("error" in row for row in steps),
    }


def _comparison(runs: Sequence[Results]) -> dict[str, Any]:
    """Several runs in one picture and one table, or the sentence why they do not compare."""
    x, y = runs[0].cost, runs[0].quality
    names = _distinct_folders(runs)
    try:
        found = compare(runs)
    except InputError as error:
        return {"refused": str(error)}
    points = []
    for name, run in zip(names, runs, strict=True):
        front = {trial.number for trial in run.front()}
        points += [
            {
                "run": name,
                "trial": t.name,
                "x": t.known[x],
                "y": t.known[y],
                "front": t.number in front,
            }
            for t in run.complete()
            if x and y
        ]
    return found.to_dict() | {"names": names, "x": x, "y": y, "points": points}


def _distinct_folders(runs: Sequence[Results]) -> list[str]:
    """Names of runs: the last part of their folders where these differ, else all of it."""
    short = [run.run.path.name or str(run.run.path) for run in runs]
    return short if len(set(short)) == len(short) else [str(run.run.path) for run in runs]
