"""An architecture as a picture: the U, a box a block, in SVG."""

from itertools import chain
from pathlib import Path
from typing import Any

from matplotlib.patches import FancyBboxPatch

from archsearch.catalog import Architecture
from archsearch.report.style import new_figure, save, styled
from archsearch.unet.config import ResidualBlock, UNetConfig

COLOURS = {"residual": "#dfe7ec", "sa": "#f2c38f", "ca": "#9cc7dd", "ff": "#c9dfb4"}
ROW, LAYER, GAP, INCHES = 1.0, 0.16, 0.12, 0.75


@styled()
def draw_architecture(architecture: Architecture, path: Path) -> None:
    """Draw the stages as rows, way down on the left, way up on the right, both read from left to
    right; every layer a box.
    """
    config = architecture.config
    rows = len(config.stages) + bool(config.middle)
    figure, (axes,) = new_figure(height=0.8 * rows + 1.0)
    widths = []
    for index, stage in enumerate(config.stages):
        y, conv = -index * ROW, config.conv_of(index)
        widths += [_side(axes, stage.down, -0.4, y, -1), _side(axes, stage.up, 0.4, y, 1)]
        text = f"{stage.channels}\n{config.sample_size // 2**index}²"
        text += "" if conv == "full" else f"\n{conv}"
        axes.text(0, y, text, ha="center", va="center", fontsize=8)
    if config.middle:
        y = -(rows - 1) * ROW
        widths.append(_side(axes, config.middle, 0.4, y, 1))
        axes.text(0, y, "middle", ha="center", va="center", fontsize=8)
    limit = max(widths) + 0.6
    # Boxes and text keep their proportion in deep networks.
    figure.set_figwidth(max(7.5, INCHES * 2 * limit))
    axes.set(xlim=(-limit, limit), ylim=(-(rows - 0.4) * ROW, 0.6))
    axes.axis("off")
    axes.set_title(
        f"{architecture.name}: {_options(config)}; way down left, way up right", fontsize=9
    )
    for position, (name, colour) in enumerate(COLOURS.items()):
        axes.text(
            -limit + 0.1 + position * 1.1,
            0.5,
            f" {name} ",
            fontsize=7,
            bbox={"facecolor": colour, "edgecolor": "none"},
        )
    save(figure, path)


def _side(axes: Any, blocks: tuple[ResidualBlock, ...], x: float, y: float, sign: int) -> float:
    # From ``x`` outwards, so that both sides read from left to right; returns how far they reach.
    reach = abs(x)
    for block in blocks[::sign]:
        layers = ["residual", *chain.from_iterable(block.transformers)]
        for layer in layers[::sign]:
            width = 2 * LAYER if layer == "residual" else LAYER
            left = sign * reach if sign > 0 else -reach - width
            box = FancyBboxPatch(
                (left, y - 0.22), width * 0.9, 0.44, boxstyle="round,pad=0.0,rounding_size=0.03"
            )
            box.set(facecolor=COLOURS[layer], edgecolor="#5a6468", linewidth=0.4)
            axes.add_patch(box)
            reach += width
        reach += GAP
    return reach


def _options(config: UNetConfig) -> str:
    attention, feed_forward = config.attention_of(0), config.feed_forward_of(0)
    heads = f"{attention.heads} heads" if attention.heads else f"head dim {attention.head_dim}"
    return (
        f"{attention.normalizer} attention, {attention.kv} K/V, {heads}; "
        f"{feed_forward.activation} × {feed_forward.expansion}"
    )
