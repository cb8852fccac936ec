import json
import logging
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from archsearch.data.cache import EntryWriter, cache_dir, cached, cached_tensors
from archsearch.errors import ArchsearchError


class Builder:
    def __init__(self, value: float = 1.0) -> None:
        self.calls, self.value = 0, value

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return {
            "x": torch.full((3, 4), self.value),
            "y": torch.arange(5).half(),
            "one": torch.tensor(self.value),
            "none": torch.zeros(0, 2),
        }


def entries(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_builds_once_a_key_in_any_order(own_cache: Path) -> None:
    build = Builder()
    first = cached_tensors({"a": 1, "b": [1, 2]}, build)
    again = cached_tensors({"b": [1, 2], "a": 1}, build)
    assert build.calls == 1
    for name, tensor in build().items():
        for found in (first[name], again[name]):
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(found, tensor)
    build.calls = 1
    cached_tensors({"a": 2, "b": [1, 2]}, build)
    assert build.calls == 2
    assert len(entries(own_cache)) == 2


@pytest.mark.parametrize("file", ["meta.json", "x.npy"])
@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "pickled", "gone", "other key"])
def test_what_is_damaged_is_built_again(
    own_cache: Path, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    build = Builder()
    cached_tensors({"a": 1}, build)
    (entry,) = entries(own_cache)
    path = entry / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "pickled":
        np.save(entry / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
        path.write_bytes((entry / "object.npy").read_bytes())
    elif damage == "other key":
        cached_tensors({"a": 2}, Builder(2.0))
        (other,) = (each for each in entries(own_cache) if each != entry)
        (entry / "meta.json").write_bytes((other / "meta.json").read_bytes())
        path.write_bytes((other / file).read_bytes())
    else:
        path.write_bytes({"cut": content[:-7], "empty": b"", "noise": b"\xff" * 64}[damage])
    with caplog.at_level(logging.WARNING):
        assert cached_tensors({"a": 1}, build)["x"].eq(1).all()
    assert build.calls == 2
    assert str(entry) in caplog.text
    cached_tensors({"a": 1}, build)
    assert build.calls == 2


def test_what_another_version_wrote_is_built_again(own_cache: Path) -> None:
    build = Builder()
    cached_tensors({"a": 1}, build)
    (entry,) = entries(own_cache)
    meta = json.loads((entry / "meta.json").read_text())
    (entry / "meta.json").write_text(json.dumps(meta | {"schema": 0}))
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
    assert not entries(own_cache)
    assert cached_tensors({"a": 1}, Builder())["x"].eq(1).all()  # and the lock is free


def test_what_a_killed_process_left_is_never_read(own_cache: Path) -> None:
    cached_tensors({"a": 1}, Builder())
    (entry,) = entries(own_cache)
    entry.rename(entry.with_suffix(".partial"))  # complete but for its name
    (entry.with_suffix(".partial") / "rest.npy").write_bytes(b"half a row")
    assert cached_tensors({"a": 1}, Builder(2.0))["x"].eq(2).all()
    assert entries(own_cache) == [entry]
    assert not (entry / "rest.npy").exists()


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


@given(parts=st.lists(st.integers(0, 5), min_size=1, max_size=6), width=st.integers(1, 4))
def test_what_is_appended_is_read_back_by_numpy(
    parts: list[int], width: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    bytes_ = [torch.randint(0, 256, (n, width), dtype=torch.uint8) for n in parts]
    halves = [torch.randn(n).half() for n in parts]
    rows = EntryWriter(folder)
    for some, others in zip(bytes_, halves, strict=True):
        rows.append("bytes", some)
        rows.append("halves", others)
    rows.append("whole", torch.arange(3))
    rows.values["note"] = "“é”"
    rows.finish({"a": 1})
    for name, tensor in (
        ("bytes", torch.cat(bytes_)),
        ("halves", torch.cat(halves)),
        ("whole", torch.arange(3)),
    ):
        found = np.load(folder / f"{name}.npy", allow_pickle=False)
        assert found.dtype == tensor.numpy().dtype
        assert np.array_equal(found, tensor.numpy())
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta["key"], meta["values"]) == ({"a": 1}, {"note": "“é”"})
    assert {path.name for path in folder.iterdir()} == {
        "bytes.npy",
        "halves.npy",
        "whole.npy",
        "meta.json",
    }


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    rows = EntryWriter(tmp_path)
    rows.append("x", torch.zeros(2, 3))
    with pytest.raises(ValueError, match="'x'"):
        rows.append("x", torch.zeros(2, 4))
    with pytest.raises(ValueError, match="'x'"):
        rows.append("x", torch.zeros(2, 3).half())


def test_rows_and_values_are_cached_under_their_key(own_cache: Path) -> None:
    calls: list[int] = []

    def fill(entry: EntryWriter) -> None:
        calls.append(1)
        entry.append("x", torch.ones(2, 2))
        entry.values["names"] = ["é", "\ud83d"]

    first = cached({"a": 1}, fill)
    first.tensors["x"].zero_()  # a memory map of one's own: the file stays as it is
    again = cached({"a": 1}, fill)
    assert again.tensors["x"].eq(1).all()
    assert again.values == first.values == {"names": ["é", "\ud83d"]}
    assert len(calls) == 1
    cached({"a": 2}, fill)
    assert len(calls) == 2


def test_a_full_disk_has_a_name_and_leaves_nothing(own_cache: Path) -> None:
    def fill(entry: EntryWriter) -> None:
        entry.append("x", torch.ones(2, 2))
        raise OSError(28, "No space left on device")

    with pytest.raises(ArchsearchError, match="No space left"):
        cached({"a": 1}, fill)
    assert [path.suffix for path in own_cache.iterdir()] == [".lock"]
