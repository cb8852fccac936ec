"""A study from its first to its last trial, in this process."""

import json
from pathlib import Path

import pytest
import sqlalchemy as sql
from optuna.trial import TrialState

from archsearch import versions
from archsearch.catalog import trial_network
from archsearch.errors import ArchsearchError
from archsearch.study import proposals
from archsearch.study import setting as setting_module
from archsearch.study.notes import is_finished, notes_of, outcome
from archsearch.study.results import Noise, sentence
from archsearch.study.setting import load_setting
from archsearch.study.worker import Worker, run_trial
from archsearch.unet.config import UNetConfig

from .conftest import Sitting, WriteStudy, outcomes, started

pytestmark = pytest.mark.usefixtures("small_data")


def test_a_study_finishes_its_trials_and_leaves_a_front(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    run, results = started(write_study(), tmp_path / "run")
    Worker(run, 3).work()
    assert results.trials.finished() == 3
    assert results.front()
    for member in results.front():
        assert (run.trial(member.number) / "samples.png").is_file()
        assert {"kid_effnet", "kid_effnet_floor"} <= member.extra.keys()


def test_every_value_on_the_front_is_the_price_or_score_of_its_architecture(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    run, results = started(write_study(), tmp_path / "run")
    Worker(run, 3).work()
    for trial in results.complete():
        network = trial_network(run.path, trial.number)
        assert trial.scores["macs"] == run.setting().priced(network).scores["macs"]
        assert network.digest == trial.digest
        record = results.store.find(trial.key, 32)
        assert record
        assert trial.scores["val_loss"] == record.scores["val_loss"]
        assert results.metrics_of(trial.number)["scores"]["val_loss"] == trial.scores["val_loss"]


def test_more_trials_continue_where_the_run_stopped(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    run, results = started(write_study(), tmp_path / "run")
    Worker(run, 2).work()
    before = {trial.number: trial.scores for trial in results.complete()}
    Worker(run, 4).work()
    after = {trial.number: trial.scores for trial in results.complete()}
    assert len(after) == 4
    assert before.items() <= after.items()


def test_a_finished_study_that_is_worked_at_again_trains_nothing(
    write_study: WriteStudy, tmp_path: Path, sittings: list[Sitting]
) -> None:
    run, results = started(write_study(), tmp_path / "run")
    Worker(run, 3).work()
    done, trainings = results.pareto(), len(sittings)
    assert trainings == len(results.store.records()) >= 3
    Worker(run, 3).work()
    assert results.pareto() == done
    assert len(sittings) == trainings


def test_a_study_with_one_worker_repeats_exactly(write_study: WriteStudy, tmp_path: Path) -> None:
    path = write_study(search={"sampler": {"name": "nsga2", "population_size": 2}, "trials": 4})
    runs = [started(path, tmp_path / name) for name in ("a", "b")]
    for run, _ in runs:
        Worker(run, 4).work()
    left, right = ([(t.params, t.values) for t in results.trials.complete()] for _, results in runs)
    assert left == right


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "nsga2", "population_size": 2},
        {"name": "tpe", "startup_trials": 2},
        {"name": "random"},
    ],
)
def test_every_sampler_searches(
    write_study: WriteStudy, tmp_path: Path, sampler: dict[str, object]
) -> None:
    path = write_study(search={"sampler": sampler, "trials": 5}, report=[])
    run, results = started(path, tmp_path / "run")
    Worker(run, 5).work()
    assert outcomes(results) == ["complete"] * 5
    assert len({trial.digest for trial in results.complete()}) == 5


def test_candidates_beyond_the_limits_are_never_trained(
    write_study: WriteStudy, tmp_path: Path, sittings: list[Sitting]
) -> None:
    setting = load_setting(write_study())
    costs = sorted(
        setting.priced(setting.space.build(point)).scores["params"]
        for point in setting.space.points()
    )
    limit = costs[len(costs) // 2]
    run, results = started(write_study(limits={"params": limit}, report=[]), tmp_path / "run")
    Worker(run, 4).work()
    assert outcomes(results) == ["complete"] * 4
    assert all(trial.scores["params"] <= limit for trial in results.complete())
    assert len(sittings) == len(results.store.records())


def test_a_space_that_is_searched_through_ends_the_study_all_the_same(
    write_study: WriteStudy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sittings: list[Sitting],
) -> None:
    monkeypatch.setattr(proposals, "PATIENCE", 3)
    setting = load_setting(write_study())
    costs = sorted(
        setting.priced(setting.space.build(point)).scores["params"]
        for point in setting.space.points()
    )
    path = write_study(
        limits={"params": costs[1]}, search={"trials": 5, "confirm_seeds": 1}, report=[]
    )
    run, results = started(path, tmp_path / "run")
    Worker(run, 5).work()
    finished = results.trials.complete()
    assert len(finished) == 5
    assert [notes_of(trial)["from_store"] for trial in finished].count(True) == 3
    assert len(sittings) == 2


# What stops a trial


def test_an_interrupted_trial_is_named_and_runs_again(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, results = started(write_study(), tmp_path / "run")
    interrupted = Worker(run, 2)

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(interrupted.store, "score", stop)
    with pytest.raises(KeyboardInterrupt):
        interrupted.work()
    assert outcomes(results) == ["interrupted", "waiting"]
    first = results.trials.all()[0].params
    Worker(run, 2).work()
    trials = results.trials.all()
    assert trials[1].params == first
    assert sum(map(is_finished, trials)) == 2


def test_a_diverging_trial_counts_and_the_study_goes_on(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    path = write_study(proxy={"learning_rate": 1e30, "warmup": 0.0})
    run, results = started(path, tmp_path / "run")
    Worker(run, 2).work()
    assert outcomes(results) == ["diverged"] * 2
    assert "diverged at sample" in results.trial_table()["reason"][0]


def test_a_trial_without_memory_counts_and_is_named(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, results = started(write_study(), tmp_path / "run")
    worker = Worker(run, 1)

    def fail(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(worker.store, "score", fail)
    worker.work()
    assert outcomes(results) == ["infeasible: memory"]


def test_an_error_of_one_candidate_does_not_stop_the_next_start(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, results = started(write_study(), tmp_path / "run")
    broken = Worker(run, 1)
    monkeypatch.setattr(broken.store, "score", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        broken.work()
    assert outcomes(results) == ["failed"]
    assert results.trial_table()["reason"][0] == "ZeroDivisionError: division by zero"
    Worker(run, 1).work()
    assert len(results.complete()) == 1


def test_a_disk_that_is_full_is_not_the_candidates_doing(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, results = started(write_study(), tmp_path / "run")
    worker = Worker(run, 1)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker.store, "score", fail)
    with pytest.raises(OSError, match="No space left"):
        worker.work()
    assert outcomes(results) == ["interrupted", "waiting"]


def test_a_worker_whose_trial_was_given_to_another_goes_on(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, results = started(write_study(), tmp_path / "run")
    slept = Worker(run, 2)
    real = slept.store.score
    calls = []

    def lose_the_first(*args: object, **kwargs: object) -> object:
        if not calls:
            results.trials.give_back(results.trials.running()[0].number)
        calls.append(1)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(slept.store, "score", lose_the_first)
    slept.work()
    assert outcomes(results) == ["interrupted", "complete", "complete"]


def test_a_trial_that_another_worker_has_trained_is_answered_from_the_store(
    write_study: WriteStudy, tmp_path: Path, sittings: list[Sitting]
) -> None:
    run, results = started(write_study(), tmp_path / "run")
    worker = Worker(run, 1)
    asked = worker.trials.ask(1)
    assert asked
    worker.store.score(asked.candidate.network)
    run_trial(worker.trials, asked)
    (trial,) = results.trials.all()
    assert (outcome(trial), trial.state) == ("complete", TrialState.COMPLETE)
    assert notes_of(trial)["from_store"] is True
    assert len(sittings) == 1


def test_a_search_that_finds_nothing_ends_its_worker(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposals, "MAX_REJECTIONS", 5)
    run, results = started(write_study(limits={"params": 1000}), tmp_path / "run")
    with pytest.raises(ArchsearchError, match="the last 5 candidates all broke"):
        Worker(run, 2).work()
    assert outcomes(results) == ["infeasible: limits"]


# What is left


def test_weights_stay_for_the_front_only(write_study: WriteStudy, tmp_path: Path) -> None:
    run, results = started(write_study(search={"trials": 6}), tmp_path / "run")
    Worker(run, 6).work()
    assert {path.stem for path in run.weights.iterdir()} == {
        f"{member.key}-32" for member in results.front()
    }
    for member in results.front():
        assert results.weights(member.number).is_file()


def test_weights_of_what_is_no_trial_are_left_alone(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    run, results = started(write_study(report=[]), tmp_path / "run")
    worker = Worker(run, 2)
    longer = worker.store.score(worker.setting.space.base, 64)
    worker.work()
    assert worker.store.files.weights(longer.name).is_file()
    assert f"{longer.key}-64" not in {f"{trial.key}-32" for trial in results.complete()}


def test_results_hold_the_front_with_architectures_that_rebuild(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    run, results = started(write_study(), tmp_path / "run")
    Worker(run, 3).work()
    results.write()
    pareto = json.loads((run.path / "pareto.json").read_text())
    for member in pareto["front"]:
        config = UNetConfig.model_validate(member["config"])
        assert config.digest == member["digest"]
        assert run.setting().proxy(config).to_dict() == member["proxy"]
        assert member["sampled"]["kid_effnet"] > 0
    lines = (run.path / "pareto.csv").read_text().splitlines()
    assert len(lines) == 1 + len(pareto["front"])
    assert len((run.path / "trials.csv").read_text().splitlines()) == 1 + len(outcomes(results))


@pytest.mark.parametrize("how", ["knee", "min-latency", "best-quality"])
def test_a_member_can_be_picked(write_study: WriteStudy, tmp_path: Path, how: str) -> None:
    run, results = started(write_study(search={"trials": 5}, report=[]), tmp_path / "run")
    Worker(run, 5).work()
    picked, members = results.pick(how), results.front()
    assert picked.number in {member.number for member in members}
    if how == "min-latency":
        assert picked.scores["macs"] == min(member.scores["macs"] for member in members)
    if how == "best-quality":
        assert picked.believed["val_loss"] == min(member.believed["val_loss"] for member in members)


# Further seeds, and the answer


def _named(monkeypatch: pytest.MonkeyPatch, path: Path, name: str, pick: object) -> None:
    """Let the network that ``pick`` chooses by its MACs be the one preset."""
    setting = load_setting(path)
    networks = [setting.space.build(point) for point in setting.space.points()]
    chosen = pick(networks, key=lambda network: setting.priced(network).scores["macs"])  # type: ignore[operator]
    monkeypatch.setattr(setting_module, "PRESETS", {name: lambda: chosen})


def test_the_comparison_with_a_preset_counts_every_seed(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(search={"trials": 5, "enqueue": "presets"}, report=[])
    _named(monkeypatch, path, "the-largest", max)
    run, results = started(path, tmp_path / "run")
    Worker(run, 5).work()
    (found,) = results.answers()
    assert found["preset"] == "the-largest"
    assert found["rival_cost"] <= found["preset_cost"]
    assert found["seeds"] == {"preset": 2, "rival": 2}
    assert found["gain_low"] < found["gain"] < found["gain_high"]
    assert found["gain"] == pytest.approx(found["preset_mean"] - found["rival_mean"])
    assert "better with a probability of" in sentence(found)
    assert results.pareto([found])["answer"]["sentences"] == [sentence(found)]


def test_a_preset_that_nothing_undercuts_is_answered_too(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(search={"trials": 3, "enqueue": "presets"}, report=[])
    _named(monkeypatch, path, "the-smallest", min)
    run, results = started(path, tmp_path / "run")
    Worker(run, 3).work()
    (found,) = results.answers()
    assert "Not known: no other trial costs as little." in sentence(found)
    assert found["as_good_trial"] is None


def test_a_quality_that_training_does_not_give_is_taken_of_every_seed(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(objectives={"val_loss_int8": "minimize", "macs": "minimize"}, report=[])
    run, results = started(path, tmp_path / "run")
    Worker(run, 3).work()
    store, noise = results.store, results.noise()
    assert noise is not None
    assert noise.score == "val_loss_int8"
    assert noise.repetitions == 2 * noise.networks > 0
    assert noise.seed_deviation
    table = store.records()
    repeated = [store.find(key, 32) for key in table[table.seed > 0].key]
    assert len(repeated) == noise.networks
    for record in repeated:  # what only says how much a score scatters keeps no weights
        assert record
        assert not store.files.weights(record.name).exists()

    with store.engine.begin() as connection:  # as where it was cut off between the two
        statement = "DELETE FROM archsearch_metrics WHERE key = :key"
        connection.execute(sql.text(statement), {"key": repeated[0].key})
    assert results.noise() != noise
    Worker(run, 3).work()
    assert results.noise() == noise

    monkeypatch.setattr(versions, "QUANTISING", 1000)
    assert results.noise() == Noise("val_loss_int8", None, 0, 0)
    Worker(run, 3).work()
    assert all(store.known_metrics(record).keys() == {"val_loss_int8"} for record in repeated)
