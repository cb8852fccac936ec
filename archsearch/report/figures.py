"""The plots of a run: quality against each cost, and the sample pictures of front and presets side by side."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from PIL import Image

from archsearch.latency.published import PublishedTable
from archsearch.report.style import DOMINATED, FRONT, MARKED, NOISE, PRESET, new_figure, save
from archsearch.study import results
from archsearch.study.apart import Noise, noise_of
from archsearch.study.results import Candidate
from archsearch.study.rundir import RunDir
from archsearch.study.scores import device_of, is_marked, of_device, score_of
from archsearch.study.setting import Setting

UNITS = {"params": (1e6, "parameters (M)"), "macs": (1e9, "GMACs"), "peak_activation_bytes": (1e6, "peak activations (MB)")}
COSTS = ("latency_ms", "macs", "params")
"""Costs that are drawn in any case, where they are known; the study's own come first."""
MAX_GRID = 9


def draw_all(run: RunDir, setting: Setting, study: optuna.Study) -> list[Path]:
    """Draw every plot of a run into ``plots/``; returns the files."""
    written = []
    quality = results.quality_axis(list(setting.spec.objectives))
    if quality:
        known = [results.candidate(run, trial, setting.spec) for trial in results.complete(study)]
        noise = noise_of(run, study, setting.spec)
        own = [name for name in setting.spec.objectives if score_of(name).source in ("counted", "predicted")]
        for cost in dict.fromkeys([*own, *COSTS]):
            if all(cost in member.scores for member in known):
                path = run.path / "plots" / f"{quality}-{_slug(cost)}.png"
                draw_scatter(known, setting, quality, cost, path, noise)
                written.append(path)
    shown = {trial.number: trial for trial in [*results.presets(study), *results.front(study)]}
    sheets = [(results.candidate(run, trial, setting.spec), run.trial(trial.number) / "samples.png") for trial in shown.values()]
    sheets = [(member, sheet) for member, sheet in sheets if sheet.is_file()][:MAX_GRID]
    if sheets:
        path = run.path / "plots" / "samples.png"
        draw_samples(sheets, setting, path)
        written.append(path)
    return written


def _slug(cost: str) -> str:
    """A cost in a file's name: without brackets."""
    device = device_of(cost)
    return cost if device is None else f"latency_ms-{device}".replace("/", "-")


def draw_scatter(
    known: Sequence[Candidate], setting: Setting, quality: str, cost: str, path: Path, noise: Noise | None = None
) -> None:
    """Quality against one cost: the front of these two as a line, with bars for the noise, the others pale, presets named."""
    figure, axes = new_figure()
    scale, text = UNITS.get(cost, (1.0, score_of(cost).label))
    sign = 1.0 if score_of(quality).direction == "minimize" else -1.0
    points = [(member, member.scores[cost] / scale, _quality(member, quality)) for member in known]
    front = _front([(x, sign * y) for _, x, y in points])
    others = [(x, y) for i, (member, x, y) in enumerate(points) if i not in front and not member.preset]
    if others:
        axes.scatter(*zip(*others, strict=True), label="dominated", **DOMINATED)
    line = sorted((points[i][1], points[i][2]) for i in front)
    axes.plot(*zip(*line, strict=True), label="front", **FRONT)
    if noise and noise.margin is not None:
        text_of_noise = f"± 1.96 standard deviations between seeds ({noise.seed_deviation:.2g})"
        axes.errorbar(*zip(*line, strict=True), yerr=noise.margin, label=text_of_noise, **NOISE)
    elif noise:
        axes.plot([], [], " ", label="one seed each: spread not known")
    marked = [(x, y) for member, x, y in points if is_marked(cost, member.note)]
    if marked:
        axes.scatter(*zip(*marked, strict=True), label="≈ estimated or published latency", **MARKED)
    for i in front:
        member, x, y = points[i]
        if not member.preset:
            axes.annotate(_short(member), (x, y), textcoords="offset points", xytext=(5, 5), fontsize=8)
    for member, x, y in points:
        if member.preset:
            axes.scatter([x], [y], label=member.preset, **PRESET)
    predicted = score_of(cost).source == "predicted"
    axes.set_xlabel(f"{'≈ ' if marked else ''}{text}, deployment scale" + (_devices(setting, cost, known) if predicted else ""))
    axes.set_ylabel(f"{score_of(quality).label}\nproxy scale, {setting.spec.proxy.samples:,} samples")
    axes.set_title(f"{setting.name}: {len(known)} trials", fontsize=10, loc="left")
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)  # beside the points, not over them
    save(figure, path)


def _quality(member: Candidate, quality: str) -> float:
    return member.scores.get(quality, member.extra.get(quality, float("nan")))


def _short(member: Candidate) -> str:
    return f"{member.number}" if member.steps is None else f"{member.number} ({member.steps} steps)"


def _devices(setting: Setting, cost: str, known: Sequence[Candidate]) -> str:
    """Where the latencies come from, device by device."""
    only = device_of(cost)
    lines = []
    for device in setting.devices:
        source = "predicted from measured units"
        if isinstance(device.table, PublishedTable):
            source = "published estimate"
        elif any(is_marked(of_device(device.name), member.note) for member in known):
            source = "predicted from measured units, some of them estimated"
        lines += [f"\n{device.name}: {source}"] if only in (None, device.name) else []
    return "".join(lines)


def _front(points: list[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other is at least as good as in both (both minimised); of equal ones the first."""
    best, members = float("inf"), []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if points[index][1] < best:
            best = points[index][1]
            members.append(index)
    return members


def draw_samples(sheets: Sequence[tuple[Candidate, Path]], setting: Setting, path: Path) -> None:
    """Sample pictures of several networks under each other: same captions, same initial noise."""
    figure, axes = new_figure(rows=len(sheets), width=7.2, height=1.75 * len(sheets) + 0.6)
    quality = results.quality_axis(list(setting.spec.objectives)) or ""
    rows: list[Any] = [axes] if len(sheets) == 1 else list(axes)
    for axis, (member, sheet) in zip(rows, sheets, strict=True):
        with Image.open(sheet) as picture:
            axis.imshow(picture.convert("RGB"))
        axis.set_xticks([])
        axis.set_yticks([])
        cost = results.cost_axis(list(setting.spec.objectives))
        figures = [
            f"{name} {'≈ ' if is_marked(name, member.note) else ''}{_quality(member, name):.4g}" for name in (quality, cost) if name
        ]
        if member.steps is not None:
            figures.append(f"{member.steps} steps")
        axis.set_title(f"{member.name}: {', '.join(figures)}", fontsize=9, loc="left")
    spec = setting.spec
    steps = "DDIM, each in its own steps" if spec.sampling.searched else f"{spec.sampling.steps} DDIM steps"
    figure.suptitle(
        f"proxies after {spec.proxy.samples:,} samples; {steps}, guidance {spec.sampling.guidance:g}; same captions and noise",
        fontsize=9,
    )
    legend = _captions(sheets[0][1])
    if legend:
        figure.text(0.01, 0, legend, fontsize=6.5, va="top")
    save(figure, path)


def _captions(sheet: Path) -> str:
    """The captions of a sheet of pictures, row by row."""
    path = sheet.with_suffix(".json")
    if not path.is_file():
        return ""
    record = json.loads(path.read_text(encoding="utf-8"))
    captions, columns = record["captions"], record["columns"]
    rows = [captions[start : start + columns] for start in range(0, len(captions), columns)]
    return "\n".join(f"row {number}: " + " · ".join(row) for number, row in enumerate(rows, 1))
