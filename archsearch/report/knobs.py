"""What the knobs of a space do: the effect of every choice, and what an objective hung on."""

from itertools import groupby
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from archsearch.errors import InputError, check_known
from archsearch.report.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    RED,
    entitle,
    new_figure,
    scale_of,
    several,
    styled,
)
from archsearch.study.importances import importances
from archsearch.study.results import Results

_VERDICTS: dict[str, dict[str, Any]] = {
    "better": {"marker": "^", "color": GREEN},
    "no worse": {"marker": "s", "color": BLUE},
    "worse": {"marker": "v", "color": RED},
    "not known": {"marker": "o", "color": GREY, "markerfacecolor": "white"},
    "not judged": {"marker": "D", "color": INK, "markerfacecolor": "white"},
}
"""How each verdict of ``Beliefs.effects`` is drawn."""


@styled()
def draw_effects(results: Results, cost: str | None = None, quality: str | None = None) -> Figure:
    """A forest plot: what every choice of every knob costs or gains in quality beside the reference
    choice, with its interval of 95 %, the margin as a band, the verdict as a marker; beside it the
    ratio of a cost.

    Args:
        results: The run.
        cost: By default the study's own, else MACs.
        quality: One of the study's objectives; by default the first that needs training.

    Raises:
        InputError: The study has no quality, or nothing was trained yet, or no knob has choices to
            compare.
    """
    beliefs, cost = results.beliefs(), cost or results.cost or "macs"
    if not beliefs.qualities:
        raise InputError(
            f"--kind effects: the study has no quality among its objectives "
            f"({', '.join(results.objectives)}), and effects are on quality."
        )
    quality = quality or beliefs.qualities[0]
    check_known(quality, beliefs.qualities, f"--quality {quality}: effects are on objectives")
    if quality not in beliefs.models:
        raise InputError(f"{results.run.path}: has no training with {quality} yet.")
    table = beliefs.effects([cost])
    if table.empty:
        raise InputError(f"--kind effects: no knob of {results.setting.space.name} has choices.")
    if f"{cost} ratio" not in table:
        raise InputError(f"--cost {cost}: is no cost that is known of every network of the space.")
    rows = table.to_dict("records")
    figure, (axes, beside) = new_figure(
        columns=2, height=1.6 + 0.155 * len(rows), sharey=True, width_ratios=[3, 1.3]
    )
    margin = float(table[f"{quality} margin"].iloc[0]) * beliefs.sign(quality)
    within = f"worse by {abs(margin):.2g} at most"
    axes.axvspan(*sorted((0.0, margin)), color="#DCE9F2", zorder=0, linewidth=0, label=within)
    axes.axvline(0.0, color=INK, linewidth=0.8, zorder=1)
    told = set[str]()
    for place, row in enumerate(rows):
        verdict = str(row[f"{quality} verdict"])
        mean, low, high = (row[f"{quality}{end}"] for end in ("", " low", " high"))
        label = None if verdict in told else verdict
        reach = [[mean - low], [high - mean]]
        style: dict[str, Any] = {"markersize": 4.5, "elinewidth": 1.0, "label": label} | _VERDICTS[
            verdict
        ]
        axes.errorbar(mean, place, xerr=reach, linestyle="none", zorder=3, **style)
        told.add(verdict)
        if pd.notna(ratio := row[f"{cost} ratio"]):
            beside.plot(ratio, place, "o", color=INK, markersize=3.5, zorder=3)
    axes.locator_params(axis="x", nbins=7)
    _name_rows(axes, rows)
    ratios = table[f"{cost} ratio"].dropna()
    _ratio_axis(beside, min([1.0, *ratios]), max([1.0, *ratios]))
    sides = "← better · worse →" if beliefs.sign(quality) > 0 else "← worse · better →"
    axes.set_xlabel(f"change of {quality}, {scale_of(quality)}\n{sides}")
    beside.set_xlabel(f"× {cost},\n{scale_of(cost)}")
    trained = len(beliefs.measured(quality))
    entitle(
        figure,
        f"What each choice does to {quality}, and to {cost}: {results.setting.name}",
        f"Beside the first choice named; means over random networks, 95 % intervals, from "
        f"{several(trained, 'training')}.",
    )
    above: dict[str, Any] = {
        "bbox_to_anchor": (0.0, 1.0),
        "borderaxespad": 0.2,
        "columnspacing": 1.2,
    }
    axes.legend(loc="lower left", ncols=3, **above)
    return figure


def _name_rows(axes: Axes, rows: list[dict[Any, Any]]) -> None:
    """The names of choices, with the knob and its reference before the first; every second knob on
    a ground of grey.
    """
    names, start = [], 0
    for index, (_, group) in enumerate(groupby(rows, key=lambda row: row["knob"])):
        for place, row in enumerate(listed := list(group)):
            head = f"{row['knob']}: {row['reference']} " if place == 0 else ""
            names.append(f"{head}→ {row['choice']}")
        end = start + len(listed)
        if index % 2:
            for each in axes.figure.axes:
                each.axhspan(start - 0.5, end - 0.5, color="#F5F5F5", zorder=-1, linewidth=0)
        start = end
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for each in axes.figure.axes:
        each.grid(axis="y", visible=False)
        each.tick_params(axis="y", length=0)


def _ratio_axis(axes: Axes, low: float, high: float) -> None:
    """Ratios by their logarithm: half and double lie equally far from 1."""
    axes.axvline(1.0, color=INK, linewidth=0.8, zorder=1)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.12, high * 1.12)
    near = (0.5, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0)
    far = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
    axes.xaxis.set_major_locator(FixedLocator(near if high / low < 3 else far))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
    axes.xaxis.set_minor_locator(NullLocator())


@styled()
def draw_importances(results: Results) -> Figure:
    """How much of each objective's variance goes with each knob, a panel an objective.

    Raises:
        InputError: Too few trials have scores.
    """
    table = importances(results.trials)
    names = list(table.columns)
    figure, axes = new_figure(
        columns=len(names), height=1.3 + 0.17 * len(table), sharey=True, sharex=True
    )
    for axis, name in zip(axes, names, strict=True):
        shares = table[name]
        bars = axis.barh(range(len(table)), shares.fillna(0.0), height=0.65, color=BLUE)
        texts = ["–" if pd.isna(share) else f"{share:.2f}" for share in shares]
        axis.bar_label(bars, texts, padding=2, fontsize=7)
        axis.set(xlabel=f"share of the variance\nof {name}, {scale_of(name)}", xlim=(0, 1.12))
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(table)), list(table.index))
    axes[0].invert_yaxis()
    left_out = [f"{knob} ({why})" for knob, why in table.attrs["left_out"].items()]
    notes = [
        "Shares of variance by fANOVA, each knob by itself: not in which direction, nor by how "
        "much.",
        *([f"–: left out: {', '.join(left_out)}."] if left_out else []),
    ]
    entitle(
        figure,
        f"Which knobs each objective hung on: {results.setting.name}, "
        f"{several(len(results.trials.complete()), 'trial')}",
        *notes,
    )
    return figure
