"""A study from its first to its last trial, in this process."""

import json
from pathlib import Path

import pytest
from optuna.trial import TrialState

from archsearch.data.prepare import Prepared
from archsearch.diffusion import quantise
from archsearch.errors import ArchsearchError
from archsearch.study import outputs, results, trials, worker
from archsearch.study import setting as setting_module
from archsearch.study.answer import answers, sentence
from archsearch.study.apart import noise_of
from archsearch.study.scoring import Scorer
from archsearch.study.setting import load_setting
from archsearch.study.worker import Worker

from .conftest import WriteStudy, started

pytestmark = pytest.mark.usefixtures("small_data")


def test_a_study_finishes_its_trials_and_leaves_a_front(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    run, study = started(write_study(), tmp_path / "run")
    Worker(run, 3).work()
    assert sum(trials.is_finished(trial) for trial in study.get_trials()) == 3
    members = results.front(study)
    assert members
    for member in members:
        assert (run.trial(member.number) / "samples.png").is_file()
        assert {"kid_effnet", "kid_effnet_floor"} <= results.candidate(
            run, member, run.setting().spec
        ).extra.keys()


def test_every_value_on_the_front_is_the_price_or_score_of_its_architecture(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    run, study = started(write_study(), tmp_path / "run")
    Worker(run, 3).work()
    setting = run.setting()
    for trial in results.complete(study):
        config = results.trial_config(run, trial.number)
        assert trial.values[1] == setting.costs(config)["macs"]
        assert config.digest == trial.user_attrs["digest"]
        metrics = json.loads((run.trial(trial.number) / "metrics.json").read_text())
        assert trial.values[0] == metrics["scores"]["val_loss"]


def test_more_trials_continue_where_the_run_stopped(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    run, study = started(write_study(), tmp_path / "run")
    Worker(run, 2).work()
    before = {trial.number: trial.values for trial in results.complete(study)}
    Worker(run, 4).work()
    after = {trial.number: trial.values for trial in results.complete(study)}
    assert len(after) == 4
    assert before.items() <= after.items()


def test_a_study_with_one_worker_repeats_exactly(write_study: WriteStudy, tmp_path: Path) -> None:
    path = write_study(search={"sampler": {"name": "nsga2", "population_size": 2}, "trials": 4})
    runs = [started(path, tmp_path / name) for name in ("a", "b")]
    for run, _ in runs:
        Worker(run, 4).work()
    left, right = ([(t.params, t.values) for t in results.complete(study)] for _, study in runs)
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
    run, study = started(write_study(search={"sampler": sampler, "trials": 5}), tmp_path / "run")
    Worker(run, 5).work()
    finished = results.complete(study)
    assert len(finished) == 5
    assert len({tuple(trial.params.items()) for trial in finished}) > 1


def test_an_interrupted_trial_is_named_and_runs_again(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, study = started(write_study(), tmp_path / "run")
    interrupted = Worker(run, 2)

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(interrupted.scorer, "score", stop)
    with pytest.raises(KeyboardInterrupt):
        interrupted.work()
    assert [trials.outcome(trial) for trial in study.get_trials()] == ["interrupted", "waiting"]
    first = study.get_trials()[0].params
    Worker(run, 2).work()
    trials = study.get_trials()
    assert trials[1].params == first
    assert sum(trials.is_finished(trial) for trial in trials) == 2


def test_a_killed_trial_is_seen_and_runs_again(write_study: WriteStudy, tmp_path: Path) -> None:
    run, study = started(write_study(), tmp_path / "run")
    killed = trials.ask(study, run, run.setting(), 2)
    assert killed is not None
    killed.set_user_attr(
        "worker", [*trials._identity(1)[:1], 2**22 - 3, 0.0]
    )  # a process that is not there
    assert trials.requeue_dead(study, run) == 1
    assert study.get_trials()[0].user_attrs["outcome"] == "interrupted"
    assert study.get_trials()[1].state == TrialState.WAITING


def test_a_living_trial_is_left_alone(write_study: WriteStudy, tmp_path: Path) -> None:
    run, study = started(write_study(), tmp_path / "run")
    trials.ask(study, run, run.setting(), 2)
    assert trials.requeue_dead(study, run) == 0
    assert study.get_trials()[0].state == TrialState.RUNNING


def test_no_more_trials_are_handed_out_than_asked_for(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    run, study = started(write_study(), tmp_path / "run")
    asked = [trials.ask(study, run, run.setting(), 2) for _ in range(3)]
    assert [trial is None for trial in asked] == [False, False, True]


def test_candidates_beyond_the_limits_are_never_trained(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    setting = load_setting(write_study())
    costs = sorted(
        setting.costs(setting.space.build(point))["params"] for point in setting.space.points()
    )
    path = write_study(limits={"params": costs[len(costs) // 2]})
    run, study = started(path, tmp_path / "run")
    Worker(run, 4).work()
    ended = [trials.outcome(trial) for trial in study.get_trials()]
    assert ended.count("complete") == 4
    assert "infeasible: limits" in ended
    assert all(
        trial.user_attrs["params"] <= costs[len(costs) // 2] for trial in results.complete(study)
    )


def test_a_search_that_finds_only_infeasible_candidates_gives_up(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "MAX_REJECTIONS", 5)
    run, _ = started(write_study(limits={"params": 1000}), tmp_path / "run")
    with pytest.raises(
        ArchsearchError, match=r"the last 5 candidates all broke .* params .* > 1,000"
    ):
        Worker(run, 2).work()


def test_a_diverging_trial_counts_and_the_study_goes_on(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    run, study = started(
        write_study(proxy={"learning_rate": 1e30, "warmup": 0.0}), tmp_path / "run"
    )
    Worker(run, 2).work()
    ended = [trials.outcome(trial) for trial in study.get_trials()]
    assert ended.count("diverged") == 2


def test_weights_stay_for_the_front_only(write_study: WriteStudy, tmp_path: Path) -> None:
    run, study = started(write_study(search={"trials": 6}), tmp_path / "run")
    Worker(run, 6).work()
    kept = {path.stem for path in run.weights.glob("*.safetensors")}
    assert kept == {trial.user_attrs["key"] for trial in study.best_trials}


def test_results_hold_the_front_with_architectures_that_rebuild(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    from archsearch.unet.config import UNetConfig

    run, study = started(write_study(), tmp_path / "run")
    Worker(run, 3).work()
    outputs.write_results(run, run.setting(), study, None)
    pareto = json.loads((run.path / "pareto.json").read_text())
    for member in pareto["front"]:
        config = UNetConfig.model_validate(member["config"])
        assert config.digest == member["digest"]
        assert run.setting().proxy(config).to_dict() == member["proxy"]
    lines = (run.path / "pareto.csv").read_text().splitlines()
    assert len(lines) == 1 + len(pareto["front"])
    assert len((run.path / "trials.csv").read_text().splitlines()) == 1 + len(study.get_trials())


@pytest.mark.parametrize("how", ["knee", "min-latency", "best-quality"])
def test_a_member_can_be_picked(write_study: WriteStudy, tmp_path: Path, how: str) -> None:
    run, study = started(write_study(search={"trials": 5}), tmp_path / "run")
    Worker(run, 5).work()
    picked = results.pick(run, study, run.setting().spec, how)
    members = results.front(study)
    assert picked.number in {member.number for member in members}
    if how == "min-latency":
        assert picked.values[1] == min(member.values[1] for member in members)
    if how == "best-quality":
        assert picked.values[0] == min(member.values[0] for member in members)


def test_the_comparison_with_a_preset_counts_every_seed(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Prepared
) -> None:
    path = write_study(search={"trials": 5, "enqueue": "presets"})
    setting = load_setting(path)
    largest = max(
        setting.space.points(), key=lambda point: setting.costs(setting.space.build(point))["macs"]
    )
    monkeypatch.setattr(
        setting_module, "PRESETS", {"the-largest": lambda: setting.space.build(largest)}
    )
    run, study = started(path, tmp_path / "run")
    Worker(run, 5).work()
    found = answers(study, Scorer(run, run.setting(), data, worker.pick_device()))
    assert found[0]["preset"] == "the-largest"
    assert found[0]["rival_cost"] <= found[0]["preset_cost"]
    assert [len(found[0][f"{who}_quality_by_seed"]) for who in ("preset", "rival")] == [2, 2]
    assert "seed standard deviations" in sentence(found[0])
    assert (
        found[0]["preset_mean"] == found[0]["preset_quality_by_seed"][1]
    )  # the first seed chose the rival: left out


def test_a_quality_that_training_does_not_give_is_taken_of_every_seed(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(objectives={"val_loss_int8": "minimize", "macs": "minimize"}, report=[])
    run, study = started(path, tmp_path / "run")
    Worker(run, 3).work()
    noise = noise_of(run, study, run.setting().spec)
    assert noise is not None
    assert noise.score == "val_loss_int8"
    assert noise.repetitions == 2 * noise.networks > 0
    assert noise.seed_deviation
    further = [path.stem for path in run.scores.glob("*.json") if "." not in path.stem]
    front = {trial.user_attrs["key"] for trial in results.complete(study)}
    (repeated, *_) = set(further) - front
    assert not (run.weights / f"{repeated}.safetensors").exists()
    before = noise
    results_of = run.sampled(repeated)
    results_of.unlink()  # as a run of an earlier version left it: a training whose weights are gone, without the quality
    Worker(run, 3).work()
    assert results_of.is_file()
    assert noise_of(run, study, run.setting().spec) == before
    monkeypatch.setattr(
        quantise, "VERSION", 1000
    )  # a run that goes on under another version takes its seeds again
    stale = noise_of(run, study, run.setting().spec)
    assert stale is not None
    assert stale.repetitions == 0
    Worker(run, 3).work()
    assert json.loads(results_of.read_text())["scores"]["val_loss_int8"]["under"] == {
        "version": 1000
    }


def test_a_preset_that_nothing_undercuts_is_answered_too(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Prepared
) -> None:
    path = write_study(search={"trials": 3, "enqueue": "presets"})
    setting = load_setting(path)
    monkeypatch.setattr(
        setting_module, "PRESETS", {"the-smallest": lambda: setting.space.build(setting.cheapest())}
    )
    run, study = started(path, tmp_path / "run")
    Worker(run, 3).work()
    found = answers(study, Scorer(run, run.setting(), data, worker.pick_device()))
    assert sentence(found[0]).endswith("Not known: no other trial costs as little.")


def test_the_cheapest_of_the_space_is_tried_when_asked_for(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    path = write_study(search={"trials": 1, "enqueue": ["presets", "cheapest"]})
    setting = load_setting(path)
    run, study = started(path, tmp_path / "run")
    Worker(run, 1).work()
    least = min(
        setting.costs(setting.space.build(point))["macs"] for point in setting.space.points()
    )
    assert results.complete(study)[0].values[1] == least


def test_a_trial_whose_worker_is_killed_again_and_again_is_given_up(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    run, study = started(write_study(), tmp_path / "run")
    for _ in range(trials.MAX_KILLS):
        killed = trials.ask(study, run, run.setting(), 1)
        assert killed is not None
        killed.set_user_attr("worker", [*trials._identity(1)[:1], 2**22 - 3, 0.0])
        trials.requeue_dead(study, run)
    ended = [trials.outcome(trial) for trial in study.get_trials()]
    assert ended == ["interrupted"] * (trials.MAX_KILLS - 1) + ["infeasible: memory"]


def test_an_error_of_one_candidate_does_not_stop_the_next_start(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, study = started(write_study(), tmp_path / "run")
    broken = Worker(run, 1)
    monkeypatch.setattr(broken.scorer, "score", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        broken.work()
    assert trials.outcome(study.get_trials()[0]) == "failed"
    Worker(run, 1).work()
    assert len(results.complete(study)) == 1


def test_a_lost_lease_does_not_end_the_worker(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, study = started(write_study(), tmp_path / "run")
    slept = Worker(run, 2)
    real = slept.scorer.score
    calls = []

    def lose_the_first(*args: object, **kwargs: object) -> object:
        if not calls:
            running = next(
                trial for trial in study.get_trials() if trial.state == TrialState.RUNNING
            )
            with trials.lock(run):
                trials.give_back(study, running.number)
        calls.append(1)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(slept.scorer, "score", lose_the_first)
    slept.work()
    assert len(results.complete(study)) == 2
