"""How every figure looks: sizes, fonts, colours, what a score is called on an axis, and the formats
of a file.

A figure is drawn at the size at which it is printed: as wide as the text of a page of two columns,
so that 7 points here are 7 points on paper. Nothing is smaller than that.
"""

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from archsearch.errors import InputError
from archsearch.files import write_bytes
from archsearch.study.spec import OF_PROXY, score_of

WIDTH = 6.75
"""Inches: the width of the text on a page of two columns."""
SMALL = 7
"""Points of the smallest text."""

# Okabe and Ito (2008): told apart with any kind of colour blindness. In grey some are alike, so
# whatever a colour says is also said by a marker, a dash or a hatch.
BLUE, RED, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, YELLOW, INK = "#56B4E9", "#CC79A7", "#F0E442", "#000000"
GREY, PALE = "#767676", "#B3B3B3"
SERIES: tuple[dict[str, str], ...] = tuple(
    {"color": colour, "marker": marker, "linestyle": line}
    for colour, marker, line in (
        (BLUE, "o", "-"),
        (RED, "s", "--"),
        (GREEN, "D", "-."),
        (PURPLE, "^", ":"),
        (ORANGE, "v", "-"),
        (INK, "P", "--"),
    )
)
"""How lines that are of one kind differ: several runs, say."""

_RC: Any = {  # matplotlib's own type names every key there is
    "font.family": "DejaVu Sans",  # matplotlib brings it along
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "figure.titlesize": 9,
    "figure.titleweight": "bold",
    "figure.labelsize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#E2E2E2",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "hatch.linewidth": 0.5,
    "text.parse_math": False,  # a name may hold dollars: they are no formula
    "savefig.dpi": 200,
    # Text stays text: it can be searched and edited, and the file is small. Where DejaVu Sans is
    # not installed, the viewer takes one of the others that are named, all of them as wide or
    # narrower, so that nothing comes to overlap.
    "svg.fonttype": "none",
    "svg.hashsalt": "archsearch",
    "pdf.fonttype": 42,  # TrueType, as publishers ask for, not Type 3
}
# What would make two files of one figure differ: dates, and the versions of what wrote them.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
FORMATS = tuple(_METADATA)


@contextmanager
def styled() -> Iterator[None]:
    """Draw in our style, whatever the user's matplotlibrc says; also a decorator."""
    with rc_context():
        rcdefaults()
        rcParams.update(_RC)
        yield


def new_figure(
    rows: int = 1,
    columns: int = 1,
    width: float = WIDTH,
    height: float = 3.6,
    layout: Literal["constrained", "compressed"] = "constrained",
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure without a window, and its axes, row by row.

    Args:
        rows: Of axes.
        columns: Of axes.
        width: Inches.
        height: Inches.
        layout: ``compressed`` is for axes that are square.
        options: Those of ``Figure.subplots``.
    """
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def entitle(figure: Figure, title: str, *notes: str) -> None:
    """Say above a figure what is seen, and below it what has to be known to read it."""
    width = figure.get_figwidth()
    # So many characters of DejaVu Sans go into an inch.
    figure.suptitle(textwrap.fill(title, int(12.5 * width)), x=0.01, ha="left")
    if notes:
        lines = (textwrap.fill(note, int(18 * width), subsequent_indent="    ") for note in notes)
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", linespacing=1.4)


def format_of(path: Path, option: str = "--output") -> str:
    """The format that the ending of a file names.

    Raises:
        InputError: It names none of ours.
    """
    found = path.suffix.lower().removeprefix(".")
    if found not in FORMATS:
        raise InputError(f"{option} {path}: must end in .png, .svg or .pdf.")
    return found


def save(figure: Figure, path: Path, option: str = "--output") -> None:
    """Write a figure, atomically, in the format that the file's ending names. One figure gives the
    same bytes every time.

    Raises:
        InputError: The ending is of no known format, or the file cannot be written.
    """
    buffer, format = io.BytesIO(), format_of(path, option)
    with styled():
        figure.draw_without_rendering()  # where axes lie is found by and by
        figure.savefig(buffer, format=format, metadata=_METADATA[format])
    write_bytes(path, buffer.getvalue())


# What a score is called

_UNITS = {
    "params": (1e6, "parameters (M)"),
    "macs": (1e9, "multiply-accumulates (G)"),
    "peak_activation_bytes": (1e6, "peak activations (MB)"),
}


def unit_of(name: str) -> tuple[float, str]:
    """What the values of a score are divided by to be drawn, and its name with the unit."""
    return _UNITS.get(name, (1.0, score_of(name).label))


def scale_of(name: str) -> str:
    """Where a score is taken: *proxy scale* or *deployment scale*."""
    return "proxy scale" if score_of(name).source in OF_PROXY else "deployment scale"


def thousands(value: float, _: object = None) -> str:
    """A number on an axis; also a formatter of ticks."""
    return f"{value:,.6g}"


def several(count: int, what: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


# Labels beside points

# Offsets in points, the best first, and which point of the text they are of.
_PLACES = [
    (
        x,
        y,
        "left" if x > 0 else "right" if x < 0 else "center",
        "bottom" if y > 0 else "top" if y < 0 else "center",
    )
    for x, y in (
        *((5, 4), (-5, 4), (5, -4), (-5, -4), (8, 0), (-8, 0)),
        *((0, 8), (0, -8), (12, 10), (-12, 10), (12, -10), (-12, -10)),
    )
]


def label_points(axes: Axes, labels: Sequence[tuple[float, float, str]]) -> None:
    """Write a label beside each point where it lies over no other label, and over as little as can
    be of what is drawn. Where there is no such place, the label is left out: earlier ones matter
    more.

    Args:
        axes: With everything else in it.
        labels: Place and text of each, in the axes' own units.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # decides where the axes lie
    frame, taken, drawn = axes.get_window_extent(), list[Bbox](), _drawn(axes)
    for x, y, text in labels:
        label = axes.annotate(text, (x, y), (0, 0), textcoords="offset points", fontsize=SMALL)
        label.set(in_layout=False, zorder=6)
        found: list[tuple[int, int, Bbox]] = []
        for index, (right, up, across, along) in enumerate(_PLACES):
            label.set(position=(right, up), horizontalalignment=across, verticalalignment=along)
            box = label.get_window_extent().padded(2)
            over = any(box.overlaps(other) for other in taken)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and box.y1 <= frame.y1
            if inside and not over:
                found.append((int(box.count_contains(drawn)) + index, index, box))
        if not found:
            label.remove()
            continue
        _, index, box = min(found, key=lambda each: each[:2])
        right, up, across, along = _PLACES[index]
        label.set(position=(right, up), horizontalalignment=across, verticalalignment=along)
        taken.append(box)


def _drawn(axes: Axes) -> NDArray[np.float64]:
    """Pixels (N, 2) of markers and along lines."""
    found, lines = [np.empty((0, 2))], []
    for drawn in axes.collections:
        if isinstance(drawn, LineCollection):
            lines += [drawn.get_transform().transform(each) for each in drawn.get_segments()]
        elif isinstance(drawn, PathCollection):
            found.append(drawn.get_offset_transform().transform(drawn.get_offsets()))
    for line in axes.lines:  # without a line style, markers alone
        ends = line.get_transform().transform(line.get_xydata())
        (found if line.get_linestyle() == "None" else lines).append(ends)
    for each in lines:
        for start, end in pairwise(each):
            steps = max(2, int(np.hypot(*(end - start)) / 3))
            found.append(np.linspace(start, end, steps))
    return np.vstack(found)
