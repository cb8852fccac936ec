"""Networks × seeds × budgets."""

from dataclasses import replace
from pathlib import Path

import pytest

from archsearch.data.prepare import Prepared
from archsearch.diffusion import quantise, trainer
from archsearch.study import grid_worker, validation
from archsearch.study.grid import Cell, Grid
from archsearch.study.rundir import RunDir
from archsearch.study.scoring import Scorer
from archsearch.unet.model import UNet


@pytest.fixture
def cell(scorer: Scorer) -> Cell:
    return Cell("base", scorer.setting.space.base, 0, (1, 3))


def test_a_cell_has_a_score_for_each_budget_the_studys_own_first(
    run: RunDir, scorer: Scorer, cell: Cell
) -> None:
    grid = Grid(run, (cell,))
    grid.work(scorer)
    scores = grid.scores(scorer, cell)
    assert list(scores) == [1, 3]
    assert grid.is_done(scorer, cell)
    assert (
        scores[1]["val_loss"] == scorer.score(scorer.setting.proxy(cell.config)).scores["val_loss"]
    )
    assert scores[3]["val_loss"] < scores[1]["val_loss"]


def test_a_longer_budget_asked_for_later_or_a_shorter_one_gives_the_same(
    run: RunDir, scorer: Scorer, cell: Cell
) -> None:
    at_once = Grid(run, (cell,))
    at_once.work(scorer)
    expected = at_once.scores(scorer, cell)
    for path in (run.path / "grid").iterdir():
        path.unlink()
    for budgets in ((3,), (1,)):
        part = Cell(cell.name, cell.config, cell.seed, budgets)
        Grid(run, (part,)).work(scorer)
    found = at_once.scores(scorer, cell)
    assert {budget: of["val_loss"] for budget, of in found.items()} == {
        budget: of["val_loss"] for budget, of in expected.items()
    }


def test_what_is_known_is_not_trained_again(
    run: RunDir, scorer: Scorer, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    Grid(run, (cell,)).work(scorer)
    monkeypatch.setattr(trainer.Trainer, "run", lambda *_: pytest.fail("trained again"))
    Grid(run, (cell,)).work(scorer)


def test_a_cell_that_diverges_says_so_and_is_left(
    run: RunDir, scorer: Scorer, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object) -> bool:
        raise trainer.DivergedError("the training diverged at sample 8: loss nan")

    monkeypatch.setattr(trainer.Trainer, "run", diverge)
    grid = Grid(run, (cell,))
    grid.work(scorer)
    assert grid.is_done(scorer, cell)
    assert grid.scores(scorer, cell) == {}


def test_a_capped_training_ends_its_cell_and_is_no_score(
    run: RunDir, scorer: Scorer, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.Trainer, "run", lambda self, samples: False)
    grid = Grid(run, (cell,))
    grid.work(scorer)
    assert grid.is_done(scorer, cell)
    assert grid.scores(scorer, cell) == {}
    assert "capped at 0 samples by proxy.max_seconds" in grid.path(scorer, cell).read_text()


def test_a_cell_without_memory_is_left_for_another_time(
    run: RunDir,
    scorer: Scorer,
    cell: Cell,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> bool:
        raise trainer.TrainingMemoryError("memory ran out at sample 0")

    grid = Grid(run, (cell,))
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "run", fail)
        grid.work(scorer)
    assert "base, seed 0: left out, memory ran out" in capsys.readouterr().err
    assert not grid.is_done(scorer, cell)
    grid.work(scorer)
    assert grid.is_done(scorer, cell)


def test_a_loss_that_is_no_number_ends_a_cell(
    run: RunDir, scorer: Scorer, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def averaged(self: trainer.Trainer) -> object:
        model = UNet(self.config)
        model.input.weight.data.fill_(float("nan"))
        return model

    monkeypatch.setattr(trainer.Trainer, "averaged", averaged)
    grid = Grid(run, (cell,))
    grid.work(scorer)
    assert grid.is_done(scorer, cell)
    assert "the held-out loss is nan" in grid.path(scorer, cell).read_text()


def test_further_scores_are_added_to_those_that_are_known(
    run: RunDir, scorer: Scorer, cell: Cell
) -> None:
    for names in (("kid_effnet",), ("val_loss_int8",)):
        asked = Cell(cell.name, cell.config, 0, (1,), names)
        Grid(run, (asked,)).work(scorer)
    both = Cell(cell.name, cell.config, 0, (1,), ("kid_effnet", "val_loss_int8"))
    assert Grid(run, (both,)).is_done(scorer, both)
    assert {"kid_effnet", "val_loss_int8"} <= Grid(run, (both,)).scores(scorer, both)[1].keys()


def test_a_further_score_of_a_network_that_is_kept_needs_no_training(
    run: RunDir, scorer: Scorer, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Cell(cell.name, cell.config, 0, (1,), keep=True)
    Grid(run, (kept,)).work(scorer)
    monkeypatch.setattr(trainer.Trainer, "run", lambda *_: pytest.fail("trained again"))
    further = replace(kept, sampled=("val_loss_int8",))
    Grid(run, (further,)).work(scorer)
    assert "val_loss_int8" in Grid(run, (further,)).scores(scorer, further)[1]


def test_a_score_of_kept_weights_is_that_of_the_training(
    run: RunDir, scorer: Scorer, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Cell(cell.name, cell.config, 0, (1,), ("val_loss_int8",), keep=True)
    grid = Grid(run, (asked,))
    grid.work(scorer)
    at_once = grid.scores(scorer, asked)[1]["val_loss_int8"]
    for file in (run.path / "grid").glob("*.sampled.json"):
        file.unlink()
    monkeypatch.setattr(trainer.Trainer, "run", lambda *_: pytest.fail("trained again"))
    grid.work(scorer)
    assert grid.scores(scorer, asked)[1]["val_loss_int8"] == at_once


def test_a_sampled_score_of_an_earlier_version_is_taken_again(
    run: RunDir, scorer: Scorer, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Cell(cell.name, cell.config, 0, (1,), ("val_loss_int8",))
    grid = Grid(run, (asked,))
    grid.work(scorer)
    monkeypatch.setattr(quantise, "VERSION", quantise.VERSION + 1)
    assert not grid.is_done(scorer, asked)
    assert "val_loss_int8" not in grid.scores(scorer, asked)[1]
    grid.work(scorer)
    assert grid.is_done(scorer, asked)


def test_a_plan_reads_as_it_was_written(run: RunDir, cell: Cell) -> None:
    grid = Grid(run, (cell, Cell("other", cell.config, 1, (1,), ("kid_effnet",))))
    grid.write_plan()
    assert Grid.read(run) == grid


def test_a_worker_takes_its_plan_from_the_run(
    run: RunDir, scorer: Scorer, cell: Cell, data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid_worker, "prepare", lambda spec, latent: data)
    grid = Grid(run, (cell,))
    grid.write_plan()
    grid_worker.work(run, 0)
    assert grid.is_done(scorer, cell)


def test_scores_of_pictures_and_of_int8_are_taken_at_the_last_budget(
    run: RunDir, scorer: Scorer, cell: Cell
) -> None:
    asked = Cell(cell.name, cell.config, 0, (1, 2), ("kid_effnet", "val_loss_int8"))
    grid = Grid(run, (asked,))
    grid.work(scorer)
    scores = grid.scores(scorer, asked)
    assert "kid_effnet" not in scores[1]
    assert {"kid_effnet", "kid_effnet_low", "val_loss_int8"} <= scores[2].keys()
    assert scores[2]["val_loss_int8"] != scores[2]["val_loss"]


def test_networks_that_are_drawn_have_proxies_of_their_own(scorer: Scorer) -> None:
    drawn = validation.draw_networks(scorer.setting, 5, seed=0)
    assert len({scorer.setting.proxy(config).digest for config in drawn}) == 5
    assert drawn == validation.draw_networks(scorer.setting, 5, seed=0)


def test_a_stop_leaves_a_comparison_and_nothing_is_trained_twice(scorer: Scorer) -> None:
    drawn = validation.draw_networks(scorer.setting, 4, seed=0)
    cells = validation.validation_cells(drawn, seeds=3, budgets=[1, 2, 8], deep=2, deep_seeds=2)
    assert len({(cell.name, cell.seed) for cell in cells}) == len(cells) == 12
    assert [cell.budgets for cell in cells] == [(1, 2, 8)] * 2 + [(1,)] * 8 + [(1, 2, 8)] * 2


def test_a_validation_sums_up_what_there_is(run: RunDir, scorer: Scorer) -> None:
    drawn = validation.draw_networks(scorer.setting, 4, seed=0)
    grid = Grid(
        run, validation.validation_cells(drawn, seeds=2, budgets=[1, 2], deep=3, deep_seeds=2)
    )
    grid.work(scorer)
    found = validation.summarise_validation(grid, scorer)
    assert found["trainings"] == {1: 8, 2: 6}
    assert found["samples"] == {1: 32, 2: 64}
    rows = {row["rankings"]: row for row in found["scores"]["val_loss"]["agreement"]}
    assert list(rows) == ["1 × and 2 ×", "params and 2 ×", "macs and 2 ×"]
    assert all(row["networks"] == 3 and -1 <= row["tau"] <= 1 for row in rows.values())
    assert found["scores"]["val_loss"]["spread"][1]["ratio"] > 0


def test_an_ablation_turns_each_knob_alone(run: RunDir, scorer: Scorer, tmp_path: Path) -> None:
    setting = scorer.setting
    name, point = validation.centre(setting, None)
    assert name == "base"
    networks = validation.variants(setting, name, point)
    assert list(networks) == [
        "base",
        "outer 128",
        "outer 256",
        "inner 64",
        "inner 256",
        "layers none",
        "layers sa+ca+ff",
    ]
    chosen = {key: networks[key] for key in ("base", "outer 256", "layers none")}
    grid = Grid(run, validation.ablation_cells(chosen, seeds=2, budget=1, sampled=()))
    grid.work(scorer)
    found = validation.summarise_ablation(grid, scorer, 1, ["val_loss"])
    assert [row["network"] for row in found["rows"]] == list(chosen)
    wider = found["rows"][1]["effects"]["val_loss"]
    deviation = found["seed_deviation"]["val_loss"]
    assert wider["standard_errors"] == pytest.approx(
        wider["difference"] / deviation
    )  # two seeds each: √(1/2 + 1/2)
    assert wider["seen"] == (abs(wider["standard_errors"]) > 1.96)
    table = validation.markdown(found)
    assert table.count("\n") == 2 + 3 + 1
    assert "| outer 256 |" in table
