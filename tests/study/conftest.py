"""A study small enough to run for real in seconds: 16×16 pictures, networks of some thousand
parameters.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
import torch
import yaml

from archsearch import api
from archsearch.data import prepare as prepare_module
from archsearch.data.prepare import Prepared, prepare
from archsearch.data.spec import DataSpec
from archsearch.diffusion.trainer import Trainer
from archsearch.latency.measure import header_of
from archsearch.latency.predict import units_of
from archsearch.latency.stopwatch import MeasureSettings
from archsearch.latency.table import Entry, LatencyTable, PartTime, Reference
from archsearch.runtimes.base import facts
from archsearch.runtimes.registry import RUNTIMES
from archsearch.search_space.space import Space, SpaceFile
from archsearch.study import worker
from archsearch.study.results import Results
from archsearch.study.rundir import RunDir, open_run
from archsearch.study.setting import Setting, load_setting
from archsearch.study.store import Record, Store
from archsearch.study.trials import Trials
from archsearch.unet.config import UNetConfig

from ..servers import Server, postgres_server

SPACE: dict[str, Any] = {
    "schema": 1,
    "base": {
        "schema": 1,
        "norm_groups": 8,
        "sample_size": 16,
        "stages": [
            {"channels": 64, "down": [{}], "up": [{}]},
            {"channels": 128, "down": [{"transformers": 1, "layers": ["ca"]}], "up": [{}]},
        ],
    },
    "dimensions": {
        "outer": {"path": "stages[0].channels", "choices": [64, 128, 256]},
        "inner": {"path": "stages[1].channels", "choices": [64, 128, 256]},
        "layers": {"path": "stages[1].down[*].layers", "choices": [[], ["ca"], ["sa", "ca", "ff"]]},
    },
}
STUDY: dict[str, Any] = {
    "schema": 1,
    "space": "search_spaces/small.yaml",
    "data": {"size": 16, "tokens": 4},
    "proxy": {
        "width": 0.125,
        "sample_size": 16,
        "samples": 32,
        "batch": 8,
        "draws": 16,
        "precision": "fp32",
    },
    "objectives": {"val_loss": "minimize", "macs": "minimize"},
    "report": ["kid_effnet"],
    "sampling": {"steps": 2},
    "metrics": {"images": 8},
    "search": {"sampler": {"name": "random"}, "trials": 3, "confirm_seeds": 2},
    "engine": {"workers": 1},
}

WriteStudy = Callable[..., Path]
WriteTable = Callable[..., Path]
PARTS = {"clip-vit-l-14-text": 4.0, "taesd-decoder": 90.0}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache for all tests of studies, not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHSEARCH_CACHE", str(tmp_path_factory.mktemp("study-cache")))
        yield


def write_small_study(folder: Path, **changes: Any) -> Path:
    """Write the small space and study, some keys changed: ``write_small_study(search={...})``;
    returns the study's path.
    """
    (folder / "search_spaces").mkdir(exist_ok=True)
    (folder / "search_spaces" / "small.yaml").write_text(yaml.safe_dump(SPACE, sort_keys=False))
    study = {key: dict(value) if isinstance(value, dict) else value for key, value in STUDY.items()}
    study["space"] = str(folder / "search_spaces" / "small.yaml")
    for key, value in changes.items():
        study[key] = (
            study.get(key, {}) | value
            if isinstance(value, dict) and key not in ("objectives", "limits")
            else value
        )
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


@pytest.fixture
def write_study(tmp_path: Path) -> WriteStudy:
    """``write_small_study`` in the test's folder."""
    return partial(write_small_study, tmp_path)


def write_small_table(
    top: Path,
    device: str,
    ms: float = 1.0,
    leave_out: int = 0,
    parts: dict[str, float] = PARTS,
    folder: str = "latency_tables",
    **header: Any,
) -> Path:
    """Write a table of the small space as if measured here: a unit takes ``ms`` milliseconds,
    whatever it is; ``leave_out`` residual blocks are missing.

    ``write_small_table(top, "phone")`` makes ``phone.json``, of the device of that name; returns
    the table's path.
    """
    units = units_of(
        Space("small", SpaceFile.model_validate(SPACE), UNetConfig.model_validate(SPACE["base"]))
    )
    absent = [unit for unit in units if unit.kind == "residual"][:leave_out]
    here = header_of(
        facts(RUNTIMES["onnxruntime"]), MeasureSettings(warmup=0, runs=5, device=device)
    )
    table = LatencyTable(
        **(dict(here) | header),
        date="2026-01-01",
        cooling="none",
        reference=Reference(p50=5.0, drift=0.01),
        entries=[
            Entry(unit=unit, n=5, p10=ms, p50=ms, p90=ms) for unit in units if unit not in absent
        ],
        parts=[PartTime(part=name, n=5, p10=p50, p50=p50, p90=p50) for name, p50 in parts.items()],
    )
    path = top / folder / f"{device}.json"
    table.save(path)
    return path


@pytest.fixture
def write_table(tmp_path: Path) -> WriteTable:
    """``write_small_table`` in the test's folder."""
    return partial(write_small_table, tmp_path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database that folders can share, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shared.db"
    server: Server = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def setting(write_study: WriteStudy) -> Setting:
    return load_setting(write_study())


@pytest.fixture
def run(setting: Setting, tmp_path: Path) -> RunDir:
    return open_run(tmp_path / "run", setting)


@pytest.fixture(scope="session")
def data() -> Prepared:
    """The study's real data, cut to 64 training and 16 held-out pictures."""
    whole = prepare(DataSpec(size=16, tokens=4))
    rows = torch.cat([whole.train[:64], whole.held_out[:16]])
    return Prepared(
        images=whole.images[rows],
        captions=tuple(whole.captions[i] for i in rows),
        families=tuple(whole.families[i] for i in rows),
        context=whole.context[rows],
        null_context=whole.null_context,
        train=torch.arange(64),
        held_out=torch.arange(64, 80),
        fingerprint="80 pictures of the tests",
    )


@pytest.fixture
def small_data(monkeypatch: pytest.MonkeyPatch, data: Prepared) -> None:
    """Whatever is trained in this process learns from ``data``."""
    for module in (worker, prepare_module):
        monkeypatch.setattr(module, "prepare", lambda *_: data)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers run in this process, one after the other."""

    def run_workers(
        run: RunDir, target: worker.Target, count: int, tick: Callable[[], None], *_: Any
    ) -> None:
        for _ in range(count):
            worker.work(run, target)
        tick()

    monkeypatch.setattr(worker, "run_workers", run_workers)


@dataclass(frozen=True)
class Sitting:
    """A training that was begun or gone on with: pictures seen before, and how far it was to go."""

    proxy: str
    began: int
    goal: int


@pytest.fixture
def sittings(monkeypatch: pytest.MonkeyPatch) -> list[Sitting]:
    """Every sitting of a training in this process, as they come; those with nothing to do are left
    out.
    """
    found: list[Sitting] = []
    plain = Trainer.run

    def run(self: Trainer, samples: int, *rest: Any) -> bool:
        if self.samples < samples:
            found.append(Sitting(self.config.digest, self.samples, samples))
        return plain(self, samples, *rest)

    monkeypatch.setattr(Trainer, "run", run)
    return found


@pytest.fixture
def store(run: RunDir, data: Prepared) -> Store:
    return Store(run, run.setting(), data, torch.device("cpu"))


def started(path: Path, folder: Path) -> tuple[RunDir, Results]:
    """Open the run of the study at ``path``, begin its trials and look at them."""
    setting = load_setting(path)
    run = open_run(folder, setting)
    return run, Results(Trials(run, setting, Store(run, setting), create=True))


def finish(home: Path, data: Prepared) -> Path:
    """Make a small run in ``home/run``, search it to its end, and write all that a run writes."""
    (home / "search_spaces").mkdir()
    (home / "search_spaces" / "small.yaml").write_text(yaml.safe_dump(SPACE, sort_keys=False))
    study = STUDY | {"space": str(home / "search_spaces" / "small.yaml"), "report": []}
    (home / "small.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        for module in (worker, prepare_module):
            patch.setattr(module, "prepare", lambda *_: data)
        run, _ = started(home / "small.yaml", home / "run")
        worker.Worker(run, 3).work()
        found = api.Study(home / "small.yaml", run.path)
        found.write(found.results.answers())
    return home / "run"


def put(
    store: Store, proxy: str, losses: list[float], budget: int = 32, **changes: Any
) -> list[Record]:
    """Put trainings of a proxy into the store, a seed each; ``changes`` are of their conditions."""
    records = []
    for seed, loss in enumerate(losses):
        conditions = {
            "proxy": proxy,
            "data": "pictures",
            "recipe": {"init": "scratch", "precision": "fp32"},
            "seed": [0, seed],
        } | changes
        record = Record(
            key="-".join([proxy, str(seed), *map(str, changes.values())]),
            budget=budget,
            network=proxy,
            proxy=proxy,
            config={},
            seed=seed,
            conditions=conditions,
            outcome="complete" if math.isfinite(loss) else "diverged",
            scores={"val_loss": loss} if math.isfinite(loss) else {},
            details={"point": {"outer": 64}, "params": 1000, "macs": 100},
            machine="here",
        )
        store._write(record)
        records.append(record)
    return records


def outcomes(results: Results) -> list[str]:
    """How each trial ended."""
    return list(results.trial_table()["outcome"])


def rewrite_claim(store: Store, name: str, **values: Any) -> None:
    """Write into the row of a claim, by hand."""
    statement = sql.text(
        f"UPDATE archsearch_claims SET {', '.join(f'{key} = :{key}' for key in values)} "
        "WHERE name = :name AND study = :study"
    )
    at = {"name": name, "study": store.setting.name}
    with store.claims._engine.begin() as connection:
        assert connection.execute(statement, values | at).rowcount == 1


def kill_holder(store: Store, name: str) -> None:
    """Let a claim be one of a process that is not there any more."""
    rewrite_claim(store, name, pid=2**22 - 3, started=0.0)
