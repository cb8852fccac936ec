"""Pictures of what was found, drawn with matplotlib."""

import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from archsearch.files import write_bytes
from archsearch.latency.table import PublishedTable, Whole
from archsearch.latency.validate import WITHIN, summarise
from archsearch.study.results import Noise, Results, ScoredTrial
from archsearch.study.setting import Setting
from archsearch.study.spec import (
    cost_axis,
    device_of,
    is_marked,
    of_device,
    quality_axis,
    score_of,
)

FRONT: dict[str, Any] = {
    "color": "#0b6e99",
    "marker": "o",
    "markersize": 6,
    "linewidth": 1.6,
    "zorder": 3,
}
NOISE: dict[str, Any] = {
    "fmt": "none",
    "ecolor": "#0b6e99",
    "elinewidth": 1.1,
    "capsize": 3,
    "alpha": 0.7,
    "zorder": 3,
}
DOMINATED: dict[str, Any] = {"color": "#b4b9bd", "s": 26, "zorder": 2}
PRESET: dict[str, Any] = {"color": "#c8501e", "marker": "*", "s": 170, "zorder": 4}
MARKED: dict[str, Any] = {
    "facecolors": "none",
    "edgecolors": "#3c4043",
    "marker": "o",
    "s": 110,
    "linewidths": 0.9,
    "zorder": 5,
}
"""A ring around points whose latency is an estimate."""


def new_figure(rows: int = 1, width: float = 6.8, height: float = 4.4) -> tuple[Figure, Any]:
    """A figure without a window, and its axes."""
    figure = Figure(figsize=(width, height), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(rows, 1)
    for axis in [axes] if rows == 1 else axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, axes


def save(figure: Figure, path: Path, format: str = "png") -> None:
    """Write a figure, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=format, bbox_inches="tight", pad_inches=0.08)
    write_bytes(path, buffer.getvalue())


UNITS = {
    "params": (1e6, "parameters (M)"),
    "macs": (1e9, "GMACs"),
    "peak_activation_bytes": (1e6, "peak activations (MB)"),
}
COSTS = ("latency_ms", "macs", "params")
"""Costs that are drawn in any case, where they are known; the study's own come first."""
MAX_GRID = 9


def draw_all(results: Results) -> list[Path]:
    """Draw every plot of a run into ``plots/``; returns the files."""
    run, setting, written = results.run, results.setting, []
    if (quality := results.quality) is not None:
        known, noise = results.complete(), results.noise()
        own = [n for n in results.objectives if score_of(n).source in ("counted", "predicted")]
        for cost in dict.fromkeys([*own, *COSTS]):
            if all(cost in member.scores for member in known):
                path = run.path / "plots" / f"{quality}-{_slug(cost)}.png"
                draw_scatter(known, setting, quality, cost, path, noise)
                written.append(path)
    sheets = [(m, run.trial(m.number) / "samples.png") for m in results.shown()]
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
    known: Sequence[ScoredTrial],
    setting: Setting,
    quality: str,
    cost: str,
    path: Path,
    noise: Noise | None = None,
) -> None:
    """Quality against one cost: the front of these two as a line, with bars for the noise, the
    others pale, presets named.
    """
    figure, axes = new_figure()
    scale, text = UNITS.get(cost, (1.0, score_of(cost).label))
    sign = 1.0 if score_of(quality).direction == "minimize" else -1.0
    points = [(member, member.scores[cost] / scale, _quality(member, quality)) for member in known]
    front = _front([(x, sign * y) for _, x, y in points])
    others = [
        (x, y) for i, (member, x, y) in enumerate(points) if i not in front and not member.preset
    ]
    if others:
        axes.scatter(*zip(*others, strict=True), label="dominated", **DOMINATED)
    line = sorted((points[i][1], points[i][2]) for i in front)
    axes.plot(*zip(*line, strict=True), label="front", **FRONT)
    if noise and noise.margin is not None:
        text_of_noise = f"± 1.96 standard deviations between seeds ({noise.seed_deviation:.2g})"
        axes.errorbar(*zip(*line, strict=True), yerr=noise.margin, label=text_of_noise, **NOISE)
    elif noise:
        axes.plot([], [], " ", label="one seed each: spread not known")
    marked = [(x, y) for member, x, y in points if is_marked(cost, member.provenance)]
    if marked:
        axes.scatter(*zip(*marked, strict=True), label="≈ estimated or published latency", **MARKED)
    for i in front:
        member, x, y = points[i]
        if not member.preset:
            axes.annotate(
                _short(member), (x, y), textcoords="offset points", xytext=(5, 5), fontsize=8
            )
    for member, x, y in points:
        if member.preset:
            axes.scatter([x], [y], label=member.preset, **PRESET)
    predicted = score_of(cost).source == "predicted"
    axes.set_xlabel(
        f"{'≈ ' if marked else ''}{text}, deployment scale"
        + (_devices(setting, cost, known) if predicted else "")
    )
    axes.set_ylabel(
        f"{score_of(quality).label}\nproxy scale, {setting.spec.proxy.samples:,} samples"
    )
    axes.set_title(f"{setting.name}: {len(known)} trials", fontsize=10, loc="left")
    figure.legend(
        loc="outside upper center", ncols=2, fontsize=8, frameon=False
    )  # beside the points, not over them
    save(figure, path)


def _quality(member: ScoredTrial, quality: str) -> float:
    return member.known.get(quality, float("nan"))


def _short(member: ScoredTrial) -> str:
    return f"{member.number}" if member.steps is None else f"{member.number} ({member.steps} steps)"


def _devices(setting: Setting, cost: str, known: Sequence[ScoredTrial]) -> str:
    """Where the latencies come from, device by device."""
    only = device_of(cost)
    lines = []
    for device in setting.devices:
        source = "predicted from measured units"
        if isinstance(device.table, PublishedTable):
            source = "published estimate"
        elif any(is_marked(of_device(device.name), member.provenance) for member in known):
            source = "predicted from measured units, some of them estimated"
        lines += [f"\n{device.name}: {source}"] if only in (None, device.name) else []
    return "".join(lines)


def _front(points: list[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other is at least as good as in both (both minimised); of equal
    ones the first.
    """
    best, members = float("inf"), []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if points[index][1] < best:
            best = points[index][1]
            members.append(index)
    return members


def draw_samples(sheets: Sequence[tuple[ScoredTrial, Path]], setting: Setting, path: Path) -> None:
    """Sample pictures of several networks under each other: same captions, same initial noise."""
    figure, axes = new_figure(rows=len(sheets), width=7.2, height=1.75 * len(sheets) + 0.6)
    quality = quality_axis(setting.spec.objectives) or ""
    rows: list[Any] = [axes] if len(sheets) == 1 else list(axes)
    for axis, (member, sheet) in zip(rows, sheets, strict=True):
        with Image.open(sheet) as picture:
            axis.imshow(picture.convert("RGB"))
        axis.set_xticks([])
        axis.set_yticks([])
        cost = cost_axis(setting.spec.objectives)
        figures = [
            f"{name} {'≈ ' if is_marked(name, member.provenance) else ''}{_quality(member, name):.4g}"
            for name in (quality, cost)
            if name
        ]
        if member.steps is not None:
            figures.append(f"{member.steps} steps")
        axis.set_title(f"{member.name}: {', '.join(figures)}", fontsize=9, loc="left")
    spec = setting.spec
    steps = (
        "DDIM, each in its own steps"
        if spec.sampling.searched
        else f"{spec.sampling.steps} DDIM steps"
    )
    figure.suptitle(
        f"proxies after {spec.proxy.samples:,} samples; {steps}, guidance "
        f"{spec.sampling.guidance:g}; same captions and noise",
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


def draw_agreement(found: dict[str, Any], path: Path) -> None:
    """Draw what ``summarise`` found into ``path`` (PNG): first budget against the last, every seed
    a point, coloured by MACs.
    """
    budgets = sorted(int(budget) for budget in found["samples"])
    first, last = budgets[0], budgets[-1]
    figure, axis = new_figure(width=5.6, height=4.6)
    losses = {
        name: {int(b): values for b, values in of["val_loss"].items()}
        for name, of in found["networks"].items()
    }
    shown = {name: of for name, of in losses.items() if of[first] and of[last]}
    macs = [found["networks"][name]["macs"] / 1e9 for name in shown]
    x, y = ([mean(of[budget]) for of in shown.values()] for budget in (first, last))
    for of, at_x, at_y in zip(shown.values(), x, y, strict=True):
        axis.plot(
            [min(of[first]), max(of[first])], [at_y, at_y], color="#5b6166", linewidth=0.9, zorder=2
        )
        axis.plot(
            [at_x, at_x], [min(of[last]), max(of[last])], color="#5b6166", linewidth=0.9, zorder=2
        )
    points = axis.scatter(x, y, c=macs, cmap="viridis", s=34, zorder=3)
    figure.colorbar(points, ax=axis, label="GMACs at deployment scale")
    agreement: list[dict[str, Any]] = found["scores"]["val_loss"]["agreement"]
    row = next((row for row in agreement if row["rankings"].startswith(f"{first} ×")), {})
    tau = f", Kendall τ {row['tau']:.2f}" if "tau" in row else ""
    axis.set_title(
        f"{len(shown)} networks{tau}; bars: from the lowest to the highest seed",
        fontsize=9,
        loc="left",
    )
    axis.set(
        xlabel=f"val_loss after {found['samples'][first]:,} samples",
        ylabel=f"val_loss after {found['samples'][last]:,} samples",
    )
    save(figure, path)


JUDGED = {"color": "#0b6e99", "s": 26, "zorder": 3}
FITTED = {"facecolors": "none", "edgecolors": "#c8501e", "s": 30, "zorder": 3}


def draw_validation(
    title: str, lines: Sequence[Whole], fitted_on: Sequence[str], path: Path
) -> None:
    """Draw a scatter plot into ``path`` (PNG): a band of ± 10 %; networks the correction was fitted
    on are hollow.
    """
    figure, axis = new_figure(width=5.2, height=5.0)
    judged = [line for line in lines if line.config not in fitted_on]
    fitted = [line for line in lines if line.config in fitted_on]
    every = [value for line in lines for value in (line.measured, line.predicted)]
    ends = [0.9 * min(every), 1.1 * max(every)]
    axis.fill_between(
        ends,
        [end * (1 - WITHIN) for end in ends],
        [end * (1 + WITHIN) for end in ends],
        color="#0b6e99",
        alpha=0.10,
        linewidth=0,
    )
    axis.plot(ends, ends, color="#5b6166", linewidth=1)
    axis.scatter(
        [line.measured for line in judged],
        [line.predicted for line in judged],
        label="unseen",
        **JUDGED,
    )
    if fitted:
        axis.scatter(
            [line.measured for line in fitted],
            [line.predicted for line in fitted],
            label="correction fitted",
            **FITTED,
        )
    if judged:
        summary = summarise(judged)
        rank = "" if summary.spearman is None else f", Spearman {summary.spearman:.3f}"
        axis.set_title(
            f"{title}\n{len(judged)} networks: median error {summary.median_error:.1%}, "
            f"{summary.within_10_percent:.0%} within ± 10 %{rank}",
            fontsize=9,
            loc="left",
        )
    axis.set(xlim=ends, ylim=ends, xlabel="measured whole (ms)", ylabel="predicted from units (ms)")
    axis.set_aspect("equal")
    axis.legend(frameon=False, loc="lower right", fontsize=8)
    save(figure, path)


TOTAL, LESS, MORE = "#5a6468", "#0b6e99", "#c8501e"


def draw_waterfall(
    start: str, steps: Sequence[str], panels: Mapping[str, Sequence[float]], path: Path
) -> None:
    """Draw a panel for each cost: the whole first and last, what each step changes between.

    Args:
        start: Name of the network before the first step.
        steps: Names of the steps.
        panels: By label of the axis, the cost of the network at the start and after each step.
        path: PNG to write.
    """
    names = [start, *steps, "result"]
    figure, axes = new_figure(
        rows=len(panels), width=1.9 + 0.95 * len(names), height=3.2 * len(panels)
    )
    rows = [axes] if len(panels) == 1 else list(axes)
    for axis, (label, values) in zip(rows, panels.items(), strict=True):
        _panel(axis, list(values), label)
        axis.set_xticks(range(len(names)), [""] * len(names))
    rows[-1].set_xticks(range(len(names)), [textwrap.fill(name, 16) for name in names], fontsize=7)
    rows[0].set_title(f"From {start}, step by step (deployment scale, batch 1)", fontsize=10)
    save(figure, path)


def _panel(axes: Any, values: list[float], label: str) -> None:
    changes = [after - before for before, after in pairwise(values)]
    axes.set_axisbelow(True)
    axes.set_ylabel(label)
    axes.bar(0, values[0], color=TOTAL)
    axes.text(0, values[0], f"{values[0]:,.1f}", ha="center", va="bottom", fontsize=8)
    for position, (before, change) in enumerate(zip(values, changes, strict=False), start=1):
        axes.bar(position, change, bottom=before, color=LESS if change <= 0 else MORE)
        axes.plot([position - 1.4, position + 0.4], [before, before], color=TOTAL, linewidth=0.6)
        top = max(before, before + change)
        axes.text(
            position,
            top,
            f"{change:+,.1f}" if abs(change) >= 0.05 else "0",
            ha="center",
            va="bottom",
            fontsize=8,
        )
    axes.bar(len(values), values[-1], color=TOTAL)
    axes.text(len(values), values[-1], f"{values[-1]:,.1f}", ha="center", va="bottom", fontsize=8)
    axes.set_ylim(0, 1.1 * max(values))
    axes.grid(axis="x", visible=False)
