"""An architecture as a picture: its stages as rows of a U, a box for every unit, in SVG; and two
architectures under each other with what differs.

Boxes have the same size everywhere (``layout.py`` says where they lie), so networks compare at a
glance. A picture can stand by itself, with a style for light and dark surroundings, or be inlined
in a page: then it has neither style nor id, and its text and lines take the colour of the page's
text (``currentColor``). Fills are translucent for the same reason: a pale box is near the
background, whichever that is.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from archsearch.catalog import Architecture
from archsearch.report.layout import (
    CENTRE,
    CONVOLUTIONS,
    GAP,
    LABEL,
    LETTER,
    LINE,
    RAIL,
    RESIDUAL,
    SAMPLER,
    Box,
    Latency,
    Network,
    Row,
    percent,
    shape_of,
    wrapped,
)
from archsearch.search_space.paths import option_differences, unit_changes
from archsearch.unet import units
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import plan

Point = tuple[int, int]

# Pixels; FLOW is how far below the top of a row the line from block to block runs, LANE how far
# skip connections are apart, RETURN the room for the line to the row below.
MARGIN, LEAST_WIDTH, FLOW, LANE, RETURN = 12, 600, 14, 5, 18
SWATCH, COLUMN = 18, 47  # of the legend

STYLE = (
    "svg{color:#1f2328;background:#fff}"
    "@media(prefers-color-scheme:dark){svg{color:#e6edf3;background:#0d1117}}"
)
OUTLINE: dict[str, Any] = {"stroke": "currentColor", "stroke_width": 0.8}
THIN: dict[str, Any] = {"stroke_opacity": 0.55, "stroke_width": 0.8}
DASHES: dict[str, dict[str, Any]] = {
    "full": {},
    "separable": {"stroke_dasharray": "4 2", "stroke_width": 1.3},
    "expanded": {"stroke_dasharray": "1.5 2", "stroke_width": 1.3},
    "inverted": {"stroke_dasharray": "6 2 1.5 2", "stroke_width": 1.3},
}
# Removed is struck through, added framed, and changed has a corner: told apart by more than colour.
CHANGES = {"removed": "#d55e00", "added": "#1f87cf", "changed": "#a35fb0"}


class Kind(NamedTuple):
    """How a kind of unit is shown: the letters in its box, its words, its fill without latency."""

    letters: str
    words: str
    fill: str = "none"
    opacity: float | None = None


# After Okabe and Ito's palette, whose colours stay apart for the colour-blind.
KINDS = {
    "residual": Kind("R", "residual block", "#7f8c99", 0.3),
    "self_attention": Kind("sa", "self-attention", "#e69f00", 0.55),
    "cross_attention": Kind("ca", "cross-attention", "#56b4e9", 0.5),
    "norm": Kind("n", "norm in place of self-attention", "#cc79a7", 0.45),
    "feed_forward": Kind("ff", "feed-forward", "#009e73", 0.4),
    "projection": Kind("", "projections around transformer blocks", "#7f8c99", 0.6),
    "downsample": Kind("↓", "downsample"),
    "upsample": Kind("↑", "upsample"),
    "time": Kind("t", "time embedding"),
    "input": Kind("in", "first convolution"),
    "output": Kind("out", "last convolution"),
}
# The largest share of the latency has this fill: of a lightness on which both black and white text
# can be read. Smaller ones are paler in proportion.
ACCENT, DEEPEST, STEPS = "#c4511d", 0.85, 5


def stage_diagram(
    config: UNetConfig,
    name: str,
    latency: Latency | None = None,
    standalone: bool = True,
    source: str = "",
) -> str:
    """Draw a network.

    Args:
        config: The network.
        name: What it is called.
        latency: Milliseconds of each of its units (``Predictor.by_unit``): the fill of a box is
            then its share of their sum. None, or nothing in it: the fill is the kind of unit.
        standalone: A file of its own, with a style for light and dark; else to be inlined in a
            page, without any style or id.
        source: Where the latency is from, and what has to be said of it.

    Returns:
        The SVG, in one line.

    Raises:
        KeyError: ``latency`` lacks a unit of the network.
    """
    return _draw([Network(config, name, latency)], standalone, source)


def diff_diagram(
    before: Architecture,
    after: Architecture,
    latency: Latency | None = None,
    standalone: bool = True,
    source: str = "",
) -> str:
    """Draw two networks under each other, at one scale, with the units that differ marked (see
    ``unit_changes``), and the options that differ listed.

    Args:
        before: The network above.
        after: The network below.
        latency: Milliseconds of each unit of both; the rest as in :func:`stage_diagram`.
        standalone: As in :func:`stage_diagram`.
        source: As in :func:`stage_diagram`.

    Returns:
        The SVG, in one line.

    Raises:
        KeyError: ``latency`` lacks a unit of one of them.
    """
    old, new = unit_changes(plan(before.config), plan(after.config))
    networks = [
        Network(before.config, before.name, latency, old),
        Network(after.config, after.name, latency, new, before.config),
    ]
    options = {
        key: ("–" if a is None else str(a), "–" if b is None else str(b))
        for key, (a, b) in option_differences(before.config, after.config).items()
    }
    return _draw(networks, standalone, source, options)


def _draw(
    networks: Sequence[Network],
    standalone: bool,
    source: str,
    options: Mapping[str, tuple[str, str]] | None = None,
) -> str:
    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img"})
    # Without ids to point to, a screen reader takes these two, when they come first.
    names = " compared with ".join(network.name for network in networks)
    _add(root, "title", f"{names}: stages of the UNet")
    told = [network.describe() for network in networks]
    told += [f"{key}: {old}, then {new}." for key, (old, new) in (options or {}).items()]
    _add(root, "desc", " ".join(told))
    if standalone:
        _add(root, "style", STYLE)
    axis = MARGIN + LABEL + max(network.left for network in networks)
    width = max(LEAST_WIDTH, axis + max(network.right for network in networks) + MARGIN)
    body = _add(root, "g", fill="currentColor", font_family="system-ui, sans-serif", font_size=10)
    most = max((share for network in networks for share in network.shares.values()), default=0.0)
    top = math.ceil(100 * most) / 100
    y = MARGIN
    for network in networks:
        y = _draw_heading(body, network, y, width)
        y = _draw_rows(body, network, axis, y, top) + 2 * LINE
    if options:
        y = _draw_options(body, options, networks, y) + LINE
    y = _draw_legend(body, networks, y, width, options is not None)
    if top:
        y = _draw_scale(body, y, top, source)
    height = y + MARGIN
    root.attrib |= {"viewBox": f"0 0 {width} {height}", "width": f"{width}", "height": f"{height}"}
    root.set("class", "archsearch-diagram")
    return ET.tostring(root, encoding="unicode")


def _add(parent: ET.Element, tag: str, text: str | None = None, **attributes: Any) -> ET.Element:
    # Attributes with a hyphen are given with an underscore, ``class`` with one at its end.
    given = {
        name.rstrip("_").replace("_", "-"): f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in attributes.items()
        if value is not None
    }
    element = ET.SubElement(parent, tag, given)
    element.text = text
    return element


def _cut(text: str, width: int, letter: float = LETTER) -> str:
    fitting = int(width / letter)
    return text if len(text) <= fitting else text[: fitting - 1] + "…"


def _draw_heading(body: ET.Element, network: Network, y: int, width: int) -> int:
    room = width - 2 * MARGIN
    name = _cut(network.name, room, 8.5)
    _add(body, "text", name, x=MARGIN, y=y + 12, font_size=15, font_weight=600)
    y += 14
    for line in (network.size, *wrapped(network.options, room)):
        y += LINE + 2
        _add(body, "text", line, x=MARGIN, y=y)
    return y


def _draw_rows(body: ET.Element, network: Network, axis: int, y: int, top: float) -> int:
    lines = _add(body, "g", class_="lines", fill="none", stroke="currentColor")
    boxes = _add(body, "g", class_="boxes", **OUTLINE)
    words = _add(body, "g", font_size=9, text_anchor="middle", pointer_events="none")
    above: int | None = None
    for row in network.rows:
        y += RETURN + LANE * len(row.skips)
        for number, line in enumerate(row.label):
            weight = None if number else 600
            _add(body, "text", line, x=MARGIN, y=y + 9 + LINE * number, font_weight=weight)
        for side, x in zip((row.left, row.right), row.starts(axis), strict=True):
            for box in side.boxes:
                _draw_box(boxes, words, box._replace(x=box.x + x, y=box.y + y), network, top)
            for (place, (_, end)), (_, (start, _)) in pairwise(side.spans.items()):
                if place != "time":  # it goes to every residual block
                    _draw_line(lines, [(x + end, y + FLOW), (x + start, y + FLOW)])
        _draw_skips(lines, row, axis, y)
        if above is not None:
            _draw_way(lines, above, row, axis, y)
        above = y
        y += row.height
    if above is not None and network.rows[-1].stage != "middle":
        level = above + FLOW
        ends = [(axis - CENTRE // 2, level), (axis + CENTRE // 2, level)]
        _draw_line(lines, ends, arrow=True)
    return y


def _draw_box(boxes: ET.Element, words: ET.Element, box: Box, network: Network, top: float) -> None:
    unit, kind = box.unit, KINDS[box.unit.kind]
    where, _, _ = box.place.rpartition(".")
    told = f"{where}: {kind.words}" if where else kind.words
    told += f", {shape_of(unit)}"
    fill, opacity = kind.fill, kind.opacity
    if network.shares:
        share = network.shares[box.place]
        told += f"; {100 * share:.2f} % of the latency"
        fill, opacity = ACCENT, round(DEEPEST * share / top, 3)
    # Layers are called as configurations call them.
    classes = kind.letters if isinstance(unit, units.TransformerLayer) else unit.kind
    if change := network.changes.get(box.place):
        classes += f" {change}"
        told = f"{change}: {told}"
    size: dict[str, Any] = {"x": box.x, "y": box.y, "width": box.width, "height": box.height}
    outline = DASHES[unit.conv] if isinstance(unit, units.Residual) else {}
    rect = _add(boxes, "rect", class_=classes, **size, fill=fill, fill_opacity=opacity, **outline)
    _add(rect, "title", told)
    if kind.letters:
        x, y = box.x + box.width // 2, box.y + box.height // 2 + 3
        _add(words, "text", kind.letters, x=x, y=y)
    if change:
        _draw_change(words, change, box)


def _draw_change(parent: ET.Element, change: str, box: Box) -> None:
    x, y, width, height = box.x, box.y, box.width, box.height
    corner = min(width, 7)
    path = {
        "removed": f"M{x} {y + height}L{x + width} {y}",
        "added": f"M{x} {y}h{width}v{height}h{-width}z",
        "changed": f"M{x + width - corner} {y}h{corner}v7z",
    }[change]
    if change == "changed":
        _add(parent, "path", d=path, fill=CHANGES[change])
    else:
        _add(parent, "path", d=path, fill="none", stroke=CHANGES[change], stroke_width=2)


def _draw_skips(lines: ET.Element, row: Row, axis: int, y: int) -> None:
    # From behind a block of the way down over the row into the block that takes it, the latest one
    # innermost. The first begins where the stage is entered.
    left, right = row.starts(axis)
    for lane, (blocks, up) in enumerate(row.skips, start=1):
        span = row.left.spans[f"{row.stage}.down[{max(blocks - 1, 0)}]"]
        start = left + (span[1] + GAP // 2 if blocks else span[0] - GAP // 2)
        end = right + row.right.spans[f"{row.stage}.up[{up}]"][0] + RESIDUAL // 2
        over = y - LANE * lane
        points = [(start, y + FLOW), (start, over), (end, over), (end, y)]
        _draw_line(lines, points, class_="skip", **THIN)


def _draw_way(lines: ET.Element, above: int, row: Row, axis: int, y: int) -> None:
    # The way from the row whose boxes begin at ``above`` to ``row``, and back.
    between, level, upper_level = y - LANE * len(row.skips) - RETURN // 2, y + FLOW, above + FLOW
    end, back = axis - CENTRE // 2, axis + CENTRE // 2  # of the way down above, of the way up
    left, right = row.starts(axis)
    if row.flat or row.stage == "middle":
        x, last = end + GAP // 2, right + row.right.width if row.flat else left + row.left.width
        down = [(end, upper_level), (x, upper_level), (x, between)]
        up = [(last, level), (last + GAP // 2, level), (last + GAP // 2, between)]
    else:  # through the boxes that halve and double the resolution
        x, last = end - SAMPLER // 2, right + row.right.width - SAMPLER // 2
        down = [(x, above + RESIDUAL), (x, between)]
        up = [(last, y), (last, between)]
    entry, exit_ = left - GAP // 2, back - GAP // 2
    down += [(entry, between), (entry, level), (left, level)]
    up += [(exit_, between), (exit_, upper_level), (back, upper_level)]
    _draw_line(lines, down, arrow=True)
    _draw_line(lines, up, arrow=True)


def _draw_line(
    parent: ET.Element, points: Sequence[Point], arrow: bool = False, **attributes: Any
) -> None:
    # Along the axes, with round corners.
    path = "M{} {}".format(*points[0])
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        path += "L{} {}Q{} {} {} {}".format(*_near(corner, before), *corner, *_near(corner, after))
    x, y = points[-1]
    _add(parent, "path", d=f"{path}L{x} {y}", **attributes)
    if arrow:
        head = f"M{x - 4} {y - 2.5}l4 2.5l-4 2.5z"
        _add(parent, "path", d=head, fill="currentColor", stroke="none")


def _near(corner: Point, other: Point) -> Point:
    # Three pixels from a corner towards another one, or half of the way where that is less.
    dx, dy = other[0] - corner[0], other[1] - corner[1]
    distance = max(abs(dx), abs(dy), 1)
    radius = min(3, distance // 2)
    return corner[0] + radius * dx // distance, corner[1] + radius * dy // distance


def _draw_options(
    body: ET.Element,
    options: Mapping[str, tuple[str, str]],
    networks: Sequence[Network],
    y: int,
) -> int:
    _add(body, "text", "Options that differ", x=MARGIN, y=y + 9, font_weight=600)
    names = [network.name for network in networks]
    for row in (["", *names], *([key, *values] for key, values in options.items())):
        y += LINE + 2
        for cell, x in zip(row, (0, 210, 400), strict=True):
            if cell:
                _add(body, "text", _cut(cell, 180), x=MARGIN + x, y=y + 9)
    return y + LINE


def _draw_legend(
    body: ET.Element, networks: Sequence[Network], y: int, width: int, compared: bool
) -> int:
    legend = _add(body, "g", class_="legend")
    x = MARGIN
    for swatch, words in _legend(networks, compared):
        needed = COLUMN * math.ceil((SWATCH + 14 + len(words) * LETTER) / COLUMN)
        if x + needed > width and x > MARGIN:  # as many in a line as fit
            x, y = MARGIN, y + LINE + 6
        swatch.set("transform", f"translate({x} {y})")
        _add(swatch, "text", words, x=SWATCH + 5, y=10)
        legend.append(swatch)
        x += needed
    return y + LINE + 2


def _legend(networks: Sequence[Network], compared: bool) -> Iterator[tuple[ET.Element, str]]:
    # A swatch and its words for everything that occurs.
    placed = [unit for network in networks for unit in network.units.values()]
    present = {unit.kind for unit in placed}
    size: dict[str, Any] = {"width": SWATCH, "height": 13}
    for name, kind in KINDS.items():
        if name not in present:
            continue
        swatch, words = ET.Element("g"), kind.words
        fill: dict[str, Any] = {"fill": "none"}
        if any(network.shares for network in networks):
            shares = [percent(network.of_kind.get(name, 0)) for network in networks]
            words += f", {' → '.join(shares)}"
        else:
            fill = {"fill": kind.fill, "fill_opacity": kind.opacity}
        rail = {} if kind.letters else {"x": SWATCH - RAIL, "width": RAIL}
        _add(swatch, "rect", **OUTLINE | size | fill | rail)
        if kind.letters:
            middle = {"x": SWATCH // 2, "y": 9.5, "font_size": 9, "text_anchor": "middle"}
            _add(swatch, "text", kind.letters, **middle)
        yield swatch, words
    for conv in dict.fromkeys(unit.conv for unit in placed if isinstance(unit, units.Residual)):
        swatch = ET.Element("g")
        _add(swatch, "rect", fill="none", **OUTLINE | size | DASHES[conv])
        yield swatch, CONVOLUTIONS[conv]
    swatch, path = ET.Element("g"), "M0 12V4Q0 1 3 1H15Q18 1 18 4V12"
    _add(swatch, "path", d=path, fill="none", stroke="currentColor", **THIN)
    yield swatch, "skip connection"
    for change in CHANGES if compared else ():
        swatch = ET.Element("g")
        _add(swatch, "rect", fill="none", **OUTLINE | size)
        _draw_change(swatch, change, Box("", placed[0], 0, 0, SWATCH, 13))
        yield swatch, change


def _draw_scale(body: ET.Element, y: int, top: float, source: str) -> int:
    y += 6
    scale = _add(body, "g", class_="scale")
    _add(scale, "text", "0 %", x=MARGIN, y=y + 10)
    x = MARGIN + 22
    for step in range(STEPS + 1):
        fill = {"fill": ACCENT, "fill_opacity": round(DEEPEST * step / STEPS, 3)}
        _add(scale, "rect", x=x, y=y, width=22, height=13, **OUTLINE | fill)
        x += 22
    words = f"{100 * top:.0f} %: share of the latency that a box has"
    _add(scale, "text", words + (f" ({source})" if source else ""), x=x + 6, y=y + 10)
    return y + LINE + 2
