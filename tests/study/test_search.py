"""What is trained next: candidates of the model, rungs, repetitions, an end by time."""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsearch.errors import InputError
from archsearch.study.beliefs import verdict
from archsearch.study.clock import Clock
from archsearch.study.front import hypervolume, non_dominated
from archsearch.study.results import Results
from archsearch.study.search import Further, gains
from archsearch.study.setting import InfeasibleError, load_setting
from archsearch.study.spec import Limit, StudySpec
from archsearch.study.worker import Worker

from .conftest import STUDY, Sitting, WriteStudy, started

SURROGATE = {"sampler": {"name": "surrogate", "startup_trials": 3}, "confirm_seeds": 1}
UNIT = st.floats(0, 1, allow_nan=False)


@given(
    st.lists(st.tuples(UNIT, UNIT), min_size=0, max_size=8),
    st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=4),
)
def test_a_gain_is_the_difference_of_two_hypervolumes(
    front: list[tuple[float, float]], points: list[tuple[float, float]]
) -> None:
    corner = np.array([0.9, 0.9])
    known = np.array(front).reshape(-1, 2)
    known = known[non_dominated(known)] if len(known) else known
    found = gains(known, np.array(points), corner)
    before = hypervolume(known, corner)
    for point, gain in zip(points, found, strict=True):
        after = hypervolume(np.vstack([known, point]), corner)
        assert gain == pytest.approx(after - before, abs=1e-12)


def search(study: Path, folder: Path, trials: int) -> tuple[Worker, Results]:
    run, results = started(study, folder)
    worker = Worker(run, trials)
    worker.work()
    return worker, results


@pytest.mark.usefixtures("small_data")
class TestSurrogate:
    def test_every_network_is_another_until_the_space_is_through(
        self, write_study: WriteStudy, tmp_path: Path
    ) -> None:
        path = write_study(search=SURROGATE | {"repeats": 0.0}, report=[])
        _, results = search(path, tmp_path / "run", 12)
        digests = [trial.digest for trial in results.complete()]
        assert len(set(digests)) == len(digests) == 12

    def test_its_first_candidates_vary_every_knob(
        self, write_study: WriteStudy, tmp_path: Path
    ) -> None:
        sampler = {"name": "surrogate", "startup_trials": 9}
        path = write_study(search=SURROGATE | {"sampler": sampler, "repeats": 0.0}, report=[])
        _, results = search(path, tmp_path / "run", 9)
        for knob, dimension in results.setting.space.dimensions.items():
            counts = [
                sum(trial.point[knob] == value for trial in results.complete())
                for value in {trial.point[knob] for trial in results.complete()}
            ]
            assert len(counts) == len(dimension.values)
            assert min(counts) >= 2

    def test_a_study_repeats_also_where_it_was_cut_off(
        self, write_study: WriteStudy, tmp_path: Path
    ) -> None:
        path = write_study(search=SURROGATE, report=[])
        _, one = search(path, tmp_path / "one", 8)
        for count in (2, 5, 8):
            _, other = search(path, tmp_path / "other", count)
        found = [
            [(trial.point, trial.scores["val_loss"]) for trial in each.complete()]
            for each in (one, other)
        ]
        assert found[0] == found[1]
        assert len(found[0]) == 8
        seeds = [each.store.records().groupby("key").seed.sum().to_dict() for each in (one, other)]
        assert seeds[0] == seeds[1]

    def test_a_share_of_the_trainings_repeats_what_is_in_doubt(
        self, write_study: WriteStudy, tmp_path: Path
    ) -> None:
        path = write_study(search=SURROGATE | {"repeats": 0.3}, report=[])
        _, results = search(path, tmp_path / "run", 7)
        records = results.store.records()
        repeated = records[records.seed > 0]
        assert 0.15 <= len(repeated) / len(records) <= 0.3
        known = {trial.key for trial in results.complete()}
        assert set(records[records.seed == 0].key) == known
        assert set(repeated.proxy) <= set(records[records.seed == 0].proxy)

    def test_repetitions_go_to_presets_and_to_members_of_the_front(
        self, write_study: WriteStudy, tmp_path: Path
    ) -> None:
        path = write_study(search=SURROGATE | {"repeats": 0.5}, report=[])
        _, results = search(path, tmp_path / "run", 5)
        records = results.store.records()
        seeds = records.groupby("proxy").seed.nunique()
        presets = {each.key for each in results.presets()}
        of_presets = records[records.key.isin(presets)].proxy.unique()
        assert (seeds[of_presets] > 1).all()
        assert (seeds.drop(of_presets) > 1).any()

    def test_costs_alone_can_be_searched(self, write_study: WriteStudy, tmp_path: Path) -> None:
        objectives = {"macs": "minimize", "params": "minimize", "peak_activation_bytes": "minimize"}
        path = write_study(objectives=objectives, search=SURROGATE, report=[])
        _, results = search(path, tmp_path / "run", 8)
        assert results.front()
        assert results.answers() == []


@pytest.mark.usefixtures("small_data")
class TestRungs:
    RUNGS = SURROGATE | {"rungs": {"count": 3, "eta": 2}, "repeats": 0.0}

    def test_budgets_rise_to_the_studys_own(self) -> None:
        def budgets(samples: int, **rungs: int) -> tuple[int, ...]:
            study = STUDY | {"proxy": STUDY["proxy"] | {"samples": samples}}
            study = study | {"search": {"rungs": rungs}}
            return StudySpec.model_validate(study).budgets

        assert budgets(64, count=3, eta=2) == (16, 32, 64)
        assert budgets(64, count=1) == (64,)
        assert budgets(100, count=2, eta=3) == (32, 100)
        assert budgets(16, count=4, eta=4) == (8, 16)

    def test_the_better_half_goes_on_from_its_checkpoint(
        self, write_study: WriteStudy, tmp_path: Path, sittings: list[Sitting]
    ) -> None:
        path = write_study(search=self.RUNGS, report=[])
        _, results = search(path, tmp_path / "run", 8)
        records = results.store.records()
        counts = records.groupby("budget").key.nunique().to_dict()
        assert counts[8] == 8
        assert 4 <= counts[16] <= 8
        assert counts[32] >= 2
        # No picture was seen twice by one training: each budget goes on from the one before.
        assert sum(sitting.goal - sitting.began for sitting in sittings) == sum(
            records.groupby("key").budget.max()
        )
        longest = {trial.number: trial.budget for trial in results.complete()}
        assert {longest[member.number] for member in results.front()} == {32}
        for member in results.front():
            assert results.weights(member.number).is_file()
            assert (
                results.metrics_of(member.number)["scores"]["val_loss"]
                == (member.scores["val_loss"])
            )

    def test_what_is_believed_to_be_on_the_front_ends_at_the_longest(
        self, write_study: WriteStudy, tmp_path: Path
    ) -> None:
        path = write_study(search=self.RUNGS, report=[])
        _, results = search(path, tmp_path / "run", 6)
        assert all(member.budget == 32 for member in results.front())
        assert all(member.chance is not None for member in results.front())


@pytest.mark.usefixtures("small_data")
class TestTime:
    def test_a_search_ends_when_its_minutes_are_over(
        self, write_study: WriteStudy, tmp_path: Path
    ) -> None:
        path = write_study(search=SURROGATE | {"minutes": 0.05, "trials": 1000}, report=[])
        run, results = started(path, tmp_path / "run")
        worker = Worker(run, 1000)
        clock = worker.store.clock
        clock.beat()
        real = worker.trials.next

        def beating(target: int) -> Any:
            clock.beat()
            return real(target)

        worker.trials.next = beating  # type: ignore[method-assign]
        worker.work()
        assert 1 <= results.trials.finished() < 27
        assert clock.left() < 3

    def test_time_of_two_sittings_at_once_counts_once(
        self, write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, results = started(write_study(), tmp_path / "run")
        now = [1000.0]
        monkeypatch.setattr("archsearch.study.clock.time.time", lambda: now[0])
        engine = results.store.engine
        one, other = (Clock(engine, "small", 2.0) for _ in range(2))
        for clock, at in ((one, 1000), (other, 1010), (one, 1030), (other, 1050)):
            now[0] = at
            clock.beat()
        assert one.seconds() == other.seconds() == 50
        now[0] = 2000
        third = Clock(engine, "small", 2.0)
        third.beat()
        now[0] = 2020
        third.beat()
        assert third.seconds() == 70
        assert third.left() == 50
        assert Clock(engine, "another", None).left() == math.inf


def test_a_lower_limit_keeps_capacity(write_study: WriteStudy) -> None:
    setting = load_setting(write_study(limits={"params": {"min": 3_000_000, "max": 9_000_000}}))
    points = list(setting.space.points())
    assert points
    for point in points:
        params = setting.priced(setting.space.build(point)).scores["params"]
        within = 3_000_000 <= params <= 9_000_000
        with nullcontext() if within else pytest.raises(InfeasibleError, match=r"params .* [<>] "):
            setting.candidate(point)


@given(st.floats(1, 100), st.floats(1, 100), st.floats(0, 200))
def test_a_limit_says_what_breaks_it(one: float, other: float, value: float) -> None:
    low, high = sorted((one, other))
    limit = Limit(min=low, max=high)
    assert (limit.broken(value) is None) == (low <= value <= high)
    assert Limit.model_validate(limit.model_dump()) == limit
    assert Limit.model_validate(high).broken(value) == Limit(max=high).broken(value)


@pytest.mark.usefixtures("small_data")
def test_an_earlier_front_points_and_configs_are_tried_first(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    path = write_study(search=SURROGATE, report=[])
    _, earlier = search(path, tmp_path / "earlier", 4)
    earlier.write()
    front = [member.digest for member in earlier.front()]
    first = {
        "points": [{"outer": 128, "inner": 64, "layers": "ca"}],
        "configs": [f"{tmp_path}/earlier#0"],
        "warm_start": str(tmp_path / "earlier"),
    }
    path = write_study(search=SURROGATE | first, report=[])
    setting = load_setting(path)
    assert len(setting.spec.search.points) == 2 + len(front)
    assert setting.spec.search.configs == ()
    _, results = search(path, tmp_path / "run", 2 + len(front))
    tried = [trial.digest for trial in results.complete()]
    assert tried[1] == earlier.complete()[0].digest
    assert set(front) <= set(tried)
    again = started(path, tmp_path / "run")[1]
    assert [trial.digest for trial in again.complete()] == tried


def test_verdicts() -> None:
    assert verdict(-0.004, -0.001, 0.003) == "better"
    assert verdict(-0.004, 0.002, 0.003) == "no worse"
    assert verdict(0.001, 0.002, 0.003) == "no worse"
    assert verdict(0.001, 0.004, 0.003) == "worse"
    assert verdict(-0.004, 0.004, 0.003) == "not known"


def test_a_further_training_is_named_by_its_claim() -> None:
    further = Further(12, 2160, 3)
    assert Further.of_claim(further.claim) == further


@pytest.mark.usefixtures("small_data")
def test_effects_say_what_a_knob_saves_and_what_is_known_of_its_quality(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    path = write_study(search=SURROGATE, report=[])
    _, results = search(path, tmp_path / "run", 8)
    table = results.beliefs().effects()
    assert set(table.knob) == {"outer", "inner", "layers"}
    assert len(table) == 6  # three choices each, one of them the reference
    assert (table["val_loss low"] <= table["val_loss"]).all()
    assert (table["val_loss"] <= table["val_loss high"]).all()
    outer = table[table.knob == "outer"].set_index("choice")
    assert outer["macs ratio"][256] > outer["macs ratio"][128] > 1
    assert set(table["val_loss verdict"]) <= {
        "better", "no worse", "worse", "not known", "not judged"
    }  # fmt: skip


def test_effects_of_a_run_without_trainings_are_refused(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    from archsearch import Study

    started(write_study(), tmp_path / "run")
    with pytest.raises(InputError, match="has no training with a score yet"):
        Study.open(tmp_path / "run").effects()
