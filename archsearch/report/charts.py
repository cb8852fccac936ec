"""Charts of a run in Altair: with their data for notebooks (``Study.plot_front()`` and others), and
as templates that the page's script fills with data.

Colours and sizes are named styles, which the page's script sets for light and dark grounds.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from archsearch.errors import InputError, import_package, nearest
from archsearch.report.contents import effects_of, trials_of
from archsearch.study.importances import importances

if TYPE_CHECKING:
    from archsearch.run import Run

Rows = Sequence[Mapping[str, Any]]
Chart = Any
"""An Altair chart; Altair is an extra, and typed only where it is installed."""

BLUE, RED, GREEN, GREY, INK = "#0b6e99", "#b8430f", "#3f7d20", "#8b9498", "#1d2226"
GROUND = "#ffffff"
STAR = (
    "M0,-1L0.235,-0.324L0.951,-0.309L0.38,0.124L0.588,0.809L0,0.4L-0.588,0.809L-0.38,0.124"
    "L-0.951,-0.309L-0.235,-0.324Z"
)
STYLES: dict[str, dict[str, Any]] = {
    "line": {"color": BLUE, "strokeWidth": 1.5, "opacity": 0.6},
    "interval": {"color": BLUE, "strokeWidth": 1.5, "opacity": 0.6},
    "raw": {"color": GREY, "shape": "cross", "size": 18, "opacity": 0.8, "filled": True},
    "dominated": {"color": GREY, "size": 36, "opacity": 0.7, "filled": True},
    "early": {"color": GREY, "size": 36, "opacity": 0.9, "filled": False, "strokeWidth": 1.2},
    "member": {"color": BLUE, "size": 80, "opacity": 1, "filled": True},
    "preset": {"color": RED, "size": 110, "opacity": 1, "filled": True, "shape": STAR},
    "limit": {"color": RED, "strokeDash": [5, 4], "opacity": 0.9},
    "names": {"fontSize": 12, "dx": 9, "dy": -9, "align": "left"},
    "names_left": {"fontSize": 12, "dx": -9, "dy": -9, "align": "right"},
    "bar": {"color": BLUE},
    "zero": {"color": GREY},
    "outside": {"color": GREY, "size": 26, "opacity": 0.25, "filled": True},
    "others": {"color": GREY, "strokeWidth": 1, "opacity": 0.3},
    "members": {"color": BLUE, "strokeWidth": 1.6, "opacity": 0.85},
    "axis": {"color": GREY, "opacity": 0.6},
    "choice": {"color": INK, "fontSize": 11, "dx": 5, "align": "left"},
    "halo": {"fontSize": 11, "dx": 5, "align": "left", "stroke": GROUND, "strokeWidth": 4},
}
PALETTE = {
    BLUE: "accent", RED: "preset", GREEN: "good", GREY: "grey", INK: "ink", GROUND: "card"
}  # fmt: skip
"""Which of the page's own colours stands for each of these."""
VERDICTS = {"better": GREEN, "no worse": BLUE, "worse": RED}
"""Colours of verdicts; of the others nothing can be said, and they are grey."""


def _altair() -> Any:
    """Altair.

    Raises:
        InputError: It is not installed; the message names the extra.
    """
    return import_package("altair", extra="report")


# In notebooks


def front(study: "Run", x: str | None = None, y: str | None = None) -> Chart:
    """The front in two scores: what is believed with its interval of 95 %, and what one training
    measured.

    Args:
        study: A run.
        x: A score; by default the study's first cost.
        y: A score; by default the study's first quality.

    Raises:
        InputError: Altair is not installed, a score is unknown, or no trial has scores.
    """
    found = trials_of(study.results)
    scores = {score["name"]: score for score in found["scores"]}
    trials = [trial for trial in found["trials"] if trial["outcome"] == "complete"]
    if not trials:
        raise InputError(f"{study.folder}: has no finished trial yet.")
    names = [*scores, *scores]
    x = x or study.results.cost or names[1]
    y = y or study.results.quality or names[0]
    for name in (x, y):
        if name not in scores:
            raise InputError(
                f"plot_front: no trial has the score '{name}'.{nearest(name, scores)} Known are: "
                f"{', '.join(scores)}."
            )
    rows = _front_rows(trials, scores[x], scores[y])
    chart = _front_layers(rows, scores[x]["axis"], scores[y]["axis"])
    return _with_style(chart.properties(width=560, height=360, title=f"{study.name}: the front"))


def effects(study: "Run", quality: str | None = None) -> Chart:
    """What each choice of each knob does to a quality, with its interval of 95 %.

    Raises:
        InputError: Altair is not installed, or there is no such quality.
    """
    alt, found = _altair(), effects_of(study.results)
    known = list(found[0]["qualities"]) if found else []
    quality = quality or (known[0] if known else None)
    if quality not in known:
        raise InputError(
            f"plot_effects: nothing is known of {quality or 'any quality'} yet. Known are: "
            f"{', '.join(known) or 'none'}."
        )
    rows = [
        {
            "choice": f"{row['knob']}: {row['choice']} instead of {row['reference']}",
            **row["qualities"][quality],
        }
        for row in found
    ]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        y=alt.Y("choice:N", sort=None, title=None, axis=alt.Axis(labelLimit=420))
    )
    colour = alt.Color(
        "verdict:N",
        scale=alt.Scale(
            domain=[*VERDICTS, "not known", "not judged"], range=[*VERDICTS.values(), GREY, GREY]
        ),
    )
    title = f"difference in {quality}, with its interval of 95 %"
    chart = alt.layer(
        alt.Chart(alt.InlineData(values=[{"zero": 0}]))
        .mark_rule(style="zero")
        .encode(x=alt.X("zero:Q", title=title)),
        base.mark_rule(strokeWidth=1.5).encode(
            x=alt.X("low:Q", title=title), x2="high:Q", color=colour
        ),
        base.mark_point(filled=True, size=55, opacity=1).encode(x="difference:Q", color=colour),
    )
    return _with_style(chart.properties(width=420, title=f"{study.name}: what the choices do"))


def hypervolume(study: "Run") -> Chart:
    """How the front has grown: the share of the objectives' box that it dominates, over finished
    trials and over seconds of training.

    Raises:
        InputError: Altair is not installed, or no trial has scores.
    """
    alt = _altair()
    history = study.results.hypervolume_history()
    if not len(history):
        raise InputError(f"{study.folder}: has no finished trial yet.")
    rows = [{str(name): value for name, value in row.items()} for row in history.to_dict("records")]
    charts = [
        _growth(rows, column, title).properties(width=280, height=220)
        for column, title in GROWTH.items()
        if history[column].iloc[-1] > 0
    ]
    return _with_style(alt.hconcat(*charts).properties(title=f"{study.name}: hypervolume"))


def knob_importances(study: "Run") -> Chart:
    """How much of each objective's variance goes with each knob, over the finished trials.

    Raises:
        InputError: Altair is not installed, or fewer than ten trials have scores.
    """
    alt, table = _altair(), importances(study.results.trials)
    rows = [
        {"knob": knob, "objective": name, "share": float(share)}
        for name in table.columns
        for knob, share in table[name].dropna().items()
    ]
    chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_bar(style="bar")
        .encode(
            y=alt.Y("knob:N", sort=list(table.index), title=None),
            x=alt.X("share:Q", title="share of its variance"),
            column=alt.Column("objective:N", sort=list(table.columns), title=None),
        )
    )
    return _with_style(chart.properties(width=240, title=f"{study.name}: importances of knobs"))


def _with_style(chart: Chart) -> Chart:
    """The styles of a light ground, for a chart that stands by itself."""
    return chart.configure(style=STYLES).configure_view(stroke=None).configure_title(anchor="start")


# For the page


def templates() -> dict[str, Any]:
    """The page's charts as Vega-Lite, without data, titles and ranges: its script fills them in.

    Raises:
        InputError: Altair is not installed.
    """
    charts = {
        "front": _front_layers(None, "", ""),
        "parallel": _parallel_layers(),
        "runs": _run_layers(),
        "steps": _step_layers(),
        **{f"growth_{column}": _growth(None, column, title) for column, title in GROWTH.items()},
    }
    return {
        name: chart.properties(width="container").to_dict(validate=True)
        for name, chart in charts.items()
    }


GROWTH = {"finished": "finished trials", "train_seconds": "seconds of training behind them"}


def _source(name: str, rows: Mapping[str, Rows] | None) -> Any:
    """The data of a layer: given ones, or those that the script fills in under ``name``."""
    alt = _altair()
    if rows is None:
        return alt.NamedData(name=name)
    return alt.InlineData(values=[dict(row) for row in rows.get(name, ())])


def _front_layers(rows: Mapping[str, Rows] | None, x_title: str, y_title: str) -> Chart:
    """Layers of the front, the lowest first. ``marks`` are what the page's reader has chosen."""
    alt = _altair()
    x = alt.X("x:Q", title=x_title, scale=alt.Scale(zero=False))
    y = alt.Y("y:Q", title=y_title, scale=alt.Scale(zero=False))
    tooltip = alt.Undefined if rows is None else ["name:N", "x:Q", "y:Q", "low:Q", "high:Q"]

    def chart(name: str) -> Chart:
        return alt.Chart(_source(name, rows)).encode(x=x, y=y)

    def points(name: str) -> Chart:
        return chart(name).mark_point(style=name).encode(tooltip=tooltip)

    layers = [
        alt.Chart(_source("limits_x", rows)).mark_rule(style="limit").encode(x=x),
        alt.Chart(_source("limits_y", rows)).mark_rule(style="limit").encode(y=y),
        chart("line").mark_line(style="line", interpolate="step-after"),
        chart("interval").mark_rule(style="interval").encode(y=alt.Y("low:Q"), y2="high:Q"),
        points("outside"),
        points("raw"),
        points("early"),
        points("dominated"),
        points("member"),
        points("preset"),
        *(
            chart(name)
            .mark_text(style=name)
            .encode(text="text:N", color=alt.Color("colour:N", scale=None))
            for name in ("names", "names_left")
        ),
    ]
    if rows is None:
        layers += _marks(alt, x, y)
    return alt.layer(*layers)


def _marks(alt: Any, x: Any, y: Any) -> list[Chart]:
    """Rings around what the reader looks at or has pinned, with the letters of the pins."""
    chart = alt.Chart(alt.NamedData(name="marks")).encode(
        x=x, y=y, color=alt.Color("colour:N", scale=None)
    )
    return [
        chart.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q"),
        chart.mark_point(size=240, strokeWidth=2.5, filled=False, opacity=1),
        chart.mark_text(fontSize=13, fontWeight="bold", dx=-15, dy=13).encode(text="letter:N"),
    ]


def _front_rows(
    trials: Rows, across: Mapping[str, Any], up: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Trials by the layer that they are drawn in; the line is the front of these two scores."""
    kinds = ("interval", "raw", "early", "dominated", "member", "preset", "names", "line")
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    for trial in trials:
        place = {key: _value(trial, score) for key, score in (("x", across), ("y", up))}
        if None in place.values():
            continue
        ends = trial["believed"].get(up["name"])
        row = {**place, "name": trial["name"]}
        if ends:
            row |= {"low": ends[1] / up["factor"], "high": ends[2] / up["factor"]}
        kind = "member" if trial["front"] else "dominated" if trial["judged"] else "early"
        rows["preset" if trial["preset"] else kind].append(row)
        if trial["front"] or trial["preset"]:
            shade = RED if trial["preset"] else INK
            rows["names"].append({**place, "text": trial["name"], "colour": shade})
        if ends and (trial["front"] or trial["preset"]):
            rows["interval"].append(row)
            measured = trial["raw"].get(up["name"], []) if trial["judged"] else []
            rows["raw"] += [{**row, "y": value / up["factor"]} for value in measured]
        if trial["judged"]:
            rows["line"].append(row)
    ways = [1 if score["direction"] == "minimize" else -1 for score in (across, up)]
    best = float("inf")
    line = []
    for row in sorted(rows["line"], key=lambda row: (ways[0] * row["x"], ways[1] * row["y"])):
        if ways[1] * row["y"] < best:
            best = ways[1] * row["y"]
            line.append(row)
    return rows | {"line": line}


def _value(trial: Mapping[str, Any], score: Mapping[str, Any]) -> float | None:
    believed = trial["believed"].get(score["name"])
    value = believed[0] if believed else trial["scores"].get(score["name"])
    return None if value is None else value / score["factor"]


def _growth(rows: Rows | None, column: str, title: str) -> Chart:
    alt = _altair()
    data = _source("history", None if rows is None else {"history": rows})
    chart = alt.Chart(data).encode(
        x=alt.X(f"{column}:Q", title=title),
        y=alt.Y("hypervolume:Q", title="hypervolume", scale=alt.Scale(domainMin=0)),
    )
    return alt.layer(
        chart.mark_line(style="line", interpolate="step-after"),
        chart.mark_point(style="bar", filled=True, size=18, opacity=1),
    )


def _parallel_layers() -> Chart:
    """A line a network over the knobs, the best value of an axis lowest."""
    alt = _altair()
    x = alt.X("axis:N", sort=None, title=None, axis=alt.Axis(orient="top", labelAngle=-30))
    whole = {"axis": None, "scale": alt.Scale(domain=[-0.06, 1.06])}
    y = alt.Y("at:Q", **whole)
    order = alt.Order("position:Q")

    def lines(name: str) -> Chart:
        return (
            alt.Chart(alt.NamedData(name=name))
            .mark_line(style=name)
            .encode(x=x, y=y, detail="trial:N", order=order)
        )

    marks = alt.Chart(alt.NamedData(name="marks"))
    labels = alt.Chart(alt.NamedData(name="labels")).encode(x=x, y=y)
    return alt.layer(
        labels.mark_rule(style="axis").encode(y=alt.Y("zero:Q", **whole), y2="one:Q"),
        lines("others"),
        lines("members"),
        marks.mark_line(strokeWidth=3, opacity=1).encode(
            x=x, y=y, detail="trial:N", order=order, color=alt.Color("colour:N", scale=None)
        ),
        labels.mark_text(style="halo").encode(text="text:N"),
        labels.mark_text(style="choice").encode(text="text:N"),
    )


def _run_layers() -> Chart:
    """The fronts of several runs."""
    alt = _altair()
    colour = alt.Color("run:N", title=None, legend=alt.Legend(orient="top", labelLimit=300))
    shape = alt.Shape("run:N", title=None, legend=None)

    def chart(name: str) -> Chart:
        return alt.Chart(alt.NamedData(name=name)).encode(
            x=alt.X("x:Q", scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", scale=alt.Scale(zero=False)),
            color=colour,
        )

    return alt.layer(
        chart("points").mark_point(filled=True, opacity=0.35, size=30).encode(shape=shape),
        chart("fronts").mark_line(interpolate="step-after", strokeWidth=2),
        chart("fronts").mark_point(filled=True, opacity=1, size=70).encode(shape=shape),
    )


def _step_layers() -> Chart:
    """Quality over the latency of a picture: a line a network, a point a number of steps."""
    alt = _altair()
    legend = {"title": None, "labelLimit": 300, "columns": 6}
    names = alt.Legend(symbolType="square", orient="top", **legend)
    chart = alt.Chart(alt.NamedData(name="steps")).encode(
        x=alt.X("x:Q"),
        y=alt.Y("y:Q"),
        color=alt.Color("network:N", sort=None, legend=names),
    )
    return alt.layer(
        chart.mark_line(strokeWidth=1.6).encode(
            strokeDash=alt.StrokeDash("how:N", sort=None, legend=None)
        ),
        chart.mark_point(filled=True, size=60, opacity=1).encode(
            shape=alt.Shape("how:N", sort=None, legend=alt.Legend(orient="bottom", **legend))
        ),
        chart.mark_text(fontSize=11, dy=-10).encode(text="steps:N"),
    )
