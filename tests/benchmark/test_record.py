"""How the table is recorded: design, shards, repetitions."""

from collections import Counter
from pathlib import Path

import pytest

from archsearch import Study
from archsearch.benchmark import record as recording
from archsearch.benchmark.record import (
    DESIGN,
    balanced_random,
    check_repeat,
    open_design,
    read_shard,
    record,
    tasks,
)
from archsearch.errors import InputError
from archsearch.files import write_text
from archsearch.search_space.space import label
from archsearch.study.setting import Setting
from archsearch.study.store import Store
from tests.study.conftest import write_small_study


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(recording, "BUDGETS", (16, 32))
    monkeypatch.setattr(recording, "METRICS", ("val_loss_int8",))
    monkeypatch.setattr(recording, "NETWORKS", 2)
    monkeypatch.setattr(recording, "REPEATED", 1)
    monkeypatch.setattr(recording, "SEEDS", 2)
    monkeypatch.setattr(recording, "DEEP", 1)
    monkeypatch.setattr(recording, "LONGEST", 48)
    return Study(write_small_study(tmp_path), tmp_path / "run").prepare()


def test_the_design_has_every_choice_about_equally_often(setting: Setting) -> None:
    drawn = balanced_random(setting, 24)
    assert len({each.network.digest for each in drawn}) == 24
    assert [each.network.digest for each in balanced_random(setting, 24)] == [
        each.network.digest for each in drawn
    ]
    for name, dimension in setting.space.dimensions.items():
        counts = Counter(str(label(each.point.get(name))) for each in drawn)
        for value in dimension.values:
            share = 24 / len(dimension.values)
            assert counts[str(label(value))] >= share / 3, name


def test_every_training_becomes_a_shard(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    done = record(store, folder)
    assert done == len(list(tasks(2))) == 4
    assert sorted(path.name for path in folder.glob("*.csv")) == [
        "000-0.csv",
        "000-1.csv",
        "001-0.csv",
    ]
    shard = read_shard(folder / "000-0.csv")
    assert shard["budget"].tolist() == [16, 32, 48]
    assert shard["val_loss_int8"].notna().tolist() == [False, True, True]
    assert record(store, folder) == 0


def test_one_network_can_be_recorded_alone_and_again(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    assert record(store, folder, [1]) == 1
    before = (folder / "001-0.csv").read_bytes()
    assert record(store, folder, [1], again=True) == 1
    assert (folder / "001-0.csv").read_bytes() == before
    with pytest.raises(InputError, match=r"network 7: there is none; .* from 0 to 1"):
        record(store, folder, [7])


def test_a_shard_that_disagrees_with_its_repetition_is_named(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    record(store, folder, [1])
    path = folder / "001-0.csv"
    rows = read_shard(path)
    rows.loc[0, "val_loss"] += 0.01
    write_text(path, rows.to_csv(index=False))
    with pytest.raises(InputError, match=r"001-0\.csv: val_loss after 16 pictures is"):
        record(store, folder, [1], again=True)
    # Another kind of machine computes other digits.
    check_repeat(path, rows.assign(val_loss=rows["val_loss"] + 0.01, machine="another"))


def test_a_design_of_another_space_is_refused(
    store: Store, setting: Setting, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    open_design(folder, store.setting)
    with pytest.raises(InputError, match=DESIGN):
        open_design(folder, setting)


def test_a_torn_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "000-0.csv"
    path.write_text("network,digest\n0,x\n")
    with pytest.raises(InputError, match=r"000-0\.csv: lacks the columns seed"):
        read_shard(path)
