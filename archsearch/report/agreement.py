"""Losses at a short budget against those at a long one, network by network."""

from pathlib import Path
from statistics import mean
from typing import Any

from archsearch.report.style import new_figure, save


def draw_agreement(found: dict[str, Any], path: Path) -> None:
    """Draw what ``summarise`` found into ``path`` (PNG): first budget against the last, every seed a point, coloured by MACs."""
    budgets = sorted(int(budget) for budget in found["samples"])
    first, last = budgets[0], budgets[-1]
    figure, axis = new_figure(width=5.6, height=4.6)
    losses = {name: {int(b): values for b, values in of["val_loss"].items()} for name, of in found["networks"].items()}
    shown = {name: of for name, of in losses.items() if of[first] and of[last]}
    macs = [found["networks"][name]["macs"] / 1e9 for name in shown]
    x, y = ([mean(of[budget]) for of in shown.values()] for budget in (first, last))
    for of, at_x, at_y in zip(shown.values(), x, y, strict=True):
        axis.plot([min(of[first]), max(of[first])], [at_y, at_y], color="#5b6166", linewidth=0.9, zorder=2)
        axis.plot([at_x, at_x], [min(of[last]), max(of[last])], color="#5b6166", linewidth=0.9, zorder=2)
    points = axis.scatter(x, y, c=macs, cmap="viridis", s=34, zorder=3)
    figure.colorbar(points, ax=axis, label="GMACs at deployment scale")
    agreement: list[dict[str, Any]] = found["scores"]["val_loss"]["agreement"]
    row = next((row for row in agreement if row["rankings"].startswith(f"{first} ×")), {})
    tau = f", Kendall τ {row['tau']:.2f}" if "tau" in row else ""
    axis.set_title(f"{len(shown)} networks{tau}; bars: from the lowest to the highest seed", fontsize=9, loc="left")
    axis.set(
        xlabel=f"val_loss after {found['samples'][first]:,} samples", ylabel=f"val_loss after {found['samples'][last]:,} samples"
    )
    save(figure, path)
