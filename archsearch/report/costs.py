"""What networks cost: where in a network its latency, MACs and parameters lie, how well latency is
predicted, and what each step of an edit saves.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from archsearch.cost.price import NO_STAGE, kind_costs
from archsearch.errors import InputError
from archsearch.latency.predict import unit_times
from archsearch.latency.table import LatencyTable, Whole
from archsearch.latency.validate import WITHIN, summarise
from archsearch.report.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    SMALL,
    WIDTH,
    YELLOW,
    entitle,
    format_of,
    new_figure,
    save,
    several,
    styled,
    thousands,
    unit_of,
)
from archsearch.study.results import Results, ScoredTrial
from archsearch.study.setting import Device, Setting
from archsearch.study.spec import of_device, score_of
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import plan

# Where in a network its cost lies

_KINDS: dict[str, tuple[str, str, str]] = {
    "residual": ("residual blocks", BLUE, ""),
    "self_attention": ("self-attention", ORANGE, "xxxx"),
    "cross_attention": ("cross-attention", GREEN, "////"),
    "feed_forward": ("feed-forward", SKY, ""),
    "projection": ("projections", PURPLE, r"\\\\"),
    "downsample": ("down- and upsampling", YELLOW, ""),
    "upsample": ("down- and upsampling", YELLOW, ""),
}
"""By kind of unit: name, colour and hatch of its group; neighbours differ in grey too."""
_REST = (NO_STAGE, "#FFFFFF", "")


def parts_of(network: UNetConfig, setting: Setting) -> pd.DataFrame:
    """What each kind of unit costs in each stage of a network: parameters, MACs and milliseconds, a
    column for each device of measured units.

    Milliseconds are those of the units, by one factor turned into shares of the prediction for the
    whole network, which a table corrects.
    """
    found = pd.DataFrame(kind_costs(network))
    for device in _measured(setting):
        missing = setting.spec.deployment.on_missing
        ms = pd.DataFrame(kind_costs(network, unit_times(device.table, missing)))["ms"]
        whole = device.predict(plan(network), missing).latency_ms
        found[of_device(device.name)] = ms * (whole / ms.sum())
    found["stage"] = found["stage"].str.replace(r"stages\[(\d+)\]", r"stage \1", regex=True)
    found["kind"] = [_KINDS.get(kind, _REST)[0] for kind in found["kind"]]
    return found


def _measured(setting: Setting) -> list[Device]:
    return [each for each in setting.devices if isinstance(each.table, LatencyTable)]


@styled()
def draw_breakdown(results: Results, trials: Sequence[int] = ()) -> Figure:
    """Latency, MACs and parameters of some networks and the presets, by stage and by kind of layer:
    stacked bars.

    Args:
        results: The run.
        trials: Numbers of trials; by default the knee of the front.

    Raises:
        InputError: A trial has no architecture, or there is no front yet.
    """
    setting, presets = results.setting, {each.number: each.name for each in results.presets()}
    chosen = list(trials) or [results.pick("knee").number]
    names = {number: presets.get(number, f"#{number}") for number in (*chosen, *presets)}
    parts = {
        name: parts_of(results.trials.network(number), setting) for number, name in names.items()
    }
    measures = [*(of_device(each.name) for each in _measured(setting)), "macs", "params"]
    figure, axes = new_figure(
        len(measures), 2, height=1.3 + len(measures) * (0.55 + 0.24 * len(parts)), sharey=True
    )
    stages = sorted({stage for each in parts.values() for stage in each["stage"]} - {NO_STAGE})
    stages.sort(key=lambda name: name == "middle")
    shades = [0.12 + 0.8 * index / max(1, len(stages) - 1) for index in range(len(stages))]
    by_stage: list[tuple[str, Any, str]] = [
        (name, colormaps["cividis"](s), "") for name, s in zip(stages, shades, strict=True)
    ]
    by_kind: list[tuple[str, Any, str]] = list(dict.fromkeys(_KINDS.values()))
    for row, measure in enumerate(measures):
        scale, text = unit_of(measure)
        for column, (by, groups) in enumerate((("stage", by_stage), ("kind", by_kind))):
            axis = axes[2 * row + column]
            sums = pd.DataFrame(
                {name: each.groupby(by)[measure].sum() / scale for name, each in parts.items()}
            ).fillna(0.0)
            _stack(axis, sums, [*groups, _REST])
            axis.set_xlabel(textwrap.fill(text, 42, break_on_hyphens=False))
            if row == 0:
                anchor: dict[str, Any] = {"bbox_to_anchor": (0.0, 1.04), "borderaxespad": 0.0}
                title: dict[str, Any] = {"title": f"by {_BY[by]}", "alignment": "left"}
                axis.legend(loc="lower left", ncols=2, **title, **anchor)
    measured = len(_measured(setting))
    note = "Deployment scale, batch 1. MACs and parameters are counted" + (
        ", latency is predicted as a sum of measured units." if measured else "."
    )
    unknown = "Where latency lies is known for tables of measured units only."
    notes = [note] if measured == len(setting.devices) > 0 else [note, unknown]
    entitle(figure, f"Where in the networks of {setting.name} the cost lies", *notes)
    return figure


_BY = {"stage": "stage, the outermost first", "kind": "kind of layer"}


def _stack(axis: Axes, sums: pd.DataFrame, groups: Sequence[tuple[str, Any, str]]) -> None:
    """Draw a bar a network, a segment a group, the whole at its end."""
    left = [0.0] * len(sums.columns)
    for name, colour, hatch in groups:
        if name not in sums.index:
            continue
        values = list(sums.loc[name])
        style: dict[str, Any] = {
            "color": colour,
            "hatch": hatch,
            "edgecolor": INK,
            "linewidth": 0.4,
        }
        axis.barh(range(len(left)), values, left=left, height=0.7, label=name, **style)
        left = [start + value for start, value in zip(left, values, strict=True)]
    for place, total in enumerate(left):
        _say_beside(axis, total, place, _figure(total))
    axis.set(xlim=(0, 1.17 * max(left)), ylim=(len(left) - 0.5, -0.5))
    axis.set_yticks(range(len(left)), list(sums.columns))
    axis.xaxis.set_major_formatter(thousands)
    axis.locator_params(axis="x", nbins=5)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def _say_beside(axes: Axes, x: float, row: int, text: str, points: int = 3) -> None:
    beside: dict[str, Any] = {"xytext": (points, 0), "textcoords": "offset points"}
    axes.annotate(text, (x, row), va="center", fontsize=SMALL, **beside)


# Predicted against measured latency


@dataclass(frozen=True)
class _Judged:
    """Networks of which both latencies are known, of one origin."""

    label: str
    style: dict[str, Any]
    lines: Sequence[tuple[float, float]]
    """Measured, predicted."""
    ends: Sequence[tuple[float, float]] = ()
    """10th and 90th percentile of what was measured."""


def _groups(
    whole: Sequence[Whole], fitted_on: Sequence[str], front: Sequence[Mapping[str, float]] = ()
) -> list[_Judged]:
    judged = [line for line in whole if line.config not in fitted_on]
    fitted = [line for line in whole if line.config in fitted_on]
    found = [
        _Judged(
            "random networks, unseen",
            {"facecolors": BLUE, "edgecolors": BLUE, "marker": "o"},
            [(line.measured, line.predicted) for line in judged],
        ),
        _Judged(
            "the correction was fitted on these",
            {"facecolors": "none", "edgecolors": RED, "marker": "s"},
            [(line.measured, line.predicted) for line in fitted],
        ),
        _Judged(
            "front and presets of the run",
            {"facecolors": GREEN, "edgecolors": INK, "marker": "D", "linewidths": 0.5},
            [(line["measured"], line["predicted"]) for line in front],
            [(line["p10"], line["p90"]) for line in front],
        ),
    ]
    return [group for group in found if group.lines]


def _draw_agreement(axis: Axes, groups: Sequence[_Judged]) -> None:
    """Predicted against measured: a band of ± 10 %, and the points."""
    every = [value for group in groups for line in group.lines for value in line]
    ends = [0.9 * min(every), 1.1 * max(every)]
    line = [0.0, 2 * ends[1]]
    low, high = ([end * (1 + sign * WITHIN) for end in line] for sign in (-1, 1))
    label = f"within ± {100 * WITHIN:.0f} %"
    axis.fill_between(line, low, high, color="#DCE9F2", linewidth=0, label=label)
    axis.plot(line, line, color=GREY, linewidth=0.8)
    for group in groups:
        x, y = zip(*group.lines, strict=True)
        axis.scatter(x, y, label=group.label, s=18, zorder=3, **group.style)
        if group.ends:
            reach = [[m - a, b - m] for m, (a, b) in zip(x, group.ends, strict=True)]
            xerr = [list(side) for side in zip(*reach, strict=True)]
            axis.errorbar(x, y, xerr=xerr, fmt="none", ecolor=GREEN, elinewidth=0.9, zorder=2)
    axis.set(xlim=ends, ylim=ends, xlabel="measured whole (ms)", ylabel="predicted (ms)")
    axis.xaxis.set_major_formatter(thousands)
    axis.yaxis.set_major_formatter(thousands)
    axis.locator_params(nbins=6)
    axis.set_box_aspect(1)


def _judgement(judged: Sequence[Whole]) -> str:
    summary = summarise(judged)
    rank = "" if summary.spearman is None else f", Spearman {summary.spearman:.3f}"
    return (
        f"{several(len(judged), 'unseen network')}: "
        f"median error {100 * summary.median_error:.1f} %, "
        f"{100 * summary.within_10_percent:.0f} % within ± 10 %{rank}"
    )


def draw_validation(
    title: str, lines: Sequence[Whole], fitted_on: Sequence[str], path: Path
) -> None:
    """Draw a scatter plot of predicted against measured latency into ``path``: a band of ± 10 %;
    networks the correction was fitted on are hollow.

    Raises:
        InputError: The file's ending is not known.
    """
    format_of(path, "--plot")
    save(_validation(title, lines, fitted_on), path)


@styled()
def _validation(title: str, lines: Sequence[Whole], fitted_on: Sequence[str]) -> Figure:
    figure, (axis,) = new_figure(width=5.4, height=3.5, layout="compressed")
    _draw_agreement(axis, _groups(lines, fitted_on))
    judged = [line for line in lines if line.config not in fitted_on]
    entitle(figure, f"Predicted latency: {title}", *([_judgement(judged)] if judged else []))
    figure.legend(loc="outside right center")
    return figure


@styled()
def draw_tables(results: Results) -> Figure:
    """Predicted against measured latency, a panel for each latency table of the study: its whole
    networks, and the front of the run where that was measured.

    Raises:
        InputError: The study has no table with whole networks, and its front was not measured.
    """
    members: list[ScoredTrial] = results.shown() if results.trials.complete() else []
    panels = []
    for device in _measured(results.setting):
        assert isinstance(device.table, LatencyTable)
        front = [m.measured[device.name] for m in members if device.name in m.measured]
        fitted_on = device.table.correction.fitted_on
        if groups := _groups(device.table.whole, fitted_on, front):
            judged = [line for line in device.table.whole if line.config not in fitted_on]
            panels.append((device.name, groups, judged))
    if not panels:
        raise InputError(
            f"--kind table: no network of {results.setting.name} was measured whole: `archsearch "
            "latency validate` measures random networks, `archsearch run … --remeasure-front` the "
            "front."
            if _measured(results.setting)
            else "--kind table: the study has no latency table of measured units "
            "(deployment.tables)."
        )
    rows = -(-len(panels) // 2) if len(panels) > 1 else 1
    columns = min(2, len(panels))
    width = 5.4 if columns == 1 else WIDTH
    figure, axes = new_figure(rows, columns, width, 0.6 + 2.9 * rows, layout="compressed")
    notes = []
    for axis, (name, groups, judged) in zip(axes, panels, strict=False):
        _draw_agreement(axis, groups)
        axis.set_title(name)
        notes += [f"{name}: {_judgement(judged)}"] if judged else []
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    label = score_of("latency_ms").label.partition(" (")[0]
    entitle(figure, f"Predicted against measured {label}", *notes)
    handles = {h.get_label(): h for axis in axes for h in axis.get_legend_handles_labels()[0]}
    figure.legend(handles=list(handles.values()), loc="outside right center")
    return figure


# Edits


@dataclass(frozen=True)
class Change:
    """By how much a step changes a score, with the interval of 95 % about it."""

    value: float
    low: float
    high: float


def draw_waterfall(
    start: str,
    steps: Sequence[str],
    panels: Mapping[str, Sequence[float]],
    path: Path,
    changes: Mapping[str, Sequence[Change | None]] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Draw a row for each step and a panel for each cost: the whole first and last, what each step
    changes between.

    Args:
        start: Name of the network before the first step.
        steps: Names of the steps.
        panels: By label of the axis, the cost of the network at the start and after each step.
        path: PNG, SVG or PDF to write.
        changes: Panels more, by label: what each step changes of a score of which less is better;
            None where a step has no such figure.
        notes: What has to be known to read it.
    """
    save(_waterfall(start, steps, panels, changes or {}, notes), path, "--plot")


@styled()
def _waterfall(
    start: str,
    steps: Sequence[str],
    panels: Mapping[str, Sequence[float]],
    changes: Mapping[str, Sequence[Change | None]],
    notes: Sequence[str],
) -> Figure:
    names = [_lines(name, 20) for name in (start, *steps, "result")]
    columns = len(panels) + len(changes)
    height = 1.1 + 0.29 * len(names) + 0.15 * len(notes)
    figure, axes = new_figure(columns=columns, height=height, sharey=True)
    for axis, values in zip(axes, panels.values(), strict=False):
        _draw_steps(axis, values)
    for axis, found in zip(axes[len(panels) :], changes.values(), strict=True):
        _draw_changes(axis, found)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    for axis, label in zip(axes, (*panels, *changes), strict=True):
        axis.set_xlabel(_lines(label, 84 // columns), fontsize=SMALL)
        axis.xaxis.set_major_formatter(thousands)
        axis.locator_params(axis="x", nbins=max(3, 12 // columns))
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0)
    entitle(figure, f"From {start}, step by step: cost at deployment scale, batch 1", *notes)
    return figure


def _lines(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False)


def _draw_steps(axes: Axes, values: Sequence[float]) -> None:
    # The whole first and last value as bars from 0, each change as a bar between.
    bars = [(0.0, values[0], GREY, "", _figure(values[0]))]
    for before, after in pairwise(values):
        change = after - before
        more = change > 0
        text = f"{change:+,.{0 if abs(change) >= 100 else 1}f}".replace("-", "−")
        text = text if abs(change) >= 0.05 else "0"
        bars.append((before, change, RED if more else BLUE, "////" if more else "", text))
    bars.append((0.0, values[-1], GREY, "", _figure(values[-1])))
    for row, (start, width, colour, hatch, text) in enumerate(bars):
        axes.barh(row, width, left=start, color=colour, hatch=hatch, height=0.7)
        _say_beside(axes, max(start, start + width), row, text)
        if start:
            axes.plot([start, start], [row - 1.35, row + 0.35], color=INK, lw=0.5)
    axes.set_xlim(0, 1.4 * max(values))


def _draw_changes(axes: Axes, changes: Sequence[Change | None]) -> None:
    # A point each, filled where its interval leaves out 0; half of the interval is written too,
    # since beside a large change that of a small one cannot be seen.
    axes.axvline(0, color=INK, linewidth=0.7)
    for row, change in enumerate(changes, 1):
        if change is None:
            _say_beside(axes, 0, row, "–")
            continue
        sure = change.low > 0 or change.high < 0
        colour = GREY if not sure else RED if change.value > 0 else BLUE
        marker = "o" if not sure else "s" if change.value > 0 else "D"
        ends = [[change.value - change.low], [change.high - change.value]]
        style: dict[str, Any] = {"color": colour, "mfc": colour if sure else "white", "ms": 4}
        axes.errorbar(change.value, row, xerr=ends, fmt=marker, elinewidth=1.2, **style)
        text = f"{change.value:+.4f}".replace("-", "−") if abs(change.value) >= 5e-5 else "0"
        half = (change.high - change.low) / 2
        text += f"\n± {half:.4f}" if half >= 5e-5 else "\n± < 0.0001"
        _say_beside(axes, max(change.high, 0), row, text, points=5)
    ends_of = [0.0, *(end for each in changes if each for end in (each.low, each.high))]
    reach = (max(ends_of) - min(ends_of)) or 1.0
    axes.set_xlim(min(ends_of) - 0.08 * reach, max(ends_of) + 0.6 * reach)
