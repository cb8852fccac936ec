"""What machines share beside their database: weights, checkpoints, pictures."""

import os
import uuid
from pathlib import Path

import pytest
import torch

from archsearch.data.prepare import Prepared
from archsearch.diffusion.trainer import CHECKPOINT, Trainer
from archsearch.errors import ArchsearchError, InputError
from archsearch.study import store as store_module
from archsearch.study import training_files
from archsearch.study.artifacts import Artifacts
from archsearch.study.rundir import RunDir, open_run
from archsearch.study.setting import load_setting
from archsearch.study.store import Record, Store

from .conftest import Sitting, WriteStudy


@pytest.fixture(params=["memory", "file", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where artifacts go: a new place of each kind."""
    return {
        "memory": f"memory://{uuid.uuid4().hex}",
        "file": f"file://{tmp_path}/kept",
        "folder": f"{tmp_path}/kept",
    }[request.param]


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# A place


def test_what_one_pushes_another_fetches(place: str, tmp_path: Path) -> None:
    mine, theirs = (Artifacts(tmp_path / name, place) for name in ("mine", "theirs"))
    write(mine.folder, "trials/3/metrics.json", "{}")
    assert theirs.fetch("trials/3/metrics.json") is None
    assert theirs.found("trials") == []
    mine.push("trials/3/metrics.json", "trials/3/samples.png")  # the second is not there
    (found,) = theirs.found("trials")
    assert (found.name, found.size) == ("trials/3/metrics.json", 2)
    path = theirs.fetch("trials/3/metrics.json")
    assert path == theirs.folder / "trials/3/metrics.json"
    assert path.read_text() == "{}"
    write(mine.folder, "trials/4/metrics.json", "four")
    mine.push("trials/4/metrics.json")
    theirs.fetch_all("trials")
    assert (theirs.folder / "trials/4/metrics.json").read_text() == "four"


def test_what_is_pushed_again_takes_the_place_of_the_old(place: str, tmp_path: Path) -> None:
    mine, theirs = (Artifacts(tmp_path / name, place) for name in ("mine", "theirs"))
    for text in ("old", "newer"):
        write(mine.folder, "log.csv", text)
        mine.push("log.csv")
    assert theirs.copy("log.csv", tmp_path / "copied")
    assert (tmp_path / "copied").read_text() == "newer"


def test_what_is_removed_is_gone_for_all(place: str, tmp_path: Path) -> None:
    mine, theirs = (Artifacts(tmp_path / name, place) for name in ("mine", "theirs"))
    write(mine.folder, "weights/a", "a")
    mine.push("weights/a")
    theirs.remove("weights/a")
    theirs.remove("weights/a")  # nothing
    assert mine.found("weights") == []
    assert theirs.fetch("weights/a") is None
    mine.remove("weights/a")
    assert mine.fetch("weights/a") is None


def test_later_files_are_told_by_their_time(place: str, tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "mine", place)
    for name in ("first", "second"):
        write(artifacts.folder, name, name)
        artifacts.push(name)
    times = {artifact.name: artifact.modified for artifact in artifacts.found("")}
    assert 0 < times["first"] <= times["second"]


def test_without_a_place_the_folder_is_it(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    assert artifacts.found("weights") == []
    write(tmp_path, "weights/a", "a")
    artifacts.push("weights/a")
    assert [artifact.name for artifact in artifacts.found("weights")] == ["weights/a"]
    assert artifacts.fetch("weights/a") == tmp_path / "weights/a"
    artifacts.remove("weights/a")
    assert artifacts.fetch("weights/a") is None
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["weights"]


@pytest.mark.parametrize("address", ["carrier-pigeon://me:hunter2@loft/7"])
def test_a_place_that_is_not_known_is_refused(
    write_study: WriteStudy, tmp_path: Path, address: str
) -> None:
    with pytest.raises(InputError, match=r"artifacts: carrier-pigeon://me:\*\*\*@loft") as caught:
        open_run(tmp_path / "run", load_setting(write_study(artifacts=address)))
    assert "hunter2" not in str(caught.value)


def test_a_place_that_cannot_be_written_is_told_at_the_start(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    path = write_study(artifacts=f"{tmp_path}/file")
    with pytest.raises(InputError, match=r"file/small/space\.yaml: cannot be written"):
        open_run(tmp_path / "run", load_setting(path))


# Machines


@pytest.fixture
def machines(
    write_study: WriteStudy, tmp_path: Path, place: str, data: Prepared
) -> tuple[Store, Store]:
    """The stores of two machines that share database and artifacts, and nothing else."""
    path = write_study(storage=f"sqlite:///{tmp_path}/shared.db", artifacts=place)
    runs = [open_run(tmp_path / name, load_setting(path)) for name in ("one", "two")]
    return tuple(Store(run, run.setting(), data, torch.device("cpu")) for run in runs)  # type: ignore[return-value]


def trained(store: Store, budget: int | None = None) -> Record:
    return store.score(store.setting.space.base, budget)


def test_weights_go_from_machine_to_machine(
    machines: tuple[Store, Store], sittings: list[Sitting]
) -> None:
    one, two = machines
    first, second = trained(one), trained(two)
    assert second == first
    assert second.from_store
    mine, theirs = (store.load(first).state_dict() for store in machines)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert len(sittings) == 1


def test_a_longer_budget_goes_on_from_another_machines_checkpoint(
    machines: tuple[Store, Store], sittings: list[Sitting]
) -> None:
    one, two = machines
    trained(one, 32)
    long = trained(two, 64)
    assert [(sitting.began, sitting.goal) for sitting in sittings] == [(0, 32), (32, 64)]
    log = (two.run.training(long.name) / "log.csv").read_text().splitlines()
    assert len(log) == len(set(log)) > 2


def test_a_training_goes_on_where_another_machine_was_lost(
    machines: tuple[Store, Store], sittings: list[Sitting], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = machines
    plain = Trainer.run

    def lost(self: Trainer, samples: int, progress: object) -> bool:
        plain(self, 16, None)
        self.save()
        progress(self.samples, 0.5)  # type: ignore[operator]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "SHARE_SECONDS", 0.0)
        patch.setattr(Trainer, "run", lost)
        with pytest.raises(KeyboardInterrupt):
            trained(one)
    record = trained(two)
    assert [(sitting.began, sitting.goal) for sitting in sittings][-1] == (16, 32)
    assert record.details["samples"] == 32
    assert not list(two.run.trainings.rglob(".theirs*"))


def test_what_one_machine_drops_is_gone_for_all(
    machines: tuple[Store, Store], sittings: list[Sitting]
) -> None:
    one, two = machines
    record = trained(one)
    two.load(record)
    one.files.drop(record.name)
    assert not one.run.artifacts.found("weights")
    two.files.drop(record.name)
    assert not two.files.weights(record.name).exists()
    two.load(record)  # made again
    assert len(sittings) == 2
    assert [found.name for found in one.run.artifacts.found("weights")] == [
        f"weights/{record.name}.safetensors"
    ]
    two.files.drop(record.name)
    assert not one.run.artifacts.found("weights")


def test_checkpoints_are_kept_within_a_quota_over_all_machines(
    machines: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = machines
    first = trained(one)

    def kept() -> list[str]:
        return [f.name for f in one.run.artifacts.found("training") if f.name.endswith(CHECKPOINT)]

    (checkpoint,) = one.run.artifacts.found("training")[:1]
    assert kept() == [f"training/{first.name}/{CHECKPOINT}"]
    monkeypatch.setattr(training_files, "CHECKPOINT_BYTES", checkpoint.size * 3 // 2)
    second = two.score(two.setting.space.base, seed=1)
    assert kept() == [f"training/{second.name}/{CHECKPOINT}"]
    for store in machines:  # nor does the working copy keep any
        assert not list(store.run.trainings.rglob(CHECKPOINT))


def test_studies_of_one_place_do_not_meet(
    write_study: WriteStudy, place: str, tmp_path: Path
) -> None:
    path = write_study(artifacts=place)
    one = open_run(tmp_path / "one", load_setting(path))
    path = path.rename(tmp_path / "second.yaml")
    two = open_run(tmp_path / "two", load_setting(path))
    write(one.path, "trials/0/metrics.json", "{}")
    one.artifacts.push("trials/0/metrics.json")
    assert two.artifacts.fetch("trials/0/metrics.json") is None
    assert RunDir(two.path).artifacts.address.endswith(f"{os.sep}second")


def test_a_place_that_is_lost_is_a_failure_with_a_name(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "mine", f"{tmp_path}/kept")
    write(artifacts.folder, "a", "a")
    artifacts.push("a")
    (tmp_path / "kept" / "a").unlink()
    (tmp_path / "kept").rmdir()
    (tmp_path / "kept").write_text("in the way")
    with pytest.raises(ArchsearchError, match="kept/a: cannot be written"):
        artifacts.push("a")


@pytest.mark.parametrize("name", ["what?", "a::b", "x#y", "[z]*", "file:"])
def test_a_folder_may_be_called_anything(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    write(folder, "trials/3/metrics.json", "{}")
    own, shared = Artifacts(folder), Artifacts(tmp_path / "mine", str(folder))
    for artifacts in (own, shared):
        assert [each.name for each in artifacts.found("trials")] == ["trials/3/metrics.json"]
    assert shared.fetch("trials/3/metrics.json") is not None
