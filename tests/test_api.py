"""The public API: what the README promises, from Python."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import archsearch as a
from archsearch.errors import InputError
from archsearch.latency.predict import predict
from archsearch.study.setting import STEPS
from archsearch.unet.presets import preset
from tests.study.conftest import (  # fixtures of the small study
    Sitting,
    WriteStudy,
    data,  # noqa: F401
    in_process,  # noqa: F401
    kill_holder,
    own_cache,  # noqa: F401
    sittings,  # noqa: F401
    small_data,  # noqa: F401
    write_study,  # noqa: F401
)

PACKAGE = Path(a.__file__).parent
SLOW = ("torch", "optuna", "diffusers", "scipy", "transformers", "pandas", "matplotlib")


def imported_by(statement: str) -> set[str]:
    """Those of the slow packages that a new Python has imported after a statement."""
    script = f"{statement}\nimport sys\nprint('|', *(m for m in {SLOW!r} if m in sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    return set(out.rpartition("|")[2].split())


# What is imported


def test_the_package_is_imported_at_once() -> None:
    assert imported_by("import archsearch as a; a.__version__, dir(a)") == set()


def test_every_name_of_the_package_is_there() -> None:
    assert set(a.__all__) <= set(dir(a))
    for name in a.__all__:
        assert getattr(a, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        a.nothing  # noqa: B018


def test_no_module_uses_private_names_of_optuna() -> None:
    private = re.compile(r"optuna[\w.]*\._[a-z]|\bstudy\._|\btrial\._|\._(trial|study)_id\b")
    used = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text().splitlines()
        if private.search(line)
    ]
    assert used == []


# Networks


def test_an_architecture_has_a_price_and_can_be_built() -> None:
    network = a.arch("mobilediffusion-lite")
    assert network == preset("mobilediffusion-lite")
    assert isinstance(network, a.UNetConfig)
    assert a.price(network).macs > a.price(network).params > 2e8
    small = a.UNetConfig.model_validate(
        {"sample_size": 8, "norm_groups": 8, "stages": [{"channels": 16, "down": [{}], "up": [{}]}]}
    )
    model = a.build(small)
    drawn = model(torch.zeros(2, 4, 8, 8), torch.zeros(2), torch.zeros(2, 77, 768))
    assert drawn.shape == (2, 4, 8, 8)
    assert sum(parameter.numel() for parameter in model.parameters()) == a.price(small).params


def test_an_architecture_is_found_by_name_file_or_trial(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(a.arch("sd15").to_json())
    assert a.arch(path) == a.arch("sd15")
    with pytest.raises(InputError, match="Did you mean 'sd15'"):
        a.arch("sd51")
    with pytest.raises(InputError, match="or best-quality, but got 'best'"):
        a.arch("runs/mine#best")
    with pytest.raises(InputError, match=r"nowhere is not a run: it has no study\.yaml"):
        a.arch("nowhere#3")


def test_a_table_predicts_a_latency() -> None:
    table = a.latency_table("cpu-onnxruntime-fp32")
    network = a.arch("mobilediffusion-lite")
    assert table.predict(network).ms == predict(network, table.table).latency_ms > 0
    with pytest.raises(InputError, match="table 'no-table' is not known"):
        a.latency_table("no-table")


def test_a_space_is_sampled() -> None:
    space = a.space("mobilediffusion")
    networks = space.sample(3, seed=0)
    assert networks == space.sample(3, seed=0) != space.sample(3, seed=1)
    assert isinstance(networks[0], a.UNetConfig)


# Studies


@pytest.fixture
def study(
    write_study: WriteStudy,  # noqa: F811
    tmp_path: Path,
    small_data: None,  # noqa: F811
    in_process: None,  # noqa: F811
) -> a.Study:
    path = write_study(report=[], search={"confirm_seeds": 1})
    return a.Study(path, tmp_path / "run", {"search.trials": 2})


def test_a_study_writes_nothing_before_it_runs(study: a.Study) -> None:
    assert (study.name, study.spec.search.trials) == ("small", 2)
    assert study.check().within_limits > 0
    assert set(study.space.dimensions) == {"outer", "inner", "layers"}
    assert repr(study) == f"Study('small', '{study.folder}')"
    assert not study.folder.exists()


def test_overrides_are_a_mapping_or_as_the_command_line_has_them(
    write_study: WriteStudy,  # noqa: F811
) -> None:
    path = write_study()
    mapped = {"search.trials": 5, "search.enqueue": ["cheapest"], "objectives.params": "minimize"}
    typed = ["search.trials=5", "search.enqueue=[cheapest]", "objectives.params=minimize"]
    assert a.Study(path, overrides=mapped).spec == a.Study(path, overrides=typed).spec
    assert a.Study(path).folder == Path("runs/small")
    with pytest.raises(InputError, match=r"search\.trails: is not a known key"):
        a.Study(path, overrides={"search.trails": 5})


def test_a_study_runs_and_gives_tables(study: a.Study) -> None:
    ticks: list[a.Study] = []
    front = study.run(workers=1, tick=ticks.append)
    assert ticks
    assert isinstance(front, pd.DataFrame)
    assert front.equals(study.front())
    assert list(front.macs) == sorted(front.macs)
    assert list(study.trials().outcome) == ["complete", "complete"]
    records = study.records(outcome="complete")
    assert set(front.val_loss) <= set(records.val_loss)
    assert study.pick("best-quality").digest in set(front.digest)
    assert a.arch(f"{study.folder}#{front.trial[0]}").digest == front.digest[0]
    for name in ("trials.csv", "pareto.csv", "pareto.json", "plots"):
        assert (study.folder / name).exists()


def test_a_run_is_opened_without_data_and_models(
    study: a.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = study.run(workers=1)
    from archsearch.data import prepare

    monkeypatch.setattr(prepare, "prepare", lambda *_: pytest.fail("data were asked for"))
    opened = a.Study.open(study.folder)
    assert (opened.name, opened.spec) == (study.name, study.spec)
    assert opened.front().equals(front)
    assert opened.write()
    with pytest.raises(InputError, match="is not a run"):
        a.Study.open(study.folder / "trials")


def test_a_run_of_another_study_is_refused(
    study: a.Study,
    write_study: WriteStudy,  # noqa: F811
) -> None:
    study.run(workers=1)
    another = a.Study(write_study(report=[]), study.folder, {"proxy.samples": 64})
    with pytest.raises(InputError, match=r"these differ: proxy\.samples \(32 → 64\)"):
        another.run(workers=1)


def test_a_search_is_driven_with_scores_of_ones_own(
    study: a.Study,
    sittings: list[Sitting],  # noqa: F811
) -> None:
    for _ in range(5):
        asked = study.ask()
        network, costs = asked.candidate.network, asked.candidate.costs.scores
        assert costs["macs"] == a.price(network).macs
        study.tell(asked, {"val_loss": 1e12 / costs["macs"], "kid_effnet": 3.0})
    assert list(study.trials().outcome) == ["complete"] * 5
    front = study.front()
    assert len(front) == 5  # less loss for more MACs: none is better in both
    assert study.pick("best-quality").digest == front.digest.iloc[-1]
    assert study.write()
    assert sittings == []
    with pytest.raises(InputError, match="val_loss is an objective, but was not given"):
        study.tell(study.ask(), {"kid_effnet": 3.0})


def test_a_candidate_that_is_told_without_scores_is_trained(
    study: a.Study,
    sittings: list[Sitting],  # noqa: F811
) -> None:
    asked = study.ask()
    study.tell(asked)
    (row,) = study.trials().to_dict("records")
    assert row["outcome"] == "complete"
    assert row["val_loss"] == study.records().val_loss[0]
    assert len(sittings) == 1
    study.run(workers=1)  # and a run goes on with it
    assert len(study.trials()) == 2


def test_what_was_asked_for_and_not_told_runs_again(
    study: a.Study,
    sittings: list[Sitting],  # noqa: F811
) -> None:
    asked = study.ask()
    study.run(workers=1)
    assert list(study.trials().outcome) == ["interrupted", "complete", "complete"]
    points = study.trials().filter(like="point.")
    assert points.iloc[0].equals(points.iloc[1])
    with pytest.raises(InputError, match="trial 0 has ended: it was given back by a run"):
        study.tell(asked, {"val_loss": 0.5})


def test_what_another_object_of_this_process_asked_for_runs_again(study: a.Study) -> None:
    study.ask()
    a.Study(study.setting.document.path, study.folder, {"search.trials": 2}).run(workers=1)
    assert list(study.trials().outcome) == ["interrupted", "complete", "complete"]


def test_a_network_is_trained_and_measured_when_asked_for(study: a.Study) -> None:
    network = study.space.base
    record = study.store.score(network)
    assert isinstance(record, a.Record)
    assert isinstance(study.store, a.Store)
    assert study.store.metric(record, "val_loss_int8") > 0
    assert study.train(network)["val_loss"] == record.scores["val_loss"]
    assert (study.folder / "weights.safetensors").is_file()


def test_an_interrupted_run_keeps_what_it_has(
    study: a.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    from archsearch.study import worker

    in_turn = worker.run_workers

    def stop(run: Any, target: Any, count: int, tick: Any, *rest: Any) -> None:
        in_turn(run, 1, count, tick, *rest)
        asked = study.ask()
        kill_holder(study.store, f"trial {asked.number}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker, "run_workers", stop)
        with pytest.raises(KeyboardInterrupt):
            study.run(workers=1)
    assert (study.folder / "pareto.csv").is_file()
    study.run(workers=1)
    assert list(study.trials().outcome) == ["complete", "interrupted", "complete"]


def test_an_estimate_trains_nothing(
    study: a.Study,
    sittings: list[Sitting],  # noqa: F811
) -> None:
    found = study.estimate(workers=2)
    assert found["seconds_per_trial"] > 0
    assert found["drawn"] >= found["valid"] >= found["within_limits"] > 0
    assert found["sampling_steps"] == []
    assert sittings == []
    assert not study.folder.exists()


def test_what_does_not_fit_together_is_refused(study: a.Study) -> None:
    with pytest.raises(InputError, match="--address belongs to --engine ray"):
        study.run(address="auto")
    assert not study.folder.exists()
    assert STEPS not in study.space.dimensions
