"""Members of the front that differ by no more than seeds do."""

import csv
import io
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import create_trial

from archsearch import files
from archsearch.cli import results as shown
from archsearch.metrics.networks import Networks
from archsearch.metrics.registry import METRICS
from archsearch.study import outputs, results, scoring
from archsearch.study.apart import Noise, noise_of, not_told_from, pooled_deviation
from archsearch.study.results import Candidate
from archsearch.study.rundir import RunDir
from archsearch.study.spec import StudySpec
from tests.study.conftest import STUDY

OBJECTIVES = {"val_loss": "minimize", "macs": "minimize"}
FRONT = {0: (0.30, 100), 1: (0.29, 200), 2: (0.20, 300), 3: (0.195, 400)}
"""Quality and cost of four trials, none better in both."""


@pytest.fixture
def study() -> optuna.Study:
    study = optuna.create_study(directions=list(OBJECTIVES.values()))
    study.set_metric_names(list(OBJECTIVES))
    for number, (loss, macs) in FRONT.items():
        attrs = {"key": f"net{number}-0", "digest": f"d{number}", "val_loss": loss, "macs": macs}
        study.add_trial(
            create_trial(
                values=[loss, macs],
                params={"x": number},
                distributions={"x": IntDistribution(0, 9)},
                user_attrs=attrs,
            )
        )
    return study


def _store(run: RunDir, network: int, losses: list[float], **conditions: Any) -> None:
    """Put trainings of a network into the store, a seed each."""
    for seed, loss in enumerate(losses):
        key = {
            "proxy": f"proxy{network}",
            "recipe": {"samples": 32},
            "seed": [0, seed],
        } | conditions
        name = "-".join([f"net{network}", str(seed), *map(str, conditions.values())])
        files.write_json(
            run.scores / f"{name}.json",
            {"schema": 1, "key": key, "outcome": "complete", "scores": {"val_loss": loss}},
        )


def spec_of(objectives: dict[str, Any]) -> StudySpec:
    """The small study, searching for these."""
    return StudySpec.model_validate(STUDY | {"objectives": objectives})


def _sample(run: RunDir, name: str, spec: StudySpec, distance: float) -> None:
    """Put a sampled score beside a training."""
    scoring.add(
        run.sampled(name),
        name,
        spec,
        None,
        Networks(spec.metrics),
        {"kid_effnet": {"kid_effnet": distance}},
    )


def _member(number: int, loss: float) -> Candidate:
    return Candidate(number, None, "", "", {}, {"val_loss": loss})


def test_pools_deviations_within_networks(run: RunDir, study: optuna.Study) -> None:
    first, second = [0.30, 0.31, 0.29], [0.20, 0.22]
    _store(run, 0, first)
    _store(run, 2, second)
    _store(run, 1, [0.29])
    noise = noise_of(run, study, spec_of(OBJECTIVES))
    assert noise
    expected = math.sqrt((2 * statistics.variance(first) + statistics.variance(second)) / 3)
    assert noise.seed_deviation == pytest.approx(expected)
    assert (noise.score, noise.repetitions, noise.networks) == ("val_loss", 5, 2)
    assert noise.least_difference == pytest.approx(1.96 * math.sqrt(2) * expected)
    assert noise.margin == pytest.approx(1.96 * expected)


def test_other_conditions_do_not_count(run: RunDir, study: optuna.Study) -> None:
    _store(run, 0, [0.30, 0.31])
    alone = noise_of(run, study, spec_of(OBJECTIVES))
    _store(run, 2, [0.90, 0.10], data="another")
    (run.scores / "net0-0.sampled.json").write_text(json.dumps({"schema": 2, "scores": {}}))
    assert noise_of(run, study, spec_of(OBJECTIVES)) == alone
    key = {"proxy": "proxy0", "recipe": {"samples": 32}, "seed": [0, 2]}
    files.write_json(
        run.scores / "net0-2.json", {"schema": 1, "key": key, "outcome": "diverged", "scores": {}}
    )
    assert noise_of(run, study, spec_of(OBJECTIVES)) == alone


def test_a_sampled_quality_is_found_beside_its_training(run: RunDir, study: optuna.Study) -> None:
    _store(run, 0, [0.30, 0.31])
    spec = spec_of({"kid_effnet": "minimize", "macs": "minimize"})
    for seed, distance in enumerate((1.0, 1.2)):
        _sample(run, f"net0-{seed}", spec, distance)
    noise = noise_of(run, study, spec)
    assert noise == Noise("kid_effnet", pytest.approx(statistics.stdev([1.0, 1.2])), 2, 1)  # type: ignore[arg-type]


def test_sampled_scores_of_another_version_are_not_mixed_in(
    run: RunDir, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    _store(run, 0, [0.30, 0.31])
    spec = spec_of({"kid_effnet": "minimize", "macs": "minimize"})
    _sample(run, "net0-0", spec, 1.0)
    with monkeypatch.context() as patch:
        patch.setitem(METRICS, "kid_effnet", replace(METRICS["kid_effnet"], version=1000))
        _sample(run, "net0-1", spec, 9.0)
    assert noise_of(run, study, spec) == Noise("kid_effnet", None, 0, 0)


def test_one_seed_each_leaves_it_unknown(run: RunDir, study: optuna.Study) -> None:
    for network in FRONT:
        _store(run, network, [FRONT[network][0]])
    noise = noise_of(run, study, spec_of(OBJECTIVES))
    assert noise == Noise("val_loss", None, 0, 0)
    assert noise.least_difference is noise.margin is None
    assert not_told_from([_member(0, 0.3), _member(1, 0.3)], noise) == {0: None, 1: None}


def test_without_a_quality_there_is_no_noise(run: RunDir, study: optuna.Study) -> None:
    assert noise_of(run, study, spec_of({"macs": "minimize", "params": "minimize"})) is None
    assert not_told_from([_member(0, 0.3)], None) == {0: None}


def test_says_which_neighbours_are_within_the_noise() -> None:
    noise = Noise("val_loss", 0.01 / (1.96 * math.sqrt(2)), 6, 2)
    members = [_member(4, 0.300), _member(7, 0.2905), _member(2, 0.282), _member(9, 0.20)]
    assert not_told_from(members, noise) == {4: [7], 7: [4, 2], 2: [7], 9: []}


def test_a_sampled_quality_is_compared_too() -> None:
    noise = Noise("kid_effnet", 1.0, 4, 2)
    members = [
        Candidate(n, None, "", "", {}, {}, {"kid_effnet": value})
        for n, value in ((0, 5.0), (1, 7.0), (2, 10.0))
    ]
    assert not_told_from(members, noise) == {0: [1], 1: [0], 2: []}


def test_pooling_needs_two_of_one() -> None:
    assert pooled_deviation([1.0], [2.0]) is None
    assert pooled_deviation([1.0, 3.0], [5.0]) == pytest.approx(math.sqrt(2))


def test_the_front_shows_it_in_csv_and_table(
    run: RunDir,
    study: optuna.Study,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _store(run, 0, [0.30, 0.306])
    noise = noise_of(run, study, spec_of(OBJECTIVES))
    members = [results.candidate(run, trial, run.setting().spec) for trial in results.front(study)]
    same = not_told_from(members, noise)
    rows = list(
        csv.DictReader(
            io.StringIO(
                outputs._csv([outputs._row(member, same[member.number]) for member in members])
            )
        )
    )
    assert [row["not_told_from"] for row in rows] == ["1", "0", "3", "2"]
    (unknown,) = csv.DictReader(io.StringIO(outputs._csv([outputs._row(members[0], None)])))
    assert unknown["not_told_from"] == "unknown"

    setting = run.setting()
    shown.print_front(run, setting, study)
    printed = capsys.readouterr().out
    assert "same as" in printed
    line = next(line for line in printed.splitlines() if "d1" in line)
    assert "#1" in line
    assert "#0" in line
    assert "seed deviation 0.0042, from 2 trainings of 1 network)" in printed
    (run.scores / "net0-1.json").unlink()
    shown.print_front(run, setting, study)
    printed = capsys.readouterr().out
    assert "no network was trained with a second seed" in printed
    assert "same as" not in printed


def test_plots_carry_bars(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from archsearch.report import figures

    kept: list[Any] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure.axes[0]))
    known = [
        Candidate(n, None, "", "", {}, {"val_loss": loss, "macs": macs})
        for n, (loss, macs) in FRONT.items()
    ]
    for noise in (Noise("val_loss", 0.01, 4, 2), Noise("val_loss", None, 0, 0)):
        figures.draw_scatter(known, run.setting(), "val_loss", "macs", tmp_path / "plot.png", noise)
    with_bars, without = kept
    legends = [[text.get_text() for text in axes.figure.legends[0].get_texts()] for axes in kept]
    (bars,) = with_bars.containers
    spans = [(segment[0][1], segment[1][1]) for segment in bars.lines[2][0].get_segments()]
    assert spans == [pytest.approx((loss - 0.0196, loss + 0.0196)) for loss, _ in FRONT.values()]
    assert "± 1.96 standard deviations between seeds (0.01)" in legends[0]
    assert not without.containers
    assert "one seed each: spread not known" in legends[1]
