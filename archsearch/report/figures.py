"""Pictures of a run, for papers: what kinds there are, how the front grew, sample pictures; and
rankings of ``proxy validate``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from archsearch.errors import InputError, check_known
from archsearch.report.costs import draw_breakdown, draw_tables
from archsearch.report.front import COSTS, axes_of, draw_front, label_of
from archsearch.report.knobs import draw_effects, draw_importances
from archsearch.report.style import (
    BLUE,
    GREY,
    WIDTH,
    entitle,
    format_of,
    new_figure,
    save,
    several,
    styled,
    thousands,
)
from archsearch.study.finish import captions_of
from archsearch.study.results import Results
from archsearch.study.spec import OF_PROXY, device_of, is_marked, score_of

MAX_GRID = 9
"""Networks whose sample pictures are shown below each other."""
WIDTH_OF_SHEET = 6.4
"""Inches."""


@dataclass(frozen=True)
class Kind:
    """A kind of picture of a run."""

    draw: Callable[..., Figure]
    """Of ``Results``, and of the options by name."""
    options: tuple[str, ...] = ()
    """Which of ``cost``, ``quality`` and ``trials`` it heeds."""
    quick: bool = True
    """Whether it is drawn again and again while a study runs."""


@dataclass
class Plots:
    """What was drawn of a run."""

    written: list[Path] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Kinds that could not be drawn, and why."""


def draw(results: Results, kind: str, path: Path | None = None, **options: Any) -> Path:
    """Draw one kind of picture of a run.

    Args:
        results: The run.
        kind: One of ``KINDS``.
        path: A file ending in .png, .svg or .pdf; by default one of ``plots/``.
        options: ``cost``, ``quality``, ``trials``; those that are None or empty say nothing.

    Returns:
        The file.

    Raises:
        InputError: The kind or the ending is not known, an option does not belong to the kind, or
            the run lacks what is to be drawn.
    """
    check_known(kind, KINDS, f"--kind {kind}: there is no such kind of picture")
    found = KINDS[kind]
    given = {name: value for name, value in options.items() if value}
    for name in given:
        if name not in found.options:
            heeding = " and ".join(k for k, each in KINDS.items() if name in each.options)
            raise InputError(f"--{name.removesuffix('s')}: belongs to --kind {heeding}.")
    path = path or results.run.path / "plots" / _file_name(results, kind, given)
    format_of(path)
    save(found.draw(results, **given), path)
    return path


def draw_all(results: Results, quick: bool = False) -> Plots:
    """Draw whatever a run allows into ``plots/``.

    Args:
        results: The run.
        quick: Only what takes no time, for a study that is running.
    """
    plots = Plots()
    for kind, found in KINDS.items():
        if quick and not found.quick:
            continue
        try:
            for cost in _costs(results) if kind == "front" else [None]:
                plots.written.append(draw(results, kind, cost=cost))
        except InputError as error:
            plots.left_out[kind] = str(error)
    return plots


def _costs(results: Results) -> list[str | None]:
    """Costs that quality is drawn against: the study's own, and others that every trial has."""
    if results.quality is None:
        return [None]
    known = results.complete()
    own = [name for name in results.objectives if score_of(name).source not in OF_PROXY]
    shared = [n for n in dict.fromkeys([*own, *COSTS]) if all(n in each.scores for each in known)]
    return [*shared] or [None]


def _file_name(results: Results, kind: str, given: dict[str, Any]) -> str:
    if kind != "front":
        return f"{kind}.png"
    cost, quality = axes_of(results, given.get("cost"), given.get("quality"))
    device = device_of(cost)
    cost = cost if device is None else f"latency_ms-{device}".replace("/", "-")
    return f"{quality}-{cost}.png"


# How the front grew


@styled()
def draw_hypervolume(results: Results) -> Figure:
    """How the dominated share of the objectives' box grew: over finished trials, and over seconds
    of training where there were any.

    Raises:
        InputError: Fewer than two trials have scores.
    """
    history, box = results.hypervolume_history(), results.box()
    scored = len(results.trials.complete())
    if box is None or scored < 2:
        raise InputError(
            f"{results.run.path}: the growth of a front needs two trials with scores; there "
            f"{'is' if scored == 1 else 'are'} {scored}."
        )
    columns = {"finished": "finished trials"}
    if history.train_seconds.iloc[-1] > 0:
        columns["train_seconds"] = "training behind them (s)"
    figure, axes = new_figure(columns=len(columns), height=2.6, sharey=True)
    for axis, (column, text) in zip(axes, columns.items(), strict=True):
        axis.step(history[column], history.hypervolume, where="post", color=BLUE)
        axis.plot(history[column], history.hypervolume, ".", color=BLUE, markersize=4)
        axis.set(xlabel=text, ylim=(0, None))
        axis.xaxis.set_major_formatter(thousands)
    axes[0].set_ylabel("hypervolume\n(share of the box)")
    axes[0].locator_params(axis="x", integer=True)
    corner = ", ".join(f"{name} {value:,.4g}" for name, value in box.reference.items())
    entitle(
        figure,
        f"How the front of {results.setting.name} grew: to {history.hypervolume.iloc[-1]:.3f} of "
        f"the box in {several(len(history), 'trial')}",
        f"The box reaches to {corner}; costs count by their logarithm.",
    )
    return figure


# Sample pictures


@styled()
def draw_samples(results: Results) -> Figure:
    """Sample pictures of the front and the presets below each other: same captions, same initial
    noise.

    Raises:
        InputError: The run has none.
    """
    sheets = [
        (member, sheet)
        for member in results.shown()
        if (sheet := results.run.trial(member.number) / "samples.png").is_file()
    ][:MAX_GRID]
    if not sheets:
        raise InputError(f"{results.run.path}: has no sample pictures; a run ends by drawing them.")
    spec, shown = results.setting.spec, []
    for member, sheet in sheets:
        with Image.open(sheet) as opened:
            shown.append((member, opened.convert("RGB")))
    height = sum(0.25 + WIDTH_OF_SHEET * picture.height / picture.width for _, picture in shown)
    figure, axes = new_figure(rows=len(shown), height=height + 0.8)
    for axis, (member, picture) in zip(axes, shown, strict=True):
        # "none": a vector file holds the pictures as they are, not enlarged.
        axis.imshow(picture, interpolation="none")
        axis.set_axis_off()
        told = [
            f"{name} {'≈ ' if is_marked(name, member.provenance) else ''}"
            f"{member.known.get(name, math.nan):,.4g}"
            for name in (results.quality, results.cost)
            if name
        ]
        axis.set_title(f"{label_of(member)}: {', '.join(told)}")
    sampling = spec.sampling
    steps = "each in its own steps" if sampling.searched else f"{sampling.steps} DDIM steps"
    entitle(
        figure,
        f"What the proxies of {results.setting.name} draw after {spec.proxy.samples:,} pictures: "
        f"{steps}, guidance {sampling.guidance:g}",
        *_captions(sheets[0][1]),
    )
    return figure


def _captions(sheet: Path) -> list[str]:
    captions, columns = captions_of(sheet)
    rows = [captions[start : start + columns] for start in range(0, len(captions), columns)]
    return [f"row {number}: " + " · ".join(row) for number, row in enumerate(rows, 1)]


KINDS: dict[str, Kind] = {
    "front": Kind(draw_front, ("cost", "quality")),
    "effects": Kind(draw_effects, ("cost", "quality"), quick=False),
    "hypervolume": Kind(draw_hypervolume),
    "importances": Kind(draw_importances, quick=False),
    "breakdown": Kind(draw_breakdown, ("trials",), quick=False),
    "table": Kind(draw_tables, quick=False),
    "samples": Kind(draw_samples),
}


# What a proxy can be trusted with


def draw_curves(curve: list[dict[str, Any]], method: str, path: Path) -> None:
    """Draw how a generator and its opponent have learned, and when they have stopped to."""
    save(_curves(curve, method), path)


@styled()
def _curves(curve: list[dict[str, Any]], method: str) -> Figure:
    figure, (losses, shares) = new_figure(columns=2, width=WIDTH, height=2.6)
    seen = [row["samples"] for row in curve]
    for axis, names in (
        (losses, ("generator", "opponent")),
        (shares, ("discriminator", "variance")),
    ):
        for name in names:
            # An opponent that learns seldom may not have learned at the first looks.
            values = [row.get(name, math.nan) for row in curve]
            axis.plot(seen, values, marker="o", markersize=3, label=name)
        axis.legend()
        axis.set(xlabel="pictures seen")
    losses.set(ylabel="loss")
    shares.set(ylabel="share", ylim=(0, None))
    why = curve[-1].get("collapsed") if curve else None
    notes = [f"Collapsed: {why}."] if why else []
    entitle(
        figure,
        f"A generator and its opponent ({method})",
        "discriminator: how often the opponent tells real from drawn, 0.5 is a guess; variance: of "
        "what is drawn, as a share of that of real pictures.",
        *notes,
    )
    return figure


def draw_agreement(found: dict[str, Any], path: Path) -> None:
    """Draw what ``summarise`` found into ``path``: first budget against the last, every seed a
    point, coloured by MACs.
    """
    save(_agreement(found), path)


@styled()
def _agreement(found: dict[str, Any]) -> Figure:
    budgets = sorted(int(budget) for budget in found["samples"])
    first, last = budgets[0], budgets[-1]
    figure, (axis,) = new_figure(width=4.6, height=3.6)
    seen = [
        ({int(budget): values for budget, values in of["val_loss"].items()}, of["macs"] / 1e9)
        for of in found["networks"].values()
    ]
    shown = [(of[first], of[last], macs) for of, macs in seen if of[first] and of[last]]
    firsts, lasts, macs = ([each[column] for each in shown] for column in range(3))
    x, y = list(map(mean, firsts)), list(map(mean, lasts))
    bars: dict[str, Any] = {"fmt": "none", "ecolor": GREY, "elinewidth": 0.8, "zorder": 2}
    axis.errorbar(x, y, xerr=_reach(firsts), yerr=_reach(lasts), **bars)
    points = axis.scatter(x, y, c=macs, cmap="viridis", s=24, zorder=3)
    figure.colorbar(points, ax=axis, label="multiply-accumulates (G), deployment scale")
    agreement: list[dict[str, Any]] = found["scores"]["val_loss"]["agreement"]
    row = next((row for row in agreement if row["rankings"].startswith(f"{first} ×")), {})
    tau = f": Kendall τ {row['tau']:.2f}" if "tau" in row else ""
    entitle(
        figure,
        f"Short and long trainings of {several(len(shown), 'network')}{tau}",
        "Bars reach from the lowest to the highest seed.",
    )
    axis.set(
        xlabel=f"val_loss after {found['samples'][first]:,} pictures, proxy scale",
        ylabel=f"val_loss after {found['samples'][last]:,} pictures",
    )
    return figure


def _reach(groups: Sequence[Sequence[float]]) -> list[list[float]]:
    # How far the lowest and the highest of each group lie from its mean.
    return [[mean(of) - min(of) for of in groups], [max(of) - mean(of) for of in groups]]
