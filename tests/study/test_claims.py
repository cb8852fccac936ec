"""Who is at work on what: rows that one takes, keeps alive and gives back."""

import os
import socket
import threading
import time

import psutil
import pytest

from archsearch.study import claims as claims_module
from archsearch.study.setting import Setting, load_setting
from archsearch.study.store import Claims, Store

from .conftest import Sitting, WriteStudy, kill_holder, rewrite_claim

NAME = "training 0123"


@pytest.fixture
def setting(write_study: WriteStudy, shared: str) -> Setting:
    """The small study in a database of either kind."""
    return load_setting(write_study(storage=shared))


@pytest.fixture
def other(store: Store) -> Store:
    """Another worker's store on the same database."""
    return Store(store.run, store.setting, store.data, store.device)


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats come at once."""
    monkeypatch.setattr(claims_module, "HEARTBEAT_SECONDS", 0.01)


def heartbeat(store: Store) -> float:
    return float(store.claims._row(NAME).heartbeat)


def test_a_claim_has_one_holder(store: Store, other: Store) -> None:
    assert store.claims.take(NAME)
    assert not other.claims.take(NAME)
    assert not store.claims.take(NAME)  # not reentrant
    assert other.claims.take("another")
    assert other.claims.is_held(NAME)
    store.claims.release(NAME)
    assert not other.claims.is_held(NAME)
    assert other.claims.take(NAME)


def test_whoever_does_not_wait_goes_without_it(store: Store, other: Store) -> None:
    with store.claims.held(NAME) as mine, other.claims.held(NAME, wait=False) as theirs:
        assert (mine, theirs) == (True, False)
    assert not store.claims.is_held(NAME)


def test_whoever_waits_gets_it_next(store: Store, other: Store) -> None:
    order = []

    def wait() -> None:
        with other.claims.held(NAME):
            order.append("other")

    with store.claims.held(NAME):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.2)
        order.append("first")
    waiting.join(timeout=10)
    assert order == ["first", "other"]


def test_a_claim_is_given_back_where_the_work_fails(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.claims.held(NAME):
        raise ZeroDivisionError
    assert not store.claims.is_held(NAME)


def test_a_claim_of_the_dead_is_taken_over(store: Store, other: Store) -> None:
    assert store.claims.take(NAME)
    kill_holder(store, NAME)
    assert not other.claims.is_held(NAME)
    assert other.claims.take(NAME)
    assert other.claims.is_held(NAME)


def test_a_process_of_the_same_number_is_another_one(store: Store, other: Store) -> None:
    assert store.claims.take(NAME)
    rewrite_claim(store, NAME, started=0.0)  # the machine has given the number again
    assert other.claims.take(NAME)


def test_a_claim_of_another_host_lives_as_long_as_its_heart_beats(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.claims.take(NAME)
    rewrite_claim(store, NAME, host="elsewhere", token="theirs", pid=2**22 - 3, started=0.0)
    assert store.claims.is_held(NAME)
    assert not store.claims.take(NAME)
    monkeypatch.setattr(claims_module, "LEASE_SECONDS", -1.0)
    assert not store.claims.is_held(NAME)
    assert store.claims.take(NAME)


def test_a_claim_that_was_lost_is_not_given_back(store: Store, other: Store) -> None:
    assert store.claims.take(NAME)
    kill_holder(store, NAME)
    assert other.claims.take(NAME)
    store.claims.release(NAME)
    assert other.claims.is_held(NAME)
    other.claims.release(NAME)
    assert not other.claims.is_held(NAME)
    other.claims.release(NAME)  # nothing


def test_hosts_of_one_name_are_told_apart(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers may share a host's name, but a process number of one is nobody in another."""
    assert store.claims.take(NAME)
    rewrite_claim(store, NAME, processes="of another container", pid=2**22 - 3, started=0.0)
    assert other.claims.is_held(NAME)
    assert not other.claims.is_own(NAME)


def test_a_claim_is_told_by_its_holder(store: Store, other: Store) -> None:
    assert store.claims.holder(NAME) is None
    assert not store.claims.is_own(NAME)
    assert store.claims.take(NAME)
    holder = other.claims.holder(NAME)
    assert (holder.host, holder.pid) == (socket.gethostname(), os.getpid())
    assert abs(holder.taken - time.time()) < 60
    assert other.claims.is_own(NAME)  # the same process, if not the same claims
    rewrite_claim(store, NAME, pid=os.getppid(), started=psutil.Process(os.getppid()).create_time())
    assert other.claims.is_held(NAME)
    assert not other.claims.is_own(NAME)


def test_studies_of_one_database_do_not_meet(store: Store) -> None:
    theirs = Claims(store.engine, "another study")
    assert store.claims.take(NAME)
    assert not theirs.is_held(NAME)
    assert theirs.take(NAME)
    theirs.release(NAME)
    assert store.claims.is_held(NAME)


def test_of_two_that_see_a_dead_holder_one_takes_over(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.claims.take(NAME)
    kill_holder(store, NAME)
    plain = Claims._row

    def slow(self: Claims, name: str) -> object:
        row = plain(self, name)
        if self is store.claims:
            assert other.claims.take(NAME)  # between the look and the update
        return row

    monkeypatch.setattr(Claims, "_row", slow)
    assert not store.claims.take(NAME)
    monkeypatch.undo()
    assert other.claims.is_held(NAME)


def test_the_heart_beats_while_a_claim_is_held(store: Store, beats: None) -> None:
    claims = Claims(store.engine, store.setting.name)
    assert claims.take(NAME)
    rewrite_claim(store, NAME, heartbeat=0.0)
    deadline = time.monotonic() + 10
    while heartbeat(store) == 0.0 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert time.time() - heartbeat(store) < 10
    claims.release(NAME)


def test_a_lost_claim_has_no_heartbeat(store: Store, other: Store, beats: None) -> None:
    claims = Claims(store.engine, store.setting.name)
    assert claims.take(NAME)
    rewrite_claim(store, NAME, token="theirs", heartbeat=0.0)
    time.sleep(0.2)
    assert heartbeat(store) == 0.0


def test_of_two_workers_with_one_key_the_second_waits_and_reads(
    store: Store, other: Store, sittings: list[Sitting]
) -> None:
    network = store.setting.space.base
    key = store.key(store.setting.proxy(network))
    found = []
    with store.claims.held(f"training {key}"):
        second = threading.Thread(target=lambda: found.append(other.score(network)))
        second.start()
        time.sleep(0.2)
        assert not found
        first = store._train(store._blank(network, 32, 0))
    second.join(timeout=30)
    assert found == [first]
    assert found[0].from_store
    assert len(sittings) == 1


def test_a_training_whose_worker_died_is_taken_over(
    store: Store, other: Store, sittings: list[Sitting]
) -> None:
    network = store.setting.space.base
    name = f"training {store.key(store.setting.proxy(network))}"
    assert store.claims.take(name)
    kill_holder(store, name)
    assert other.score(network).outcome == "complete"
    assert len(sittings) == 1
