"""The waterfall of an edit: what every step changes, in figures that can be read off."""

from itertools import pairwise
from pathlib import Path

from archsearch.report.costs import Change, _waterfall, draw_waterfall

STEPS = ["fewer blocks", "wider"]
PANELS = {"parameters (M), counted": [860.0, 500.0, 512.5], "ms, predicted": [12.0, 8.0, 8.01]}


def test_each_step_stands_in_a_row_between_the_network_before_and_the_result() -> None:
    params, ms = _waterfall("sd15", STEPS, PANELS, {}, ()).axes
    assert [label.get_text() for label in params.get_yticklabels()] == ["sd15", *STEPS, "result"]
    assert [text.get_text() for text in params.texts] == ["860", "−360", "+12.5", "512"]
    assert [text.get_text() for text in ms.texts] == ["12", "−4.0", "0", "8.01"]
    ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in params.patches]
    assert ends == [(0, 860), (860, 500), (500, 512.5), (0, 512.5)]
    assert all(before[1] == after[0] for before, after in pairwise(ends[:-1]))


def test_what_a_step_changes_of_a_score_is_filled_where_the_interval_leaves_out_zero() -> None:
    changes = [Change(0.012, 0.004, 0.02), Change(-0.001, -0.004, 0.002)]
    axes = _waterfall("sd15", STEPS, PANELS, {"Δ loss": changes}, ()).axes[2]
    points = [line for line in axes.lines if line.get_marker() in ("o", "s", "D")]
    assert [text.get_text() for text in axes.texts] == ["+0.0120\n± 0.0080", "−0.0010\n± 0.0030"]
    assert [point.get_marker() for point in points] == ["s", "o"]
    assert [point.get_markerfacecolor() == "white" for point in points] == [False, True]


def test_a_step_without_a_score_is_said_to_have_none(tmp_path: Path) -> None:
    figure = _waterfall("sd15", STEPS, PANELS, {"Δ loss": [None, Change(0.1, 0.0, 0.2)]}, ())
    assert figure.axes[2].texts[0].get_text() == "–"
    path = tmp_path / "waterfall.svg"
    draw_waterfall("sd15", STEPS, PANELS, path, {"Δ loss": [None, None]}, ["More is worse."])
    assert "More is worse." in path.read_text(encoding="utf-8")
