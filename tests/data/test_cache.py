import logging
import multiprocessing
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from archsearch.data.cache import cache_dir, cached_tensors
from archsearch.errors import ArchsearchError


class Builder:
    def __init__(self, value: float = 1.0) -> None:
        self.calls, self.value = 0, value

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return {"x": torch.full((3, 4), self.value), "y": torch.arange(5).half()}


def test_builds_once_a_key_in_any_order(own_cache: Path) -> None:
    build = Builder()
    first = cached_tensors({"a": 1, "b": [1, 2]}, build)
    again = cached_tensors({"b": [1, 2], "a": 1}, build)
    assert build.calls == 1
    assert all(
        torch.equal(first[k], again[k]) and first[k].dtype == again[k].dtype for k in ("x", "y")
    )
    cached_tensors({"a": 2, "b": [1, 2]}, build)
    assert build.calls == 2
    assert len(list(own_cache.glob("*.safetensors"))) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "other key"])
def test_damaged_file_is_built_again(
    own_cache: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    build = Builder()
    cached_tensors({"a": 1}, build)
    (path,) = own_cache.glob("*.safetensors")
    content = path.read_bytes()
    if damage == "other key":
        cached_tensors({"a": 2}, Builder(2.0))
        (other,) = (p for p in own_cache.glob("*.safetensors") if p != path)
        content = other.read_bytes()
    path.write_bytes(
        {"cut": content[:-7], "empty": b"", "noise": b"\xff" * 64, "other key": content}[damage]
    )
    with caplog.at_level(logging.WARNING):
        assert cached_tensors({"a": 1}, build)["x"].eq(1).all()
    assert build.calls == 2
    assert str(path) in caplog.text
    cached_tensors({"a": 1}, build)
    assert build.calls == 2


def test_changing_a_result_leaves_the_cache_alone() -> None:
    build = Builder()
    cached_tensors({"a": 1}, build)["x"].zero_()
    cached_tensors({"a": 1}, build)["x"].zero_()
    assert cached_tensors({"a": 1}, build)["x"].eq(1).all()


def test_failed_build_leaves_nothing(own_cache: Path) -> None:
    def fail() -> dict[str, Tensor]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cached_tensors({"a": 1}, fail)
    assert not list(own_cache.glob("*.safetensors"))
    assert cached_tensors({"a": 1}, Builder())["x"].eq(1).all()  # and the lock is free


def test_unusable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ARCHSEARCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ArchsearchError, match="ARCHSEARCH_CACHE"):
        cached_tensors({"a": 1}, Builder())


def test_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARCHSEARCH_CACHE")
    assert cache_dir().name == "archsearch"


def _slow_build(log: Path) -> dict[str, Tensor]:
    with log.open("a") as file:
        file.write("built\n")
    time.sleep(0.5)
    return {"x": torch.ones(2)}


def _ask(log: Path) -> None:
    cached_tensors({"shared": True}, lambda: _slow_build(log))


def test_two_processes_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    processes = [context.Process(target=_ask, args=(log,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert log.read_text() == "built\n"
