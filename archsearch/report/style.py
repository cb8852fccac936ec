"""How all figures look."""

import io
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from archsearch.files import write_bytes

FRONT: dict[str, Any] = {"color": "#0b6e99", "marker": "o", "markersize": 6, "linewidth": 1.6, "zorder": 3}
NOISE: dict[str, Any] = {"fmt": "none", "ecolor": "#0b6e99", "elinewidth": 1.1, "capsize": 3, "alpha": 0.7, "zorder": 3}
DOMINATED: dict[str, Any] = {"color": "#b4b9bd", "s": 26, "zorder": 2}
PRESET: dict[str, Any] = {"color": "#c8501e", "marker": "*", "s": 170, "zorder": 4}
MARKED: dict[str, Any] = {"facecolors": "none", "edgecolors": "#3c4043", "marker": "o", "s": 110, "linewidths": 0.9, "zorder": 5}
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
