"""Which metrics of a trained network in the store still hold."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from archsearch import versions
from archsearch.errors import InputError
from archsearch.metrics.networks import Networks
from archsearch.metrics.registry import METRICS
from archsearch.study.measuring import conditions_of
from archsearch.study.spec import MEASURED, StudySpec
from archsearch.study.store import Record, Store

from .conftest import STUDY, put

SCORES = {
    "kid_effnet": {"kid_effnet": 1.0, "kid_effnet_floor": 0.5},
    "alignment": {"alignment": 0.2},
    "val_loss_int8": {"val_loss_int8": 0.3},
}
Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture
def record(store: Store) -> Record:
    """A training with three metrics."""
    (record,) = put(store, "proxy", [0.3])
    for name, scores in SCORES.items():
        store.keep_metric(record, name, scores)
    return record


def under(store: Store, **sections: Any) -> Store:
    """The store, as a study sees it whose sections are others."""
    spec = StudySpec.model_validate(STUDY | sections)
    return Store(store.run, replace(store.setting, spec=spec), store.data, store.device)


def another(name: str) -> Patch:
    return lambda patch: patch.setitem(METRICS, name, replace(METRICS[name], version=1000))


def plugin(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(METRICS, "of_a_package", METRICS["fd_effnet"])


def test_are_read_as_they_were_put(store: Store, record: Record) -> None:
    assert store.known_metrics(record) == SCORES
    assert store.known_metrics(record, networks=store.networks) == SCORES
    assert store.known_metrics(record, ("alignment", "fid")) == {"alignment": SCORES["alignment"]}
    assert store.taken()[record.key, 32, 0]["kid_effnet_floor"] == 0.5


def test_each_number_of_steps_has_its_own(store: Store, record: Record) -> None:
    store.keep_metric(record, "kid_effnet", {"kid_effnet": 4.0}, steps=4)
    assert store.known_metrics(record, ("kid_effnet",), 4) == {"kid_effnet": {"kid_effnet": 4.0}}
    assert store.known_metrics(record, ("kid_effnet",)) == {"kid_effnet": SCORES["kid_effnet"]}
    assert store.known_metrics(record, MEASURED, 2) == {}


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (another("kid_effnet"), {"alignment", "val_loss_int8"}),
        (another("cmmd"), set(SCORES)),
        (plugin, set(SCORES)),
        (lambda patch: patch.setattr(versions, "QUANTISING", 1000), {"kid_effnet", "alignment"}),
        (lambda patch: patch.setattr(versions, "SAMPLING", 1000), {"val_loss_int8"}),
        (lambda patch: patch.setattr(versions, "PROMPTS", 1000), {"val_loss_int8"}),
    ],
)
def test_a_version_concerns_its_own_scores(
    store: Store, record: Record, monkeypatch: pytest.MonkeyPatch, change: Patch, kept: set[str]
) -> None:
    change(monkeypatch)
    assert store.known_metrics(record).keys() == kept


@pytest.mark.parametrize(
    "section",
    [{"metrics": {"images": 9}}, {"metrics": {"images": 8, "seed": 1}}, {"sampling": {"steps": 3}}],
)
def test_settings_concern_the_scores_of_pictures(
    store: Store, record: Record, section: dict[str, object]
) -> None:
    assert under(store, **section).known_metrics(record).keys() == {"val_loss_int8"}


def test_a_file_that_is_not_used_does_not_matter(store: Store, record: Record) -> None:
    given = under(store, metrics=STUDY["metrics"] | {"clip": "/nowhere/clip"})
    assert given.known_metrics(record, networks=given.networks) == SCORES


def test_another_network_is_told_where_there_is_one_to_compare_with(
    store: Store, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Networks.key
    monkeypatch.setattr(
        Networks,
        "key",
        lambda self, name: plain(self, name) | ({"version": "9"} if name == "text" else {}),
    )
    assert store.known_metrics(record, networks=store.networks).keys() == {
        "kid_effnet",
        "val_loss_int8",
    }
    assert store.known_metrics(record) == SCORES  # results are looked at without any network


def test_a_missing_network_is_said_only_where_scores_are_computed(
    store: Store, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = under(store, metrics=STUDY["metrics"] | {"clip": "/nowhere/clip"})
    with monkeypatch.context() as patch:
        patch.setattr(Networks, "key", lambda self, name: {"file": "0123"})
        given.keep_metric(record, "cmmd", {"cmmd": 1.0})
    assert given.known_metrics(record, ("cmmd",)) == {"cmmd": {"cmmd": 1.0}}
    with pytest.raises(InputError, match=r"metrics\.clip: /nowhere/clip"):
        given.known_metrics(record, ("cmmd",), networks=given.networks)


def test_what_is_added_leaves_the_others(
    store: Store, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    another("kid_effnet")(monkeypatch)
    store.keep_metric(record, "kid_effnet", {"kid_effnet": 7.0})
    assert store.known_metrics(record) == SCORES | {"kid_effnet": {"kid_effnet": 7.0}}


def test_what_a_score_was_computed_under_is_kept_with_it(store: Store) -> None:
    network = store.setting.space.base
    record = store.score(network)
    values = store.metrics(record, ("kid_effnet",))
    assert {"kid_effnet", "kid_effnet_floor"} <= values.keys()
    (row,) = store._metric_rows()
    assert row.under == conditions_of(store.setting.spec, "kid_effnet")
    assert row.under["sampling"]["steps"] == 2
    assert row.networks["effnet"]["name"] == "efficientnet-lite0"
    assert store.metrics(record, ("kid_effnet",)) == values


def test_a_store_computes_again_what_no_longer_holds_and_nothing_else(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = store.setting.space.base
    record = store.score(network)
    first = store.metrics(record, ("kid_effnet", "alignment"))
    another("kid_effnet")(monkeypatch)
    asked: list[tuple[str, ...]] = []

    def measure(model: object, names: tuple[str, ...], *_: object) -> dict[str, dict[str, float]]:
        asked.append(names)
        return {name: {name: 7.0} for name in names}

    monkeypatch.setattr("archsearch.study.store.measure", measure)
    assert store.metrics(record, ("alignment",)) == {
        name: value for name, value in first.items() if name.startswith("alignment")
    }
    assert asked == []
    again = store.metrics(record, ("kid_effnet", "alignment"))
    assert asked == [("kid_effnet",)]
    assert (again["kid_effnet"], again["alignment"]) == (7.0, first["alignment"])


def test_networks_are_loaded_once_however_many_are_scored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Networks] = []

    def build(names: object, data: object, settings: object, networks: Networks) -> list[object]:
        used.append(networks)
        return []

    monkeypatch.setattr("archsearch.metrics.evaluate.build_metrics", build)
    monkeypatch.setattr(
        "archsearch.metrics.evaluate.evaluate", lambda *_: {"kid_effnet": {"kid_effnet": 1.0}}
    )
    for seed in (0, 1):
        network = store.setting.space.base
        store.metric(store.score(network, seed=seed), "kid_effnet")
    assert used == [store.networks] * 2
