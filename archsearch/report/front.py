"""Quality against cost: the front of a run, and the fronts of several runs in one picture."""

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from archsearch.errors import InputError, check_known
from archsearch.latency.table import PublishedTable
from archsearch.report.style import (
    BLUE,
    GREY,
    INK,
    PALE,
    PURPLE,
    RED,
    SERIES,
    entitle,
    format_of,
    label_points,
    new_figure,
    save,
    scale_of,
    several,
    styled,
    thousands,
    unit_of,
)
from archsearch.study.compare import Comparison
from archsearch.study.front import non_dominated
from archsearch.study.results import Results, ScoredTrial
from archsearch.study.setting import Setting
from archsearch.study.spec import OF_PROXY, device_of, is_marked, is_score, of_device, score_of

COSTS = ("latency_ms", "macs", "params")
"""Costs that are drawn in any case, where they are known; the study's own come first."""
_STOPPED: dict[str, Any] = {"facecolors": "none", "edgecolors": GREY, "s": 22, "linewidths": 0.9}
_PRESET: dict[str, Any] = {"color": RED, "edgecolors": INK, "marker": "*", "s": 110, "lw": 0.5}
_TRAINED: dict[str, Any] = {"color": INK, "marker": "x", "s": 10, "linewidths": 0.7, "zorder": 2}
_MARKED: dict[str, Any] = {"facecolors": "none", "edgecolors": INK, "s": 80, "linewidths": 0.7}
"""A ring around points whose latency is an estimate."""


def axes_of(results: Results, cost: str | None, quality: str | None) -> tuple[str, str]:
    """The scores across and along: a cost, and a quality or, without one, a second cost."""
    known = results.complete()
    if not known:
        raise InputError(f"{results.run.path}: has no finished trial yet.")
    names = dict.fromkeys(name for member in known for name in member.known if is_score(name))
    costs = [name for name in names if score_of(name).source not in OF_PROXY]
    qualities = [name for name in names if name not in costs]
    if cost is not None:
        check_known(cost, costs, f"--cost {cost}: the run knows no such cost")
    if quality is not None:
        check_known(quality, qualities, f"--quality {quality}: the run knows no such quality")
    cost = cost or results.cost or next(name for name in COSTS if name in costs)
    quality = quality or results.quality
    if quality is None:
        quality = next((name for name in results.objectives if name != cost), None)
    if quality is None:
        raise InputError(
            f"--kind front: needs a quality or a second cost, but {cost} is the study's only "
            "objective."
        )
    return cost, quality


@styled()
def draw_front(results: Results, cost: str | None = None, quality: str | None = None) -> Figure:
    """Quality against one cost: the front of these two as a line, the others pale, presets named,
    limits as lines.

    Where quality is believed by a model, its mean is drawn, with its interval of 95 % for the
    front, and beside it small what each training measured; else what was measured, with bars for
    the noise. A trial that was stopped on the way is no member of the front.

    Raises:
        InputError: The run has no trial with these scores.
    """
    cost, quality = axes_of(results, cost, quality)
    (width, text), (height, words) = unit_of(cost), unit_of(quality)
    scored = results.complete()
    known = [
        member
        for member in scored
        if math.isfinite(_drawn(member, cost)) and math.isfinite(_drawn(member, quality))
    ]
    if not known:
        raise InputError(f"{results.run.path}: no trial has both {cost} and {quality}.")
    # Trials that were trained to the end can be on the front.
    longest = max(member.budget for member in known)
    ended = [member for member in known if member.budget == longest]
    sign = 1.0 if score_of(quality).direction == "minimize" else -1.0
    kept = non_dominated([[_drawn(m, cost), sign * _drawn(m, quality)] for m in ended])
    front = [member for member, own in zip(ended, kept, strict=True) if own]

    def place(member: ScoredTrial) -> tuple[float, float]:
        return _drawn(member, cost) / width, _drawn(member, quality) / height

    figure, (axes,) = new_figure()
    at_end, on_front = ({m.number for m in group} for group in (ended, front))
    if others := [m for m in ended if m.number not in on_front and not m.preset]:
        axes.scatter(*_columns(map(place, others)), label="not on the front", s=22, color=PALE)
    if stopped := [m for m in known if m.number not in at_end and not m.preset]:
        label = "stopped early (expectation)"
        axes.scatter(*_columns(map(place, stopped)), label=label, **_STOPPED)
    line = sorted(map(place, front))
    axes.plot(*_columns(line), color=BLUE, marker="o", markersize=4.5, label="front", zorder=3)
    _draw_spread(axes, results, quality, front, ended, place)
    if marked := [m for m in known if is_marked(cost, m.provenance)]:
        label = "≈ estimated or published latency"
        axes.scatter(*_columns(map(place, marked)), label=label, zorder=5, **_MARKED)
    if presets := [member for member in known if member.preset]:
        axes.scatter(*_columns(map(place, presets)), label="preset", zorder=4, **_PRESET)
    _draw_limits(axes, results.setting, cost)
    axes.margins(0.07, 0.09)
    axes.xaxis.set_major_formatter(thousands)
    devices = _devices(results.setting, cost, known)
    samples = results.setting.spec.proxy.samples
    trained = f", {samples:,} pictures seen" if scale_of(quality) == "proxy scale" else ""
    axes.set(
        xlabel=f"{'≈ ' if marked else ''}{text}, {scale_of(cost)}{devices}",
        ylabel=f"{textwrap.fill(words, 45)}\n{scale_of(quality)}{trained}",
    )
    left_out = len(scored) - len(known)
    note = f"; {left_out} without both scores left out" if left_out else ""
    entitle(
        figure,
        f"Front of {results.setting.name}: {quality} against {cost}, "
        f"{several(len(known), 'trial')}{note}",
    )
    figure.legend(loc="outside right center")  # beside the points, not over them
    labels = dict.fromkeys((*place(m), label_of(m)) for m in [*presets, *front])
    label_points(axes, list(labels))
    return figure


def label_of(member: ScoredTrial) -> str:
    """What a network is called in a figure."""
    steps = "" if member.steps is None or member.preset else f" ({member.steps} steps)"
    return f"{member.name}{steps}"


def _draw_spread(
    axes: Axes,
    results: Results,
    quality: str,
    front: Sequence[ScoredTrial],
    ended: Sequence[ScoredTrial],
    place: Callable[[ScoredTrial], tuple[float, float]],
) -> None:
    """Draw how sure the qualities are, and what single trainings measured."""
    bars: dict[str, Any] = {"fmt": "none", "ecolor": BLUE, "elinewidth": 1.0, "capsize": 2.5}
    compared = [*front, *(m for m in ended if m.preset and m not in front)]
    if modelled := [member for member in compared if quality in member.believed]:
        beliefs, full = results.beliefs(), max(member.budget for member in ended)
        ends = [member.believed[quality] for member in modelled]
        heights = [[mean - low, high - mean] for mean, low, high in ends]
        label = "what a model believes, 95 %"
        yerr = np.transpose(heights)
        axes.errorbar(*_columns(map(place, modelled)), yerr=yerr, label=label, zorder=3, **bars)
        at = {beliefs.subjects[m.number].design.network: place(m)[0] for m in ended}
        trainings = [
            (at[each.design.network], each.value)
            for each in beliefs.measured(quality)
            if each.design.network in at and each.budget == full
        ]
        figure = axes.get_figure(root=True)
        assert figure is not None
        beside = axes.transData + ScaledTranslation(5 / 72, 0, figure.dpi_scale_trans)
        label = "one training each (set beside)"
        axes.scatter(*_columns(trainings), label=label, transform=beside, **_TRAINED)
        return
    noise = results.noises([quality])[quality] if scale_of(quality) == "proxy scale" else None
    if noise and noise.margin is not None:
        label = f"± 1.96 standard deviations\nbetween seeds ({noise.seed_deviation:.2g})"
        axes.errorbar(*_columns(map(place, front)), yerr=noise.margin, label=label, **bars)
    elif noise:
        axes.plot([], [], " ", label="one seed each: spread not known")


def _draw_limits(axes: Axes, setting: Setting, cost: str) -> None:
    """Draw the study's limits of a cost, where the points come near them."""
    limit = setting.spec.limits.get(cost)
    if limit is None:
        return
    width, text = unit_of(cost)
    low, high = axes.get_xlim()
    unit = text.rpartition("(")[2].rstrip(")") if text.endswith(")") else ""
    for sign, value in (("≥", limit.min), ("≤", limit.max)):
        if value is None:
            continue
        label = f"limit: {sign} {thousands(value / width)} {unit}".rstrip()
        if low - 0.3 * (high - low) <= value / width <= high + 0.3 * (high - low):
            axes.axvline(value / width, color=PURPLE, linestyle="--", label=label, zorder=1)
        else:
            axes.plot([], [], " ", label=f"{label}, far from all trials")


def _columns(points: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    listed = list(points)
    return [x for x, _ in listed], [y for _, y in listed]


def _drawn(member: ScoredTrial, name: str) -> float:
    """What is believed of a score, else what was measured."""
    believed = member.believed.get(name)
    return believed[0] if believed else member.known.get(name, math.nan)


def _devices(setting: Setting, cost: str, known: Sequence[ScoredTrial]) -> str:
    """What the latencies of each device rest on, a line each."""
    if score_of(cost).source != "predicted":
        return ""
    only, text = device_of(cost), ""
    for device in setting.devices:
        source = "predicted from measured units"
        if isinstance(device.table, PublishedTable):
            source = "published estimate"
        elif any(is_marked(of_device(device.name), member.provenance) for member in known):
            source = "predicted from measured units, some of them estimated"
        text += f"\n{device.name}: {source}" if only in (None, device.name) else ""
    return text


def draw_comparison(runs: Sequence[Results], found: Comparison, path: Path) -> None:
    """The trials and the fronts of several runs in one picture: quality against cost, else the
    first two objectives.

    Raises:
        InputError: There are fewer than two objectives to draw, or the file's ending is not known.
    """
    names = list(found.objectives)
    x, y = (found.cost, found.quality) if found.cost and found.quality else (names * 2)[:2]
    format_of(path, "--plot")
    if x == y:
        raise InputError(f"--plot: needs two objectives, but there is only {x}.")
    save(_comparison(runs, found, x, y), path)


@styled()
def _comparison(runs: Sequence[Results], found: Comparison, x: str, y: str) -> Figure:
    figure, (axes,) = new_figure(height=3.4 + 0.16 * len(runs))
    sign = 1.0 if score_of(y).direction == "minimize" else -1.0
    (width, text), (height, words) = unit_of(x), unit_of(y)
    for index, (run, of) in enumerate(zip(runs, found.runs, strict=True)):
        style: dict[str, Any] = SERIES[index % len(SERIES)] | {"zorder": 3 + index}
        points = [(t.scores[x] / width, t.scores[y] / height) for t in run.complete()]
        kept = non_dominated([(a, sign * b) for a, b in points])
        pale: dict[str, Any] = {
            "color": style["color"],
            "marker": style["marker"],
            "alpha": 0.35,
            "linewidths": 0,
        }
        axes.scatter(*_columns(points), s=14, **pale)
        label = f"{of.folder}: hypervolume {of.hypervolume:.3f}, {several(of.trials, 'trial')}"
        line = sorted(point for point, own in zip(points, kept, strict=True) if own)
        axes.plot(*_columns(line), markersize=4.5, label=label, **style)
    axes.xaxis.set_major_formatter(thousands)
    axes.set(xlabel=f"{text}, {scale_of(x)}", ylabel=f"{textwrap.fill(words, 45)}\n{scale_of(y)}")
    entitle(figure, f"Fronts of {len(runs)} runs, {y} against {x}; pale: their other trials")
    figure.legend(loc="outside lower left")
    return figure
