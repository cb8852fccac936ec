"""Every kind of picture of a run: its numbers are the run's, and what is lacking is said."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from optuna.trial import create_trial
from PIL import Image

import archsearch
from archsearch.cost.price import price
from archsearch.errors import InputError
from archsearch.latency.table import LatencyTable, Whole
from archsearch.report.costs import draw_breakdown, draw_tables
from archsearch.report.figures import KINDS, _captions, draw, draw_all, draw_hypervolume
from archsearch.report.front import _devices, draw_front
from archsearch.report.knobs import draw_effects, draw_importances
from archsearch.report.style import SMALL
from archsearch.study.finish import save_grid
from archsearch.study.proposals import distribution
from archsearch.study.results import Results, ScoredTrial
from archsearch.study.setting import load_setting

from ..conftest import Cli
from ..study.conftest import started, write_small_study, write_small_table

LATENCY = {"val_loss": "minimize", "latency_ms": "minimize"}


def told(folder: Path, trials: int, /, **changes: Any) -> Results:
    """A run of so many finished trials: the wider the inner stage, the less loss."""
    study = write_small_study(folder, search={"trials": 40}, report=[], **changes)
    _, results = started(study, folder / "run")
    points = list(results.setting.space.points())
    for number in range(trials):
        candidate = results.setting.candidate(points[(7 * number) % len(points)])
        costs = candidate.costs
        attrs = costs.scores | {"digest": candidate.network.digest, "train_seconds": 2.0}
        if costs.provenance:
            attrs |= {"provenance": costs.provenance, "latency_note": costs.note}
        for name in results.objectives:
            attrs.setdefault(name, 0.5 - candidate.point["inner"] / 1000 + number / 1e4)
        results.trials.study.add_trial(
            create_trial(
                values=[attrs[name] for name in results.objectives],
                params=results.setting.space.labels(candidate.point),
                distributions={
                    name: distribution(each)
                    for name, each in results.setting.space.dimensions.items()
                },
                user_attrs=attrs,
            )
        )
    return results


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A run of twelve trials to which nothing is lacking: a table with whole networks in it, one of
    which its correction was fitted on; pictures of the front. No test changes it.
    """
    folder = tmp_path_factory.mktemp("whole")
    path = write_small_table(folder, "laptop", ms=2.0)
    table = LatencyTable.load(path)
    lines = [(30.0, 31.0), (40.0, 38.0), (50.0, 50.5), (60.0, 61.0)]
    whole = [
        Whole(config=f"{number:016x}", measured=measured, predicted=predicted)
        for number, (measured, predicted) in enumerate(lines)
    ]
    correction = table.correction.model_copy(update={"fitted_on": [whole[0].config]})
    table.replace(whole=whole, correction=correction).save(path)
    deployment, limits = {"tables": [str(path)]}, {"params": 5e8}
    found = told(folder, 12, objectives=LATENCY, deployment=deployment, limits=limits)
    for member in found.front():
        sheet = found.run.trial(member.number) / "samples.png"
        sheet.parent.mkdir(parents=True)
        Image.new("RGB", (64, 16), (10 * member.number, 0, 0)).save(sheet)
    return found


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A run of two trials, without a table. No test changes it."""
    return told(tmp_path_factory.mktemp("short"), 2)


def points(figure: Figure, label: str) -> list[tuple[float, float]]:
    """Of the scatter with this label."""
    (found,) = (c for c in figure.axes[0].collections if c.get_label() == label)
    assert isinstance(found, PathCollection)
    return sorted((float(x), float(y)) for x, y in np.asarray(found.get_offsets()))


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def title(figure: Figure) -> str:
    return figure.get_suptitle()


# What is drawn is what was found


def test_the_front_is_drawn_with_what_is_believed_of_it(results: Results) -> None:
    figure = draw_front(results)
    (line,) = (line for line in figure.axes[0].lines if line.get_label() == "front")
    front = [(m.scores["latency_ms"], m.believed["val_loss"][0]) for m in results.front()]
    assert line.get_xydata() == pytest.approx(np.array(front))
    (bars,) = figure.axes[0].containers
    spans = [(a[1], b[1]) for a, b in bars.lines[2][0].get_segments()]
    believed = [member.believed["val_loss"][1:] for member in results.front()]
    assert np.array(sorted(spans)) == pytest.approx(np.array(sorted(believed)))
    measured = points(figure, "one training each (set beside)")
    networks = {member.digest: member for member in results.complete()}
    assert {x for x, _ in measured} == {m.scores["latency_ms"] for m in networks.values()}
    assert len(measured) == 12
    assert title(figure) == "Front of small: val_loss against latency_ms, 12 trials"
    assert "latency of one UNet pass (ms), deployment scale" in figure.axes[0].get_xlabel()
    assert "proxy scale, 32 pictures seen" in figure.axes[0].get_ylabel()


def test_labels_lie_within_the_axes_and_not_over_each_other(results: Results) -> None:
    figure = draw_front(results)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    called = {text.get_text() for text in axes.texts}
    assert called == {member.name for member in results.front()}
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert not figure.legends[0].get_window_extent().overlaps(frame)


def test_a_limit_is_a_line_where_the_points_come_near_it(
    tmp_path: Path,
) -> None:
    most = 7e6  # the largest of the four has 6.57 million
    results = told(tmp_path, 4, limits={"params": most})
    figure = draw_front(results, "params")
    (limit,) = (line for line in figure.axes[0].lines if str(line.get_label()).startswith("limit"))
    assert limit.get_xdata() == pytest.approx([most / 1e6] * 2)
    assert "limit: ≤ 7 M" in legend(figure)


def test_a_limit_far_away_is_told_in_words(results: Results) -> None:
    assert "limit: ≤ 500 M, far from all trials" in legend(draw_front(results, "params"))


def test_every_choice_is_drawn_with_its_effect(results: Results) -> None:
    figure = draw_effects(results)
    axes, beside = figure.axes
    table = results.beliefs().effects(["latency_ms"])
    drawn = [float(each.lines[0].get_xdata()[0]) for each in axes.containers]
    assert drawn == list(table["val_loss"])
    ends = [tuple(each.lines[2][0].get_segments()[0][:, 0]) for each in axes.containers]
    lows, highs = zip(*ends, strict=True)
    assert lows == pytest.approx(list(table["val_loss low"]))
    assert highs == pytest.approx(list(table["val_loss high"]))
    ratios = [float(line.get_xdata()[0]) for line in beside.lines if line.get_marker() == "o"]
    assert ratios == list(table["latency_ms ratio"])
    names = [text.get_text() for text in axes.get_yticklabels()]
    for name, row in zip(names, table.to_dict("records"), strict=True):
        assert name.endswith(f"→ {row['choice']}")
    assert names[0].startswith(f"{table['knob'][0]}: {table['reference'][0]} ")
    told = {text.get_text() for text in axes.get_legend().get_texts()}
    assert told == {"worse by 0.003 at most", *table["val_loss verdict"]}
    assert "← better · worse →" in axes.get_xlabel()


def test_the_growth_of_the_front_is_drawn_over_trials_and_seconds(results: Results) -> None:
    history = results.hypervolume_history()
    over_trials, over_seconds = draw_hypervolume(results).axes
    for axes, column in ((over_trials, "finished"), (over_seconds, "train_seconds")):
        step = axes.lines[0]
        assert list(step.get_xdata()) == list(history[column])
        assert list(step.get_ydata()) == list(history.hypervolume)


def test_the_importance_of_every_knob_is_drawn(results: Results) -> None:
    table = archsearch.Study.open(results.run.path).importances()
    figure = draw_importances(results)
    for axes, objective in zip(figure.axes, table.columns, strict=True):
        assert objective in axes.get_xlabel()
        widths = [bar.get_width() for bar in axes.patches]
        assert widths == pytest.approx(list(table[objective].fillna(0.0)))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(table.index)


def test_bars_of_a_breakdown_add_up_to_the_whole(results: Results) -> None:
    chosen = [3, 5]
    networks = [results.trials.network(number) for number in chosen]
    trials = {member.number: member for member in results.complete()}
    wholes = [
        [trials[number].scores["latency_ms"] for number in chosen],
        [price(network).macs / 1e9 for network in networks],
        [price(network).params / 1e6 for network in networks],
    ]
    figure = draw_breakdown(results, chosen)
    assert len(figure.axes) == 6
    for axes, whole in zip(figure.axes, [w for w in wholes for _ in range(2)], strict=True):
        sums = [0.0, 0.0]
        for group in axes.containers:
            for place, bar in enumerate(group):
                sums[place] += bar.get_width()
        assert sums == pytest.approx(whole)
    by_stage, by_kind = figure.axes[:2]
    assert [text.get_text() for text in by_stage.get_yticklabels()] == ["#3", "#5"]
    stages = [text.get_text() for text in by_stage.get_legend().get_texts()]
    assert stages == ["stage 0", "stage 1", "input, time, output"]
    assert "residual blocks" in [text.get_text() for text in by_kind.get_legend().get_texts()]


def test_a_table_is_drawn_with_its_networks_and_the_measured_front(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = results.setting.devices[0]
    assert isinstance(device.table, LatencyTable)
    figure = draw_tables(results)
    fitted, *unseen = [(line.measured, line.predicted) for line in device.table.whole]
    assert points(figure, "random networks, unseen") == unseen
    assert points(figure, "the correction was fitted on these") == [fitted]
    line = {"predicted": 45.0, "measured": 44.0, "p10": 43.0, "p90": 47.0}
    measured = [replace(results.front()[0], measured={device.name: line})]
    monkeypatch.setattr(results, "shown", lambda: measured)
    figure = draw_tables(results)
    assert points(figure, "front and presets of the run") == [(44.0, 45.0)]
    assert "random networks, unseen" in legend(figure)


def test_captions_stand_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "samples.json").write_text(
        '{"schema": 1, "captions": ["a", "b", "c"], "columns": 2}'
    )
    assert _captions(tmp_path / "samples.png") == ["row 1: a · b", "row 2: c"]
    assert _captions(tmp_path / "nothing.png") == []


def test_a_latency_that_is_an_estimate_is_drawn_as_one(tmp_path: Path) -> None:
    gappy = str(write_small_table(tmp_path, "gappy", leave_out=9))
    deployment = {"tables": [gappy], "on_missing": "predict"}
    results = told(tmp_path, 3, objectives=LATENCY, deployment=deployment)
    figure = draw_front(results)
    assert "≈ estimated or published latency" in legend(figure)
    assert "predicted from measured units, some of them estimated" in figure.axes[0].get_xlabel()
    setting = load_setting(Path(__file__).parents[2] / "studies" / "quickstart.yaml")
    plain = ScoredTrial(0, None, "k", "d", {}, {"latency_ms": 200.0})
    assert _devices(setting, "latency_ms", [plain]).endswith("predicted from measured units")


# Pictures of other things


def test_a_grid_holds_every_picture_in_its_place(tmp_path: Path) -> None:
    pictures = torch.zeros(10, 3, 4, 4, dtype=torch.uint8)
    pictures[9] = 200
    save_grid(pictures, tmp_path / "grid.png", scale=2)
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.size == (8 * 8, 2 * 8)
        assert sheet.getpixel((8 + 1, 8 + 1)) == (200, 200, 200)
        assert sheet.getpixel((1, 1)) == (0, 0, 0)
        assert sheet.getpixel((2 * 8 + 1, 8 + 1)) == (255, 255, 255)


# Files


def test_one_run_gives_the_same_bytes(results: Results, tmp_path: Path) -> None:
    first, second = (draw(results, "front", tmp_path / f"{n}.svg").read_text() for n in range(2))
    assert first == second
    # Text stays text, and can be searched.
    assert "Front of small: val_loss against latency_ms" in first


@pytest.mark.slow
def test_everything_that_a_run_allows_is_drawn(results: Results) -> None:
    plots = draw_all(results)
    assert plots.left_out == {}
    assert [path.name for path in plots.written] == [
        "val_loss-latency_ms.png",
        "val_loss-macs.png",
        "val_loss-params.png",
        "effects.png",
        "hypervolume.png",
        "importances.png",
        "breakdown.png",
        "table.png",
        "samples.png",
    ]
    for path in plots.written:
        with Image.open(path) as picture:
            assert picture.width in (1080, 1350)  # 5.4 or 6.75 inches


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_smaller_than_seven_points(results: Results, kind: str) -> None:
    figure = KINDS[kind].draw(results)
    figure.draw_without_rendering()
    texts = [each for each in figure.findobj(Text) if isinstance(each, Text) and each.get_text()]
    assert texts
    assert min(text.get_fontsize() for text in texts) >= SMALL


# What is lacking


def test_a_run_with_one_trial_draws_what_it_can_and_says_what_it_cannot(
    tmp_path: Path, cli: Cli
) -> None:
    run = told(tmp_path, 1).run.path
    code, out, _ = cli("plot", run)
    assert code == 0
    names = ["val_loss-macs.png", "val_loss-params.png", "effects.png", "breakdown.png"]
    drawn, left_out = out.splitlines()[:4], out.splitlines()[4:]
    assert drawn == [str(run / "plots" / name) for name in names]
    for line, kind, words in zip(
        left_out,
        ("hypervolume", "importances", "table", "samples"),
        (
            "needs two trials with scores; there is 1",
            "importances need 10 trials",
            "no latency table of measured units",
            "has no sample pictures",
        ),
        strict=True,
    ):
        assert line.startswith(f"Left out: {kind}. ")
        assert words in line


@pytest.mark.slow
def test_a_study_of_costs_draws_one_against_the_other(tmp_path: Path) -> None:
    results = told(tmp_path, 3, objectives={"macs": "minimize", "params": "minimize"})
    plots = draw_all(results)
    assert "params-macs.png" in [path.name for path in plots.written]
    assert "no quality among its objectives (macs, params)" in plots.left_out["effects"]


@pytest.mark.slow
def test_one_objective_has_a_front_against_any_cost(tmp_path: Path) -> None:
    results = told(tmp_path, 3, objectives={"val_loss": "minimize"})
    names = [path.name for path in draw_all(results).written]
    assert names[:3] == ["val_loss-macs.png", "val_loss-params.png", "effects.png"]
    assert "hypervolume.png" in names


def test_a_cost_alone_has_no_front(tmp_path: Path) -> None:
    results = told(tmp_path, 3, objectives={"macs": "minimize"})
    with pytest.raises(InputError, match="macs is the study's only objective"):
        draw(results, "front")


def test_a_score_that_is_no_number_is_left_out_and_counted(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = results.complete()
    for member, distance in zip(complete, [1.0, 2.0, math.nan], strict=False):
        member.extra["kid_effnet"] = distance
    monkeypatch.setattr(results, "complete", lambda: complete)
    figure = draw_front(results, "macs", "kid_effnet")
    assert "2 trials; 10 without both scores left out" in title(figure)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kind", "fronts"], "no such kind of picture; allowed are front, effects,"),
        (["--kind", "front", "--output", "x.gif"], "x.gif: must end in .png, .svg or .pdf"),
        (["--kind", "front", "--cost", "mac"], "--cost mac: the run knows no such cost"),
        (["--kind", "front", "--quality", "fid"], "--quality fid: the run knows no such quality"),
        (["--kind", "front", "--trial", "1"], "--trial: belongs to --kind breakdown"),
        (["--kind", "breakdown", "--trial", "99"], "no architecture of trial 99"),
        (["--kind", "effects", "--cost", "time"], "--cost time: is no cost"),
        (["--kind", "samples"], "has no sample pictures"),
        (["--output", "x.png"], "need --kind"),
        (["--cost", "macs"], "need --kind"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(
    short: Results, cli: Cli, options: list[str], words: str
) -> None:
    code, _, err = cli("plot", short.run.path, *options)
    assert code == 2
    assert words in err.replace("\n", " ")


def test_without_a_finished_trial_there_is_nothing_to_draw(tmp_path: Path, cli: Cli) -> None:
    results = told(tmp_path, 0)
    for kind in KINDS:
        with pytest.raises(InputError):
            draw(results, kind)
    code, _, err = cli("plot", results.run.path)
    assert (code, "has no finished trial yet" in err) == (2, True)


def test_the_command_draws_one_kind_into_a_file(short: Results, cli: Cli, tmp_path: Path) -> None:
    run, path = short.run.path, tmp_path / "front.svg"
    assert cli("plot", run, "--kind", "front", "--cost", "params", "--output", path) == (
        0,
        f"{path}\n",
        "",
    )
    assert "val_loss against params" in path.read_text()
