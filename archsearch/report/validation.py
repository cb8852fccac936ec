"""Predicted against measured latency of whole networks."""

from collections.abc import Sequence
from pathlib import Path

from archsearch.latency.lines import Whole
from archsearch.latency.validate import WITHIN, summarise
from archsearch.report.style import new_figure, save

JUDGED = {"color": "#0b6e99", "s": 26, "zorder": 3}
FITTED = {"facecolors": "none", "edgecolors": "#c8501e", "s": 30, "zorder": 3}


def draw_validation(title: str, lines: Sequence[Whole], fitted_on: Sequence[str], path: Path) -> None:
    """Draw a scatter plot into ``path`` (PNG): a band of ± 10 %; networks the correction was fitted on are hollow."""
    figure, axis = new_figure(width=5.2, height=5.0)
    judged = [line for line in lines if line.config not in fitted_on]
    fitted = [line for line in lines if line.config in fitted_on]
    every = [value for line in lines for value in (line.measured, line.predicted)]
    ends = [0.9 * min(every), 1.1 * max(every)]
    axis.fill_between(
        ends, [end * (1 - WITHIN) for end in ends], [end * (1 + WITHIN) for end in ends], color="#0b6e99", alpha=0.10, linewidth=0
    )
    axis.plot(ends, ends, color="#5b6166", linewidth=1)
    axis.scatter([line.measured for line in judged], [line.predicted for line in judged], label="unseen", **JUDGED)
    if fitted:
        axis.scatter([line.measured for line in fitted], [line.predicted for line in fitted], label="correction fitted", **FITTED)
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
