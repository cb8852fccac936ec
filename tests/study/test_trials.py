"""Asking a sampler for candidates, telling what came of them, and what is left by the dead."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from archsearch.errors import ArchsearchError, InputError
from archsearch.study import deaths, proposals
from archsearch.study import setting as setting_module
from archsearch.study import trials as trials_module
from archsearch.study.notes import is_finished, notes_of, outcome
from archsearch.study.results import Results
from archsearch.study.setting import Setting, load_setting
from archsearch.study.trials import Asked, Trials

from ..conftest import Cli
from .conftest import WriteStudy, kill_holder, outcomes, rewrite_claim, started

Search = Callable[..., Results]


@pytest.fixture
def search(write_study: WriteStudy, tmp_path: Path) -> Search:
    """Begin the trials of the small study, some keys changed; the same folder again goes on."""

    def search(**changes: Any) -> Results:
        return started(write_study(**changes), tmp_path / "run")[1]

    return search


def ask(trials: Trials, target: int | None = None) -> Asked:
    asked = trials.ask(target)
    assert asked is not None
    return asked


def another(results: Results) -> Trials:
    """The same trials, as another worker sees them."""
    store = type(results.store)(results.run, results.setting)
    return Trials(results.run, results.setting, store)


def costs(setting: Setting, name: str) -> list[float]:
    """What the networks of the space cost, rising."""
    return sorted(
        setting.priced(setting.space.build(point)).scores[name] for point in setting.space.points()
    )


def take_preset(monkeypatch: pytest.MonkeyPatch, setting: Setting, cost: str, last: bool) -> None:
    """Let the cheapest network of the space, or the dearest, be the one preset."""
    found = sorted(
        (setting.space.build(point) for point in setting.space.points()),
        key=lambda network: setting.priced(network).scores[cost],
    )
    monkeypatch.setattr(setting_module, "PRESETS", {"named": lambda: found[-1 if last else 0]})


# Asking


def test_no_more_trials_are_handed_out_than_asked_for(search: Search) -> None:
    trials = search().trials
    assert [trials.ask(2) is None for _ in range(3)] == [False, False, True]
    assert [trials.ask() is None for _ in range(2)] == [False, False]


def test_a_trial_is_noted_with_what_it_costs_and_its_architecture(search: Search) -> None:
    results = search()
    asked = ask(results.trials)
    assert asked.number == 0
    attrs = notes_of(results.trials.running()[0])
    assert attrs["digest"] == asked.candidate.network.digest
    assert attrs["macs"] == results.setting.priced(asked.candidate.network).scores["macs"]
    assert (results.run.trial(0) / "config.json").is_file()
    assert results.store.claims.is_held("trial 0")


def test_limits_are_told_to_the_sampler_as_constraints(search: Search) -> None:
    results = search(limits={"params": 10**9, "macs": 10**12})
    scores = ask(results.trials).candidate.costs.scores
    (trial,) = results.trials.all()
    assert trial.constraints == pytest.approx(
        {"params": scores["params"] / 1e9 - 1, "macs": scores["macs"] / 1e12 - 1}
    )
    assert all(value <= 0 for value in trial.constraints.values())


def test_candidates_that_break_a_limit_are_no_trials_but_counted(
    search: Search, setting: Setting
) -> None:
    limit = costs(setting, "params")[len(costs(setting, "params")) // 3]
    results = search(limits={"params": limit})
    for _ in range(6):
        asked = ask(results.trials)
        assert asked.candidate.costs.scores["params"] <= limit
        results.trials.tell(asked.trial, {"val_loss": 0.3})
    assert outcomes(results) == ["complete"] * 6
    assert results.redrawn()["infeasible: limits"] > 0


def test_the_status_of_a_run_says_what_was_redrawn(
    search: Search, setting: Setting, cli: Cli
) -> None:
    results = search(limits={"params": costs(setting, "params")[3]})
    for _ in range(3):
        results.trials.tell(ask(results.trials).trial, {"val_loss": 0.3})
    code, out, _ = cli("status", results.run.path, "--json")
    assert code == 0
    shown = json.loads(out)
    assert (shown["finished"], shown["outcomes"]) == (3, {"complete": 3})
    assert shown["redrawn"] == results.redrawn()
    _, out, _ = cli("status", results.run.path)
    count = shown["redrawn"]["infeasible: limits"]
    assert f"Proposals that became no trial: {count} infeasible: limits" in out


@pytest.mark.parametrize("sampler", ["random", "nsga2", "tpe"])
def test_what_a_sampler_proposes_twice_is_asked_for_once(
    search: Search, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposals, "PATIENCE", 1000)
    results = search(search={"sampler": {"name": sampler}, "trials": 12, "seed": 1})
    for number in range(12):
        results.trials.tell(ask(results.trials).trial, {"val_loss": 0.3 + number / 100})
    assert outcomes(results) == ["complete"] * 12
    assert len({trial.digest for trial in results.complete()}) == 12
    assert results.redrawn()["repeated"] > 0  # else this test says nothing


def test_of_two_that_run_together_the_later_is_another(search: Search, setting: Setting) -> None:
    first, second = costs(setting, "params")[:2]
    assert first < second
    results = search(limits={"params": second})
    asked = [ask(results.trials), ask(another(results))]
    assert len({each.candidate.network.digest for each in asked}) == 2


def test_a_space_that_is_searched_through_answers_from_the_store(
    search: Search, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposals, "PATIENCE", 3)
    results = search(limits={"params": costs(setting, "params")[1]})
    for _ in range(5):
        results.trials.tell(ask(results.trials).trial, {"val_loss": 0.3})
    assert outcomes(results) == ["complete"] * 5
    assert len({trial.digest for trial in results.complete()}) == 2
    assert [notes_of(t).get("repeated", False) for t in results.trials.all()].count(True) == 3


def test_a_search_that_finds_only_infeasible_candidates_gives_up(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposals, "MAX_REJECTIONS", 5)
    results = search(limits={"params": 1000})
    with pytest.raises(
        ArchsearchError, match=r"the last 5 candidates all broke .* params .* > 1,000"
    ):
        results.trials.ask()
    assert outcomes(results) == ["infeasible: limits"]
    assert not is_finished(results.trials.all()[0])
    assert not results.trials.running()


# What is tried first


def test_a_preset_within_the_limits_is_tried_first_and_once(
    search: Search, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_preset(monkeypatch, setting, "macs", last=False)
    search()
    results = search()  # taken up again: nothing is queued twice
    assert [outcome(trial) for trial in results.trials.all()] == ["waiting"]
    asked = ask(results.trials)
    assert notes_of(results.trials.all()[asked.number])["preset"] == "named"


def test_a_preset_that_breaks_a_limit_ends_by_name_and_the_next_is_taken(
    search: Search, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_preset(monkeypatch, setting, "params", last=True)
    results = search(limits={"params": costs(setting, "params")[-1] - 1})
    asked = ask(results.trials)
    assert outcomes(results) == ["infeasible: limits", "running"]
    assert notes_of(results.trials.all()[0])["preset"] == "named"
    assert "params" in notes_of(results.trials.all()[0])["reason"]
    assert asked.number == 1
    assert results.trials.finished() == 0


def test_the_cheapest_of_the_space_is_tried_when_asked_for(
    search: Search, setting: Setting
) -> None:
    results = search(search={"enqueue": ["presets", "cheapest"]})
    assert ask(results.trials).candidate.costs.scores["macs"] == costs(setting, "macs")[0]


def test_what_was_asked_for_by_name_is_no_repetition(
    search: Search, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_preset(monkeypatch, setting, "macs", last=False)
    results = search(search={"enqueue": ["presets", "cheapest"]})
    asked = [ask(results.trials) for _ in range(2)]
    assert asked[0].candidate.network == asked[1].candidate.network
    assert results.redrawn() == {}


# Telling


def test_scores_from_outside_end_a_trial(search: Search) -> None:
    results = search()
    asked = ask(results.trials)
    with pytest.raises(InputError, match="tell: val_loss is an objective, but was not given"):
        results.trials.tell(asked.trial, {"kid_effnet": 1.0})
    assert results.trials.running()
    results.trials.tell(asked.trial, {"val_loss": 0.25}, {"samples": 32})
    (trial,) = results.complete()
    assert trial.scores["val_loss"] == 0.25
    assert results.trials.complete()[0].values == [0.25, trial.scores["macs"]]
    assert notes_of(results.trials.complete()[0])["samples"] == 32
    assert not results.store.claims.is_held("trial 0")


@pytest.mark.parametrize(
    ("ended", "finished"),
    [("diverged", True), ("infeasible: memory", True), ("failed", False), ("interrupted", False)],
)
def test_only_what_ended_for_good_counts(search: Search, ended: str, finished: bool) -> None:
    results = search()
    results.trials.end(ask(results.trials).number, ended, "so it is")
    assert outcomes(results) == [ended]
    assert results.trials.finished() == finished
    assert list(results.trial_table()["reason"]) == ["so it is"]
    assert (results.trials.ask(1) is None) == finished


# Given back


def test_a_trial_that_is_given_back_runs_again(search: Search) -> None:
    results = search()
    first = ask(results.trials)
    results.trials.give_back(first.number)
    assert outcomes(results) == ["interrupted", "waiting"]
    assert not results.store.claims.is_held("trial 0")
    again = ask(results.trials)
    assert (again.number, again.candidate) == (1, first.candidate)
    results.trials.give_back(first.number)  # ended already: nothing
    assert outcomes(results) == ["interrupted", "running"]


def test_a_preset_that_is_given_back_is_still_the_preset(
    search: Search, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_preset(monkeypatch, setting, "macs", last=False)
    trials = search().trials
    trials.give_back(ask(trials).number)
    assert notes_of(ask(trials).trial)["preset"] == "named"


def test_a_trial_of_a_dead_worker_is_seen_and_runs_again(search: Search) -> None:
    results = search()
    killed = ask(results.trials)
    kill_holder(results.store, "trial 0")
    seen = another(results)
    assert seen.requeue_dead() == 1
    assert outcomes(results) == ["interrupted", "waiting"]
    assert results.trials.all()[0].state == TrialState.FAIL
    assert ask(seen).candidate == killed.candidate


def test_a_trial_of_a_living_worker_is_left_alone(search: Search) -> None:
    results = search()
    ask(results.trials)
    assert another(results).requeue_dead() == 0
    rewrite_claim(results.store, "trial 0", host="elsewhere")  # its heart still beats
    assert another(results).requeue_dead() == 0
    assert outcomes(results) == ["running"]


def test_a_trial_that_was_cut_off_before_it_had_a_point_is_asked_for_anew(search: Search) -> None:
    results = search()
    results.trials.study.ask()  # a worker that dies inside its first step
    assert results.trials.requeue_dead() == 1
    assert outcomes(results) == ["interrupted"]
    assert ask(results.trials).number == 1


def test_a_trial_whose_point_was_half_written_is_asked_for_anew(search: Search) -> None:
    results = search()
    whole = ask(results.trials)
    results.trials.give_back(whole.number)
    point = results.trials.all()[0].params
    other = another(results)
    trial = other.study.ask()  # of the trial that is queued
    trial.suggest_categorical("outer", [64, 128, 256])  # and here the worker dies
    other.requeue_dead()
    again = ask(results.trials)
    assert results.trials.all()[again.number].params == point
    half = results.trials.study.ask()
    half.suggest_categorical("outer", [64, 128, 256])
    assert results.trials.requeue_dead() == 1
    assert outcomes(results)[-1] == "interrupted"  # not queued: it has no point


@pytest.mark.parametrize("sampler", ["random", "nsga2", "tpe"])
def test_a_study_that_is_interrupted_proposes_what_it_would_have_proposed(
    write_study: WriteStudy, tmp_path: Path, sampler: str
) -> None:
    rest = {"population_size": 2} if sampler == "nsga2" else {}
    rest |= {"startup_trials": 2} if sampler == "tpe" else {}
    path = write_study(search={"sampler": {"name": sampler, **rest}})
    found = []
    for name, interruptions in (("a", 0), ("b", 2)):
        _, results = started(path, tmp_path / name)
        for done in range(6):
            for _ in range(interruptions):
                results.trials.give_back(ask(results.trials).number)
            if interruptions:
                results.trials.study.ask()  # a worker that dies inside its first step
                results.trials.requeue_dead()
            asked = ask(results.trials)
            results.trials.tell(
                asked.trial, {"val_loss": 1 / (1 + asked.candidate.costs.scores["macs"]) + done / 7}
            )
        found.append([(t.params, t.values) for t in results.trials.complete()])
    assert found[0] == found[1]


def test_a_trial_that_was_cut_off_while_it_was_queued_is_queued_once(search: Search) -> None:
    results = search()
    ask(results.trials)
    tell = results.trials.study.tell
    results.trials.study.tell = lambda *_, **__: None  # type: ignore[method-assign]
    results.trials.give_back(0)
    results.trials.study.tell = tell  # type: ignore[method-assign]
    assert outcomes(results) == ["running", "waiting"]
    assert results.trials.requeue_dead() == 1
    assert outcomes(results) == ["interrupted", "waiting"]


def die_and_requeue(results: Results, number: int, seen: int = 0) -> None:
    """Let the worker of a trial die after so many pictures; another finds it."""
    asked = ask(results.trials, 1)
    assert asked.number == number
    asked.trial.set_user_attr("samples_seen", seen)
    kill_holder(results.store, f"trial {number}")
    results.trials.requeue_dead()


def test_a_trial_whose_worker_is_killed_again_and_again_is_given_up(search: Search) -> None:
    results = search()
    for number in range(trials_module.MAX_KILLS):
        die_and_requeue(results, number)
    assert outcomes(results) == ["interrupted"] * (trials_module.MAX_KILLS - 1) + ["killed"]
    assert results.trials.finished() == 1


def test_that_it_was_memory_is_said_where_the_system_counts_it(
    search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("oom 5\noom_kill 5\n")
    monkeypatch.setattr(deaths, "_COUNTERS", (counter,))
    results = search()
    for number in range(trials_module.MAX_KILLS - 1):
        die_and_requeue(results, number)
    counted = ask(results.trials, 1).number
    counter.write_text("oom 6\noom_kill 6\n")
    kill_holder(results.store, f"trial {counted}")
    results.trials.requeue_dead()
    assert outcomes(results)[-1] == "infeasible: memory"


def test_a_trial_that_gets_further_each_time_is_not_given_up(search: Search) -> None:
    results = search()
    for number in range(trials_module.MAX_KILLS + 2):
        die_and_requeue(results, number, seen=8 * (number + 1))
    assert set(outcomes(results)) == {"interrupted", "waiting"}
    assert notes_of(results.trials.all()[-1])["kills"] == 1


def test_a_worker_that_died_with_its_coordinator_blames_nobody(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setattr("archsearch.study.deaths.os.getppid", lambda: gone.pid)
    results = search()
    for number in range(trials_module.MAX_KILLS + 1):
        die_and_requeue(results, number)
    assert set(outcomes(results)) == {"interrupted", "waiting"}


def test_a_run_that_is_killed_from_outside_gives_no_trial_up(search: Search) -> None:
    results = search()
    for number in range(trials_module.MAX_KILLS + 1):
        assert ask(results.trials, 1).number == number
        kill_holder(results.store, f"trial {number}")
        results.trials.requeue_dead(blame=False)
    assert set(outcomes(results)) == {"interrupted", "waiting"}


# Repetition


@pytest.mark.parametrize("sampler", ["random", "nsga2", "tpe"])
def test_proposals_depend_on_the_seed_and_what_was_told_alone(
    write_study: WriteStudy, tmp_path: Path, sampler: str
) -> None:
    def proposals(folder: str, seed: int, reopened: bool) -> list[str]:
        path = write_study(
            limits={"params": 10**7}, search={"sampler": {"name": sampler}, "seed": seed}
        )
        results, found = started(path, tmp_path / folder)[1], []
        for number in range(12):
            trials = another(results) if reopened else results.trials
            asked = ask(trials)
            found.append(asked.candidate.network.digest)
            trials.tell(asked.trial, {"val_loss": (number * 7 % 5) / 10})
        return found

    first = proposals("first", 3, reopened=False)
    assert proposals("again", 3, reopened=True) == first
    assert proposals("other", 4, reopened=False) != first


def test_a_run_without_trials_says_how_to_begin(setting: Setting, tmp_path: Path) -> None:
    from archsearch.study.rundir import open_run
    from archsearch.study.store import Store

    run = open_run(tmp_path / "run", load_setting(setting.document.path))
    with pytest.raises(InputError, match=r"study\.db: holds no study named 'small'"):
        Trials(run, setting, Store(run, setting))
