"""Pictures of what was found, drawn with matplotlib: quality against costs and sample pictures of a
run, rankings of ``proxy validate``, predicted against measured latency, the steps of an edit.
"""

import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from archsearch.errors import InputError
from archsearch.files import write_bytes
from archsearch.latency.table import PublishedTable, Whole
from archsearch.latency.validate import WITHIN, summarise
from archsearch.study.compare import Comparison
from archsearch.study.results import Noise, Results, ScoredTrial
from archsearch.study.setting import Setting
from archsearch.study.spec import (
    OF_PROXY,
    cost_axis,
    device_of,
    is_marked,
    of_device,
    quality_axis,
    score_of,
)

BLUE, RED, GREY, INK = "#0b6e99", "#c8501e", "#5a6468", "#3c4043"
RUN_COLOURS = (BLUE, RED, "#5b8c2a", "#8a4f9e", "#b58900", INK)
FRONT: dict[str, Any] = {"color": BLUE, "marker": "o", "markersize": 6, "linewidth": 1.6}
NOISE: dict[str, Any] = {"fmt": "none", "ecolor": BLUE, "elinewidth": 1.1, "capsize": 3}
DOMINATED: dict[str, Any] = {"color": "#b4b9bd", "s": 26, "zorder": 2}
PRESET: dict[str, Any] = {"color": RED, "marker": "*", "s": 170, "zorder": 4}
STOPPED: dict[str, Any] = {"edgecolors": "#8b9196", "s": 26, "linewidths": 1.0, "zorder": 2}
MEASURED: dict[str, Any] = {"color": INK, "marker": "x", "s": 14, "linewidths": 0.8, "zorder": 2}
# A ring around points whose latency is an estimate.
MARKED: dict[str, Any] = {"facecolors": "none", "edgecolors": INK, "s": 110, "linewidths": 0.9}

UNITS = {
    "params": (1e6, "parameters (M)"),
    "macs": (1e9, "GMACs"),
    "peak_activation_bytes": (1e6, "peak activations (MB)"),
}
# Costs that are drawn in any case, where they are known; the study's own come first.
COSTS = ("latency_ms", "macs", "params")
MAX_GRID = 9


def new_figure(rows: int = 1, width: float = 6.8, height: float = 4.4) -> tuple[Figure, list[Any]]:
    """A figure without a window, and the axes of its rows."""
    figure = Figure(figsize=(width, height), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, 1, squeeze=False)[:, 0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, axes


def save(figure: Figure, path: Path, format: str = "png") -> None:
    """Write a figure, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=format, bbox_inches="tight", pad_inches=0.08)
    write_bytes(path, buffer.getvalue())


def draw_all(results: Results) -> list[Path]:
    """Draw every plot of a run into ``plots/``; returns the files."""
    setting, folder, written = results.setting, results.run.path / "plots", []
    if quality := results.quality:
        known, noise = results.complete(), results.noise()
        own = [n for n in results.objectives if score_of(n).source in ("counted", "predicted")]
        for cost in dict.fromkeys([*own, *COSTS]):
            if all(cost in member.scores for member in known):
                written.append(folder / f"{quality}-{_file_name(cost)}.png")
                draw_scatter(known, setting, quality, cost, written[-1], noise)
    if len(results.trials.complete()) > 1:
        written.append(folder / "hypervolume.png")
        draw_hypervolume(results, written[-1])
    sheets = [
        (member, sheet)
        for member in results.shown()
        if (sheet := results.run.trial(member.number) / "samples.png").is_file()
    ]
    if sheets:
        written.append(folder / "samples.png")
        _draw_samples(sheets[:MAX_GRID], setting, written[-1])
    return written


def _file_name(cost: str) -> str:
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
    """Quality against one cost: the front of these two as a line, the others pale, presets named.

    Where quality is believed by a model, its mean is drawn, with its interval of 95 % for the
    front, and beside it small what one training measured; else what was measured, with bars for the
    noise. A trial that was stopped on the way is no member of the front.
    """
    figure, (axes,) = new_figure()
    scale, text = UNITS.get(cost, (1.0, score_of(cost).label))
    sign = 1.0 if score_of(quality).direction == "minimize" else -1.0
    longest = max((member.budget for member in known), default=0)
    points = [(member, member.scores[cost] / scale, _drawn(member, quality)) for member in known]
    ended = [i for i, (member, _, _) in enumerate(points) if member.budget == longest]
    ranked = _front([(points[i][1], sign * points[i][2]) for i in ended])
    front = {ended[place] for place in ranked}
    others = [
        (points[i][1], points[i][2]) for i in ended if i not in front and not points[i][0].preset
    ]
    if others:
        axes.scatter(*zip(*others, strict=True), label="dominated", **DOMINATED)
    if stopped := [(x, y) for i, (_, x, y) in enumerate(points) if i not in ended]:
        label = "stopped early: what is expected"
        axes.scatter(*zip(*stopped, strict=True), label=label, facecolors="none", **STOPPED)
    line = sorted((points[i][1], points[i][2]) for i in front)
    axes.plot(*zip(*line, strict=True), label="front", zorder=3, **FRONT)
    modelled = [points[i] for i in sorted(front) if quality in points[i][0].believed]
    if modelled:
        ends = [member.believed[quality] for member, _, _ in modelled]
        heights = [[mean - low, high - mean] for mean, low, high in ends]
        places = [(x, y) for _, x, y in modelled]
        label = "what is believed, 95 %"
        bars = {"yerr": np.transpose(heights), "label": label, "alpha": 0.7, "zorder": 3}
        axes.errorbar(*zip(*places, strict=True), **bars, **NOISE)
        measured = [(points[i][1], _quality(points[i][0], quality)) for i in ended]
        axes.scatter(*zip(*measured, strict=True), label="one training", **MEASURED)
    elif noise and noise.margin is not None:
        label = f"± 1.96 standard deviations between seeds ({noise.seed_deviation:.2g})"
        bars = {"yerr": noise.margin, "label": label, "alpha": 0.7, "zorder": 3}
        axes.errorbar(*zip(*line, strict=True), **bars, **NOISE)
    elif noise:
        axes.plot([], [], " ", label="one seed each: spread not known")
    marked = [(x, y) for member, x, y in points if is_marked(cost, member.provenance)]
    if marked:
        label = "≈ estimated or published latency"
        axes.scatter(*zip(*marked, strict=True), label=label, zorder=5, **MARKED)
    for i, (member, x, y) in enumerate(points):
        if member.preset:
            axes.scatter([x], [y], label=member.preset, **PRESET)
        elif i in front:
            steps = "" if member.steps is None else f" ({member.steps} steps)"
            place = {"textcoords": "offset points", "xytext": (5, 5)}
            axes.annotate(f"{member.number}{steps}", (x, y), fontsize=8, **place)
    devices = _devices(setting, cost, known) if score_of(cost).source == "predicted" else ""
    axes.set(
        xlabel=f"{'≈ ' if marked else ''}{text}, deployment scale{devices}",
        ylabel=f"{score_of(quality).label}\nproxy scale, {setting.spec.proxy.samples:,} samples",
    )
    axes.set_title(f"{setting.name}: {len(known)} trials", fontsize=10, loc="left")
    # Beside the points, not over them.
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    save(figure, path)


def _quality(member: ScoredTrial, quality: str) -> float:
    return member.known.get(quality, float("nan"))


def _drawn(member: ScoredTrial, quality: str) -> float:
    believed = member.believed.get(quality)
    return believed[0] if believed else _quality(member, quality)


def _devices(setting: Setting, cost: str, known: Sequence[ScoredTrial]) -> str:
    only = device_of(cost)
    text = ""
    for device in setting.devices:
        source = "predicted from measured units"
        if isinstance(device.table, PublishedTable):
            source = "published estimate"
        elif any(is_marked(of_device(device.name), member.provenance) for member in known):
            source = "predicted from measured units, some of them estimated"
        text += f"\n{device.name}: {source}" if only in (None, device.name) else ""
    return text


def _front(points: list[tuple[float, float]]) -> list[int]:
    # Indices of the points that no other is at least as good as in both (both minimised); of equal
    # ones the first.
    members: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if not members or points[index][1] < points[members[-1]][1]:
            members.append(index)
    return members


def draw_hypervolume(results: Results, path: Path) -> None:
    """How the dominated share of the objectives' box grew: over finished trials, and over seconds
    of training where there were any.
    """
    history, box = results.hypervolume_history(), results.box()
    assert box is not None  # there are trials with scores
    columns = {"finished": "finished trials"}
    if history.train_seconds.iloc[-1] > 0:
        columns["train_seconds"] = "seconds of training behind them"
    figure, axes = new_figure(rows=len(columns), height=1.0 + 2.3 * len(columns))
    for axis, (column, text) in zip(axes, columns.items(), strict=True):
        axis.step(history[column], history.hypervolume, where="post", color=BLUE, linewidth=1.6)
        axis.plot(history[column], history.hypervolume, ".", color=BLUE, markersize=5)
        axis.set(xlabel=text, ylabel="hypervolume")
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    corner = ", ".join(f"{name} {value:,.4g}" for name, value in box.reference.items())
    share = f"{history.hypervolume.iloc[-1]:.3f} of the box up to the reference point"
    axes[0].set_title(
        f"{results.setting.name}: {share}\n{textwrap.fill(corner, 90)} (costs by their logarithm)",
        fontsize=9,
        loc="left",
    )
    save(figure, path)


def draw_comparison(runs: Sequence[Results], found: Comparison, path: Path) -> None:
    """The trials and the fronts of several runs in one picture: quality against cost, else the
    first two objectives.

    Raises:
        InputError: There are fewer than two objectives to draw, or the file is no PNG.
    """
    names = list(found.objectives)
    x, y = (found.cost, found.quality) if found.cost and found.quality else (names * 2)[:2]
    if path.suffix.lower() != ".png":
        raise InputError(f"--plot {path}: must end in .png.")
    if x == y:
        raise InputError(f"--plot: needs two objectives, but there is only {x}.")
    figure, (axes,) = new_figure()
    sign = 1.0 if score_of(y).direction == "minimize" else -1.0
    scale, text = UNITS.get(x, (1.0, score_of(x).label))
    height, words = UNITS.get(y, (1.0, score_of(y).label))
    for index, (run, of) in enumerate(zip(runs, found.runs, strict=True)):
        style = {"color": RUN_COLOURS[index % len(RUN_COLOURS)], "zorder": 3 + index}
        points = [(t.scores[x] / scale, t.scores[y] / height) for t in run.complete()]
        line = sorted(points[i] for i in _front([(a, sign * b) for a, b in points]))
        axes.scatter(*zip(*points, strict=True), s=18, alpha=0.35, linewidths=0, **style)
        label = f"{of.folder}: hypervolume {of.hypervolume:.3f}, {of.trials} trials"
        marker = "osD^v"[index % 5]
        axes.plot(*zip(*line, strict=True), marker=marker, markersize=5, label=label, **style)
    scale_of_y = "proxy" if score_of(y).source in OF_PROXY else "deployment"
    axes.set(xlabel=f"{text}, deployment scale", ylabel=f"{words}\n{scale_of_y} scale")
    axes.set_title(
        "lines: the fronts of these two objectives; pale: other trials", fontsize=9, loc="left"
    )
    figure.legend(loc="outside upper center", fontsize=8, frameon=False)
    save(figure, path)


def _draw_samples(sheets: Sequence[tuple[ScoredTrial, Path]], setting: Setting, path: Path) -> None:
    # Sample pictures of several networks under each other: same captions, same initial noise.
    figure, axes = new_figure(rows=len(sheets), width=7.2, height=1.75 * len(sheets) + 0.6)
    spec = setting.spec
    of_study = (quality_axis(spec.objectives), cost_axis(spec.objectives))
    for axis, (member, sheet) in zip(axes, sheets, strict=True):
        with Image.open(sheet) as picture:
            axis.imshow(picture.convert("RGB"))
        axis.set(xticks=[], yticks=[])
        told = [
            f"{name} {'≈ ' if is_marked(name, member.provenance) else ''}"
            f"{_quality(member, name):.4g}"
            for name in of_study
            if name
        ]
        told += [] if member.steps is None else [f"{member.steps} steps"]
        axis.set_title(f"{member.name}: {', '.join(told)}", fontsize=9, loc="left")
    sampling = spec.sampling
    steps = "DDIM, each in its own steps" if sampling.searched else f"{sampling.steps} DDIM steps"
    figure.suptitle(
        f"proxies after {spec.proxy.samples:,} samples; {steps}, guidance {sampling.guidance:g}; "
        "same captions and noise",
        fontsize=9,
    )
    figure.text(0.01, 0, _captions(sheets[0][1]), fontsize=6.5, va="top")
    save(figure, path)


def _captions(sheet: Path) -> str:
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
    figure, (axis,) = new_figure(width=5.6, height=4.6)
    seen = [
        ({int(budget): values for budget, values in of["val_loss"].items()}, of["macs"] / 1e9)
        for of in found["networks"].values()
    ]
    shown = [(of[first], of[last], macs) for of, macs in seen if of[first] and of[last]]
    firsts, lasts, macs = ([each[column] for each in shown] for column in range(3))
    x, y = list(map(mean, firsts)), list(map(mean, lasts))
    bars = {"fmt": "none", "ecolor": GREY, "elinewidth": 0.9, "zorder": 2}
    axis.errorbar(x, y, xerr=_reach(firsts), yerr=_reach(lasts), **bars)
    points = axis.scatter(x, y, c=macs, cmap="viridis", s=34, zorder=3)
    figure.colorbar(points, ax=axis, label="GMACs at deployment scale")
    agreement: list[dict[str, Any]] = found["scores"]["val_loss"]["agreement"]
    row = next((row for row in agreement if row["rankings"].startswith(f"{first} ×")), {})
    tau = f", Kendall τ {row['tau']:.2f}" if "tau" in row else ""
    title = f"{len(shown)} networks{tau}; bars: from the lowest to the highest seed"
    axis.set_title(title, fontsize=9, loc="left")
    axis.set(
        xlabel=f"val_loss after {found['samples'][first]:,} samples",
        ylabel=f"val_loss after {found['samples'][last]:,} samples",
    )
    save(figure, path)


def _reach(groups: Sequence[Sequence[float]]) -> list[list[float]]:
    # How far the lowest and the highest of each group lie from its mean.
    return [[mean(of) - min(of) for of in groups], [max(of) - mean(of) for of in groups]]


def draw_validation(
    title: str, lines: Sequence[Whole], fitted_on: Sequence[str], path: Path
) -> None:
    """Draw a scatter plot into ``path`` (PNG): a band of ± 10 %; networks the correction was fitted
    on are hollow.
    """
    figure, (axis,) = new_figure(width=5.2, height=5.0)
    every = [value for line in lines for value in (line.measured, line.predicted)]
    ends = [0.9 * min(every), 1.1 * max(every)]
    low, high = ([end * (1 + sign * WITHIN) for end in ends] for sign in (-1, 1))
    axis.fill_between(ends, low, high, color=BLUE, alpha=0.10, linewidth=0)
    axis.plot(ends, ends, color=GREY, linewidth=1)
    judged = [line for line in lines if line.config not in fitted_on]
    fitted = [line for line in lines if line.config in fitted_on]
    for label, some, face, edge in (
        ("unseen", judged, BLUE, BLUE),
        ("correction fitted", fitted, "none", RED),
    ):
        if some:
            x, y = [line.measured for line in some], [line.predicted for line in some]
            axis.scatter(x, y, label=label, facecolors=face, edgecolors=edge, s=28, zorder=3)
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
    for axis, (label, values) in zip(axes, panels.items(), strict=True):
        _draw_steps(axis, values)
        axis.set(ylabel=label, ylim=(0, 1.1 * max(values)), axisbelow=True)
        axis.grid(axis="x", visible=False)
        axis.set_xticks(range(len(names)), [""] * len(names))
    axes[-1].set_xticks(range(len(names)), [textwrap.fill(name, 16) for name in names], fontsize=7)
    axes[0].set_title(f"From {start}, step by step (deployment scale, batch 1)", fontsize=10)
    save(figure, path)


def _draw_steps(axes: Any, values: Sequence[float]) -> None:
    # The whole first and last value as bars from 0, each change as a bar between.
    bars = [(0.0, values[0], GREY, f"{values[0]:,.1f}")]
    for before, after in pairwise(values):
        change = after - before
        text = f"{change:+,.1f}" if abs(change) >= 0.05 else "0"
        bars.append((before, change, BLUE if change <= 0 else RED, text))
    bars.append((0.0, values[-1], GREY, f"{values[-1]:,.1f}"))
    for position, (bottom, height, colour, text) in enumerate(bars):
        axes.bar(position, height, bottom=bottom, color=colour)
        axes.text(
            position, max(bottom, bottom + height), text, ha="center", va="bottom", fontsize=8
        )
        if bottom:
            axes.plot([position - 1.4, position + 0.4], [bottom, bottom], color=GREY, linewidth=0.6)
