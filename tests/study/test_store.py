"""One way to score a network: what the store answers, what it trains, what it keeps."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from archsearch import versions
from archsearch.data.prepare import Prepared
from archsearch.diffusion import trainer
from archsearch.diffusion.trainer import CHECKPOINT, TrainingMemoryError
from archsearch.errors import ArchsearchError, InputError
from archsearch.files import write_text
from archsearch.study import store as store_module
from archsearch.study import training_files
from archsearch.study.claims import Claims
from archsearch.study.rundir import RunDir
from archsearch.study.setting import Setting, load_setting
from archsearch.study.store import Record, Store
from archsearch.unet.config import UNetConfig

from .conftest import Sitting, WriteStudy, started


@pytest.fixture
def setting(write_study: WriteStudy, shared: str) -> Setting:
    """The small study in a database of either kind."""
    return load_setting(write_study(storage=shared))


@pytest.fixture
def network(setting: Setting) -> UNetConfig:
    return setting.space.base


@pytest.fixture
def changed(store: Store) -> Callable[..., Store]:
    """The store, its study's ``proxy`` section changed: ``changed(learning_rate=0.5)``."""

    def changed(**proxy: Any) -> Store:
        spec = store.setting.spec
        spec = spec.model_copy(update={"proxy": spec.proxy.model_copy(update=proxy)})
        return Store(store.run, replace(store.setting, spec=spec), store.data, store.device)

    return changed


def wider(network: UNetConfig) -> UNetConfig:
    """Another network, with another proxy."""
    data = network.to_dict()
    data["stages"][0]["channels"] *= 2
    return UNetConfig.model_validate(data)


# What names a training


def test_whatever_a_score_depends_on_changes_its_key(
    store: Store,
    network: UNetConfig,
    changed: Callable[..., Store],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy, spec = store.setting.proxy(network), store.setting.spec
    other_run = RunDir(store.run.path / "other")
    other_run.path.mkdir()
    other_data = replace(store.data, fingerprint="other pictures")
    searching = spec.model_copy(update={"search": spec.search.model_copy(update={"seed": 9})})
    keys = [
        store.key(proxy),
        store.key(proxy, seed=1),
        store.key(UNetConfig.model_validate(proxy.to_dict() | {"conv": "separable"})),
        Store(other_run, store.setting, other_data, store.device).key(proxy),
        changed(learning_rate=0.5).key(proxy),
        Store(store.run, replace(store.setting, spec=searching), store.data, store.device).key(
            proxy
        ),
        Store(store.run, store.setting, store.data, torch.device("cuda")).key(proxy),
    ]
    for part in ("TRAINING", "EVALUATION"):
        monkeypatch.setattr(versions, part, 1000)
        keys.append(store.key(proxy))
    assert len(set(keys)) == len(keys)


def test_another_seed_is_another_key_and_another_score(store: Store, network: UNetConfig) -> None:
    records = [store.score(network, seed=seed) for seed in (0, 1)]
    assert records[0].key != records[1].key
    assert records[0].scores["val_loss"] != records[1].scores["val_loss"]
    assert store.key_with_seed(records[0].key, 1) == records[1].key  # without its data
    assert store.key_with_seed("0" * 16, 1) is None


def test_networks_of_one_proxy_share_a_training(store: Store, sittings: list[Sitting]) -> None:
    points = [
        point
        for point in store.setting.space.points()
        if (point["outer"], point["inner"]) == (64, 64)
    ]
    networks = [store.setting.space.build(point) for point in points]
    proxies = {store.setting.proxy(network).digest for network in networks}
    records = {store.score(network).name for network in networks}
    assert len(records) == len(sittings) == len(proxies)


# Answers


def test_what_was_trained_is_answered_from_the_store(
    store: Store, network: UNetConfig, sittings: list[Sitting]
) -> None:
    first = store.score(network)
    again = store.score(network)
    assert (first.from_store, again.from_store) == (False, True)
    assert again == first
    assert first.name == f"{first.key}-32"
    assert len(sittings) == 1


def test_the_same_key_gives_the_same_score_to_the_last_digit(
    store: Store, network: UNetConfig, data: Prepared, write_study: WriteStudy, tmp_path: Any
) -> None:
    first = store.score(network)
    _, other = started(write_study(), tmp_path / "another-run")
    other.store.use(data)
    again = other.store.score(network)
    assert not again.from_store
    assert (again.key, again.scores) == (first.key, first.scores)
    assert again.details["train_loss"] == first.details["train_loss"]


def test_records_are_rows_of_the_database_with_their_metrics(
    store: Store, network: UNetConfig
) -> None:
    record = store.score(network)
    other = store.score(network, seed=1)
    loss = store.metric(record, "val_loss_int8")
    table = store.records().sort_values("seed", ignore_index=True)  # they come by key
    assert list(table.key) == [record.key, other.key]
    assert list(table.counts) == [True, True]
    assert table.val_loss[0] == record.scores["val_loss"]
    assert table.val_loss_int8[0] == loss
    assert table.val_loss_int8.isna()[1]
    assert list(store.records(seed=1, outcome="complete").key) == [other.key]
    with pytest.raises(InputError, match=r"there is no column 'sead'\. There are: key, budget"):
        store.records(sead=1)


def test_a_start_that_is_not_the_studys_is_refused(store: Store, network: UNetConfig) -> None:
    with pytest.raises(InputError, match=r"init: 'parent' is not what .* Allowed is scratch"):
        store.score(network, init="parent")
    assert store.score(network, init="scratch") == store.score(network)


# Budgets


def test_a_longer_budget_goes_on_from_the_longest_shorter_one(
    store: Store, network: UNetConfig, sittings: list[Sitting]
) -> None:
    for budget in (32, 64, 96):
        assert store.score(network, budget).details["samples"] == budget
    assert [(sitting.began, sitting.goal) for sitting in sittings] == [(0, 32), (32, 64), (64, 96)]


@pytest.mark.parametrize("order", [(32, 96), (96, 32), (32, 64, 96)])
def test_in_whatever_order_budgets_come_their_scores_are_those_of_one_go(
    store: Store,
    network: UNetConfig,
    data: Prepared,
    write_study: WriteStudy,
    tmp_path: Any,
    order: tuple[int, ...],
) -> None:
    in_order = {budget: store.score(network, budget) for budget in order}
    for budget in (32, 96):
        _, alone = started(write_study(), tmp_path / f"{budget}-in-one-go")
        alone.store.use(data)
        at_once = alone.store.score(network, budget)
        assert at_once.scores == in_order[budget].scores
        assert at_once.details["train_loss"] == in_order[budget].details["train_loss"]
        left, right = (
            of.load(record).state_dict()
            for of, record in ((store, in_order[budget]), (alone.store, at_once))
        )
        assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_longer_budget_whose_shorter_checkpoint_is_gone_begins_anew(
    store: Store, network: UNetConfig, sittings: list[Sitting]
) -> None:
    shorter = store.score(network)
    store.files.drop(shorter.name)
    assert not store.files.weights(shorter.name).exists()
    assert store.score(network, 64).outcome == "complete"
    assert [sitting.began for sitting in sittings] == [0, 0]
    assert store.score(network).from_store


def test_a_training_that_was_cut_off_goes_on_from_its_checkpoint(
    store: Store, network: UNetConfig, sittings: list[Sitting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", 1e9)

    def stop(samples: int, loss: float) -> None:
        if samples > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.score(network, 160, progress=stop)
    record = store.score(network, 160)
    assert [sitting.began for sitting in sittings] == [0, 8]
    assert record.details["samples"] == 160


def test_a_training_that_was_given_to_another_stops_and_waits_for_it(
    store: Store, network: UNetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "HEARTBEAT_SECONDS", 0.0)
    claim = f"training {store.key(store.setting.proxy(network), 0)}"
    mine, theirs = store.claims, Claims(store.run.storage.create_tables(), store.setting.name)
    told, by_then = list[int](), list[list[int]]()

    def give_back() -> None:
        by_then.append(list(told))
        theirs.release(claim)

    def while_it_slept(samples: int, _: float) -> None:
        told.append(samples)
        if len(told) == 1:  # its claim ran out, and another took it
            mine.release(claim)
            assert theirs.take(claim)
            threading.Timer(0.5, give_back).start()

    record = store.score(network, 16, progress=while_it_slept)
    assert by_then == [[8]]  # nothing was trained while another was at it
    assert record.outcome == "complete"
    assert len(store.records()) == 1


def test_checkpoints_are_kept_within_a_quota_the_latest_first(
    store: Store, network: UNetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store.score(network)
    size = (store.run.training(first.name) / CHECKPOINT).stat().st_size
    monkeypatch.setattr(training_files, "CHECKPOINT_BYTES", 1.5 * size)
    second = store.score(network, seed=1)
    kept = [path.parent.name for path in store.run.trainings.glob(f"*/{CHECKPOINT}")]
    assert kept == [second.name]


# How a training ends


def test_samples_seen_are_the_budget_and_time_is_told(store: Store, network: UNetConfig) -> None:
    details = store.score(network).details
    assert details["samples"] == 32
    assert details["train_seconds"] > 0
    assert details["capped"] is False


def test_a_capped_training_says_so_and_does_not_count(
    network: UNetConfig, changed: Callable[..., Store]
) -> None:
    record = changed(max_seconds=1e-6).score(network)
    assert (record.details["capped"], record.details["samples"]) == (True, 8)
    assert record.scores
    assert not record.counts


def test_a_training_that_diverges_ends_with_that_name_at_every_longer_budget(
    network: UNetConfig, changed: Callable[..., Store], sittings: list[Sitting]
) -> None:
    wild = changed(learning_rate=1e30, warmup=0.0)
    record = wild.score(network)
    assert record.outcome == "diverged"
    assert "diverged at sample" in record.details["reason"]
    assert (record.scores, record.counts) == ({}, False)
    assert wild.score(network, 64) == record
    assert len(sittings) == 1


def test_a_loss_that_is_no_number_is_a_divergence(
    store: Store, network: UNetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trainer.Trainer.averaged

    def averaged(self: trainer.Trainer) -> object:
        model = plain(self)
        model.input.weight.data.fill_(float("nan"))
        return model

    monkeypatch.setattr(trainer.Trainer, "averaged", averaged)
    record = store.score(network)
    assert record.outcome == "diverged"
    assert "the held-out loss is nan" in record.details["reason"]


def test_without_memory_nothing_is_kept_and_another_time_it_is_trained(
    store: Store, network: UNetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise TrainingMemoryError("memory ran out at sample 0")

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "run", fail)
        with pytest.raises(TrainingMemoryError):
            store.score(network)
    assert store.records().empty
    assert store.score(network).outcome == "complete"


# Weights


def test_weights_come_back_and_are_made_again_where_they_are_gone(
    store: Store, network: UNetConfig
) -> None:
    record = store.score(network)
    kept = store.load(record).state_dict()
    store.files.drop(record.name)
    made = store.load(record).state_dict()
    assert all(torch.equal(kept[name], made[name]) for name in kept)


def test_weights_that_cannot_be_made_again_are_told(
    store: Store, network: UNetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = store.score(network)
    store.files.drop(record.name)
    monkeypatch.setattr(versions, "TRAINING", 1000)
    with pytest.raises(ArchsearchError, match="is gone and cannot be made again"):
        store.load(record)


def test_weights_of_another_network_are_refused(store: Store, network: UNetConfig) -> None:
    record, other = store.score(network), store.score(wider(network))
    store.files.weights(other.name).replace(store.files.weights(record.name))
    with pytest.raises(ArchsearchError, match="not the weights of network"):
        store.load(record)


# Data


def test_a_run_is_of_one_set_of_data(run: RunDir, store: Store) -> None:
    changed = replace(store.data, fingerprint="another picture in the folder")
    with pytest.raises(InputError, match="the data have changed since this run began"):
        Store(run, run.setting(), changed, store.device)
    Store(run, run.setting(), store.data, store.device)


def test_data_are_prepared_when_something_is_trained_first(
    run: RunDir, network: UNetConfig, small_data: None
) -> None:
    store = Store(run, run.setting(), device=torch.device("cpu"))
    assert store.records().empty
    assert not (run.path / "data.json").exists()
    assert isinstance(store.score(network), Record)
    assert (run.path / "data.json").is_file()


# A database from elsewhere


@pytest.mark.parametrize(
    "name",
    [
        "/elsewhere/x",
        "../x-32",
        "0123456789abcdef",
        "0123456789ABCDEF-32",
        "0123456789abcde-32",
        "0123456789abcdef-32/../../x",
        "0123456789abcdef-32\n",
        "0123456789abcdef--1",
        "",
    ],
)
def test_only_names_of_records_become_paths(name: str, store: Store, tmp_path: Path) -> None:
    """They come from the database, which may be anybody's."""
    outside = tmp_path / "elsewhere" / "x"
    write_text(outside.with_name("x.safetensors"), "mine")
    for given in (name, str(outside)):
        with pytest.raises(ArchsearchError, match="is not the name of a record"):
            store.files.drop(given)
        with pytest.raises(ArchsearchError, match="is not the name of a record"):
            store.run.training(given)
    assert (tmp_path / "elsewhere" / "x.safetensors").read_text() == "mine"


def test_a_record_whose_network_is_another_is_refused(store: Store, network: UNetConfig) -> None:
    record = store.score(network)
    other = replace(record, proxy="0" * 16)
    with pytest.raises(ArchsearchError, match=f"its network is {record.proxy}, but it says 0000"):
        store.load(other)


def test_foreign_files_beside_trainings_are_left_alone(store: Store, network: UNetConfig) -> None:
    write_text(store.run.trainings / "notes" / CHECKPOINT, "mine")
    store.score(network)
    assert (store.run.trainings / "notes" / CHECKPOINT).read_text() == "mine"
