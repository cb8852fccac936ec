"""What each step of a recipe takes from the cost of a network, as a waterfall."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from archsearch.report.style import new_figure, save

TOTAL, LESS, MORE = "#5a6468", "#0b6e99", "#c8501e"


def draw_waterfall(start: str, steps: Sequence[str], panels: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw a panel for each cost: the whole first and last, what each step changes between.

    Args:
        start: Name of the network before the first step.
        steps: Names of the steps.
        panels: By label of the axis, the cost of the network at the start and after each step.
        path: PNG to write.
    """
    names = [start, *steps, "result"]
    figure, axes = new_figure(rows=len(panels), width=1.9 + 0.95 * len(names), height=3.2 * len(panels))
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
        axes.text(position, top, f"{change:+,.1f}" if abs(change) >= 0.05 else "0", ha="center", va="bottom", fontsize=8)
    axes.bar(len(values), values[-1], color=TOTAL)
    axes.text(len(values), values[-1], f"{values[-1]:,.1f}", ha="center", va="bottom", fontsize=8)
    axes.set_ylim(0, 1.1 * max(values))
    axes.grid(axis="x", visible=False)
