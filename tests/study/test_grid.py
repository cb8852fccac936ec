"""Networks × seeds × budgets, trained for what they say of the proxy itself."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from archsearch import versions
from archsearch.data.prepare import Prepared
from archsearch.diffusion import trainer
from archsearch.study import validation, worker
from archsearch.study.grid import Cell, Grid
from archsearch.study.search import Search
from archsearch.study.store import Store

from .conftest import Sitting

Work = Callable[..., Grid]


@pytest.fixture
def cell(store: Store) -> Cell:
    return Cell("base", store.setting.space.base, 0, (1, 3))


@pytest.fixture
def worked(store: Store) -> Work:
    """Train cells; returns their grid."""

    def worked(*cells: Cell) -> Grid:
        grid = Grid(store, cells)
        grid.work()
        return grid

    return worked


def test_a_cell_has_a_score_for_each_budget_the_studys_own_first(
    store: Store, cell: Cell, worked: Work
) -> None:
    grid = worked(cell)
    scores = grid.scores(cell)
    assert list(scores) == [1, 3]
    assert grid.is_done(cell)
    assert scores[1]["val_loss"] == store.score(cell.network).scores["val_loss"]
    assert scores[3]["val_loss"] < scores[1]["val_loss"]
    assert scores[1]["seconds"] > 0


def test_budgets_go_on_from_one_another_and_what_is_known_is_not_trained_again(
    cell: Cell, worked: Work, sittings: list[Sitting]
) -> None:
    worked(cell)
    worked(cell, replace(cell, budgets=(3,)), replace(cell, budgets=(1,)))
    assert [(sitting.began, sitting.goal) for sitting in sittings] == [(0, 32), (32, 96)]
    worked(replace(cell, budgets=(2, 4)))
    assert [(sitting.began, sitting.goal) for sitting in sittings[2:]] == [(32, 64), (96, 128)]


def test_what_a_search_has_trained_a_grid_does_not_train(
    store: Store, cell: Cell, worked: Work, sittings: list[Sitting]
) -> None:
    store.score(cell.network)
    grid = worked(replace(cell, budgets=(1,)))
    assert grid.is_done(grid.cells[0])
    assert len(sittings) == 1


def test_a_cell_that_diverges_says_so_and_is_left(
    cell: Cell, worked: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object) -> bool:
        raise trainer.DivergedError("the training diverged at sample 8: loss nan")

    monkeypatch.setattr(trainer.Trainer, "run", diverge)
    grid = worked(cell)
    assert grid.is_done(cell)
    assert grid.scores(cell) == {}
    assert {record.outcome for record in grid.records(cell).values()} == {"diverged"}


def test_a_capped_training_ends_its_cell_and_is_no_score(store: Store, cell: Cell) -> None:
    spec = store.setting.spec
    capped = spec.model_copy(update={"proxy": spec.proxy.model_copy(update={"max_seconds": 1e-6})})
    store.setting = replace(store.setting, spec=capped)
    grid = Grid(store, (cell,))
    grid.work()
    assert grid.is_done(cell)
    assert grid.scores(cell) == {}
    assert [record.details["samples"] for record in grid.records(cell).values()] == [8]


def test_a_cell_without_memory_is_left_for_another_time(
    cell: Cell,
    worked: Work,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> bool:
        raise trainer.TrainingMemoryError("memory ran out at sample 0")

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "run", fail)
        grid = worked(cell)
    assert "base, seed 0: left out, memory ran out" in capsys.readouterr().err
    assert not grid.is_done(cell)
    grid.work()
    assert grid.is_done(cell)


def test_a_cell_that_another_is_at_is_left_to_it(
    store: Store, cell: Cell, worked: Work, sittings: list[Sitting]
) -> None:
    key = store.key(store.setting.proxy(cell.network))
    with store.claims.held(f"cell {key}"):
        worked(cell)
    assert not sittings


def test_further_scores_are_added_to_those_that_are_known_without_a_training(
    cell: Cell, worked: Work, sittings: list[Sitting]
) -> None:
    for names in (("kid_effnet",), ("val_loss_int8",)):
        worked(replace(cell, budgets=(1,), metrics=names))
    both = replace(cell, budgets=(1,), metrics=("kid_effnet", "val_loss_int8"))
    grid = worked(both)
    assert {"kid_effnet", "val_loss_int8"} <= grid.scores(both)[1].keys()
    assert len(sittings) == 1


def test_scores_are_taken_at_the_last_budget(cell: Cell, worked: Work) -> None:
    asked = replace(cell, budgets=(1, 2), metrics=("kid_effnet", "val_loss_int8"))
    scores = worked(asked).scores(asked)
    assert "kid_effnet" not in scores[1]
    assert {"kid_effnet", "kid_effnet_low", "val_loss_int8"} <= scores[2].keys()
    assert scores[2]["val_loss_int8"] != scores[2]["val_loss"]


def test_a_score_of_another_version_is_taken_again(
    cell: Cell, worked: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(cell, budgets=(1,), metrics=("val_loss_int8",))
    grid = worked(asked)
    monkeypatch.setattr(versions, "QUANTISING", versions.QUANTISING + 1)
    assert not grid.is_done(asked)
    assert "val_loss_int8" not in grid.scores(asked)[1]
    grid.work()
    assert grid.is_done(asked)


def test_a_plan_reads_as_it_was_written(store: Store, cell: Cell) -> None:
    grid = Grid(store, (cell, Cell("other", cell.network, 1, (1,), ("kid_effnet",))))
    grid.write_plan()
    assert Grid.read(store).cells == grid.cells


def test_a_worker_takes_its_plan_from_the_run(
    store: Store, cell: Cell, data: Prepared, small_data: None
) -> None:
    grid = Grid(store, (cell,))
    grid.write_plan()
    worker.work(store.run, "grid")
    assert grid.is_done(cell)


# Validation and ablation


def test_networks_that_are_drawn_have_proxies_of_their_own(store: Store) -> None:
    drawn = validation.draw_networks(store.setting, 5, seed=0)
    assert len({store.setting.proxy(network).digest for network in drawn}) == 5
    assert drawn == validation.draw_networks(store.setting, 5, seed=0)


def test_a_stop_leaves_a_comparison_and_nothing_is_trained_twice(store: Store) -> None:
    drawn = validation.draw_networks(store.setting, 4, seed=0)
    cells = validation.validation_cells(drawn, seeds=3, budgets=[1, 2, 8], deep=2, deep_seeds=2)
    assert len({(cell.name, cell.seed) for cell in cells}) == len(cells) == 12
    assert [cell.budgets for cell in cells] == [(1, 2, 8)] * 2 + [(1,)] * 8 + [(1, 2, 8)] * 2


def test_a_validation_sums_up_what_there_is(store: Store, worked: Work) -> None:
    drawn = validation.draw_networks(store.setting, 4, seed=0)
    grid = worked(
        *validation.validation_cells(drawn, seeds=2, budgets=[1, 2], deep=3, deep_seeds=2)
    )
    found = validation.summarise_validation(grid)
    assert found["trainings"] == {1: 8, 2: 6}
    assert found["samples"] == {1: 32, 2: 64}
    rows = {row["rankings"]: row for row in found["scores"]["val_loss"]["agreement"]}
    assert list(rows) == ["1 × and 2 ×", "params and 2 ×", "macs and 2 ×"]
    assert all(row["networks"] == 3 and -1 <= row["tau"] <= 1 for row in rows.values())
    assert found["scores"]["val_loss"]["spread"][1]["ratio"] > 0


def test_an_ablation_varies_all_knobs_evenly(store: Store, worked: Work) -> None:
    networks = [each.network for each in Search(store.setting).balanced(9)]
    assert len({store.setting.proxy(network).digest for network in networks}) == 9
    points = [store.setting.space.locate(network) for network in networks]
    for knob, dimension in store.setting.space.dimensions.items():
        counts = [sum(p is not None and p[knob] == v for p in points) for v in dimension.values]
        assert min(counts) >= 2, knob
    cells = validation.ablation_cells(networks, budget=1, metrics=())
    assert [cell.seed for cell in cells] == [0] * 9 + [1] * 2
    found = validation.summarise_ablation(worked(*cells), 1, ["val_loss"])
    assert (found["networks"], found["trainings"]) == (9, 11)
    assert found["noise"]["val_loss"] > 0
    rows = {(row["knob"], row["choice"]): row for row in found["effects"]}
    assert len(rows) == 6
    wider = rows["outer", 256]
    assert wider["val_loss low"] < wider["val_loss"] < wider["val_loss high"]
    assert wider["macs ratio"] > 1
    table = validation.markdown(found)
    assert table.count("\n") == 2 + 6 + 1
    assert "| outer | 256 (for 64) |" in table
