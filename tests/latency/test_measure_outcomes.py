"""What happens when measuring does not go well, with a runtime that fails or is unquiet where it is
told to.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.measure import (
    RefusedError,
    WholeNetworks,
    claimed,
    jobs_of,
    measure_table,
    partial_path,
)
from archsearch.latency.paired import Sample
from archsearch.latency.parts import Part
from archsearch.latency.predict import MissingEntryError, predict
from archsearch.latency.stopwatch import MeasureSettings
from archsearch.latency.table import Correction, Failure, LatencyTable, keys_of
from archsearch.latency.workload import Workload, name_of
from archsearch.runtimes.base import RuntimeFacts
from archsearch.unet import units
from archsearch.unet.config import UNetConfig

UNITS: list[units.Unit] = [
    units.Input(4, 32, 8),
    units.TimeEmbedding(32, 128),
    units.Downsample(32, 8),
    units.Upsample(32, 4),
]


class Scripted:
    """Measures nothing: everything takes twice the reference, fails as told, and is unquiet as
    often as told.
    """

    facts = RuntimeFacts(
        "scripted", "scripted", "1.0", "none", "cpu", "float32", "nchw", has_full=True
    )

    def __init__(
        self,
        fails: Collection[Workload] = (),
        unquiet: dict[Workload, int] | None = None,
        wrong: Workload | None = None,
    ) -> None:
        self.settings = MeasureSettings(save_every=1)
        self.fails, self.unquiet, self.wrong = fails, dict(unquiet or {}), wrong
        self.seen: list[tuple[str, bool]] = []

    def measure(self, workload: Workload, full: bool = False) -> tuple[Sample, bool]:
        self.seen.append((name_of(workload), full))
        if workload == self.wrong:
            raise InputError("the runtime is gone")
        if workload in self.fails:
            raise ArchsearchError("operator\nnot supported")
        self.unquiet[workload] = self.unquiet.get(workload, 0) - 1
        sample = Sample(ratios=[1.5 if full else 2.0] * 3, reference=[5.0] * 4)
        return sample, self.unquiet[workload] < 0

    def close(self) -> None:
        pass


def test_a_failing_unit_is_recorded_and_the_rest_goes_on(tmp_path: Path, tiny: UNetConfig) -> None:
    bench = Scripted(fails=[UNITS[2]])
    table, outcome = measure_table(UNITS, bench, tmp_path / "t.json")
    assert table == LatencyTable.load(tmp_path / "t.json")
    assert set(table.by_unit) == {UNITS[0], UNITS[1], UNITS[3]}
    assert table.failed == [Failure(unit=UNITS[2], reason="operator not supported")]
    assert outcome.failed == {UNITS[2]: "operator not supported"}
    assert not partial_path(tmp_path / "t.json").exists()


def test_what_failed_is_tried_again_and_may_come_right(tmp_path: Path) -> None:
    measure_table(UNITS, Scripted(fails=[UNITS[2]]), tmp_path / "t.json")
    bench = Scripted()
    table, outcome = measure_table(UNITS, bench, tmp_path / "t.json")
    assert bench.seen == [("downsample(channels=32, size=8)", False)]
    assert table.failed == []
    assert UNITS[2] in table.by_unit
    assert not outcome.failed


def test_networks_with_failed_units_have_no_prediction(tmp_path: Path, tiny: UNetConfig) -> None:
    failing = keys_of([tiny])[0]
    table, outcome = measure_table(
        [], Scripted(fails=[failing, tiny]), tmp_path / "t.json", WholeNetworks([("tiny", tiny)])
    )
    assert table.whole == []
    assert outcome.failed_whole == {f"network {tiny.digest}": "operator not supported"}
    with pytest.raises(MissingEntryError, match=r"input\(.*\) \(failed: operator not supported\)"):
        predict(tiny, table)


def test_nothing_measured_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(
        ArchsearchError,
        match="nothing could be measured; the first of 4 failures: operator not supported",
    ):
        measure_table(UNITS, Scripted(fails=UNITS), tmp_path / "t.json")
    assert not (tmp_path / "t.json").exists()


def test_what_was_unquiet_is_tried_once_more_at_the_end(tmp_path: Path) -> None:
    bench = Scripted(unquiet={UNITS[1]: 1})
    table, _ = measure_table(UNITS, bench, tmp_path / "t.json")
    assert set(table.by_unit) == set(UNITS)
    assert len(bench.seen) == 5
    assert bench.seen[-1] == ("time(channels=32, width=128)", False)


def test_a_table_taken_while_the_machine_was_busy_is_not_stored(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    with pytest.raises(
        RefusedError,
        match=r"1 measurements refused.*time\(channels=32, width=128\) \(0%\)\. The others are",
    ):
        measure_table(UNITS, Scripted(unquiet={UNITS[1]: 9}), path)
    assert not path.exists()
    bench = Scripted()
    measure_table(UNITS, bench, path)
    assert [name for name, _ in bench.seen] == ["time(channels=32, width=128)"]


def test_a_runtime_that_is_gone_ends_it_and_what_was_measured_is_kept(tmp_path: Path) -> None:
    first = Scripted()
    measure_table(UNITS, first, tmp_path / "order.json")
    third = next(unit for unit in UNITS if name_of(unit) == first.seen[2][0])
    bench = Scripted(wrong=third)
    with pytest.raises(InputError, match="the runtime is gone"):
        measure_table(UNITS, bench, tmp_path / "t.json")
    assert partial_path(tmp_path / "t.json").exists()


def test_whole_networks_are_measured_again_far_apart_and_optimised_in_full(
    tmp_path: Path, tiny: UNetConfig
) -> None:
    bench = Scripted()
    part = Part("taesd-decoder")
    table, _ = measure_table(
        [], bench, tmp_path / "t.json", WholeNetworks([("tiny", tiny)], again=1, full=1), [part]
    )
    whole = [
        (name, full) for name, full in bench.seen if name.split("(")[0] not in units.UNIT_TYPES
    ]
    network = f"network {tiny.digest}"
    assert whole == [(network, False), ("taesd-decoder", False), (network, False), (network, True)]
    (line,) = table.whole
    assert (line.n, line.measured, line.p10, line.p90, line.repeat, line.full) == (
        6,
        10.0,
        10.0,
        10.0,
        0.0,
        7.5,
    )
    assert line.residual == pytest.approx(line.predicted / 10.0 - 1, abs=1e-4)
    assert [(time.part, time.n, time.p50) for time in table.parts] == [("taesd-decoder", 3, 10.0)]


def test_a_failing_unit_of_the_networks_to_fit_on_leaves_the_table(
    tmp_path: Path, tiny: UNetConfig
) -> None:
    bench = Scripted(fails=[keys_of([tiny])[0]])
    table, _ = measure_table(
        UNITS, bench, tmp_path / "t.json", WholeNetworks([("tiny", tiny)], ["tiny"])
    )
    assert table.correction == Correction()
    assert set(UNITS[1:]) <= set(table.by_unit)


def test_a_network_named_twice_is_measured_once(tmp_path: Path, tiny: UNetConfig) -> None:
    bench = Scripted()
    table, _ = measure_table(
        [], bench, tmp_path / "t.json", WholeNetworks([("a", tiny), ("b", tiny)], ["b"])
    )
    assert [line.name for line in table.whole] == ["a"]
    assert table.correction.fitted_on == [tiny.digest]
    assert sum("network" in name for name, _ in bench.seen) == 1


def test_what_stands_in_the_table_is_not_measured_again(tmp_path: Path, tiny: UNetConfig) -> None:
    path, parts = tmp_path / "t.json", [Part("taesd-decoder")]
    first, _ = measure_table([], Scripted(), path, WholeNetworks([("tiny", tiny)]), parts)
    bench = Scripted()
    again, _ = measure_table([], bench, path, WholeNetworks([("tiny", tiny)], ["tiny"]), parts)
    assert bench.seen == []
    assert again.parts == first.parts
    assert again.whole[0].measured == first.whole[0].measured
    assert again.correction.fitted_on == [tiny.digest]  # it can still be fitted on


def test_parts_keep_the_scale_that_later_entries_take(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    alone, _ = measure_table([], Scripted(), path, parts=[Part("taesd-decoder")])
    assert (
        measure_table([], Scripted(), path)[0].parts == alone.parts
    )  # nothing to measure is no error where there is a table
    both, _ = measure_table(UNITS, Scripted(), path)
    assert (both.reference.p50, both.parts) == (alone.reference.p50, alone.parts)


def test_another_job_into_the_same_table_loses_nothing(tmp_path: Path) -> None:
    path, third = tmp_path / "t.json", UNITS[2]
    with pytest.raises(InputError):
        measure_table(UNITS, Scripted(wrong=third), path)
    kept = len(json.loads(partial_path(path).read_text())["units"])
    other: units.Unit = units.Downsample(64, 8)
    table, _ = measure_table([other], Scripted(), path)
    assert len(table.entries) == kept + 1


def test_a_sample_is_measured_again_where_less_drift_is_allowed_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.json"
    with pytest.raises(RefusedError):
        measure_table(UNITS, Scripted(unquiet={UNITS[1]: 9}), path)
    data = json.loads(partial_path(path).read_text())
    data["units"][0]["sample"]["reference"] = [1.0, 100.0, 1.0, 100.0]
    partial_path(path).write_text(json.dumps(data))
    bench = Scripted()
    measure_table(UNITS, bench, path)
    assert len(bench.seen) == 2


def test_two_do_not_measure_into_one_table(tmp_path: Path) -> None:
    bench = Scripted()
    with (
        claimed(tmp_path / "t.json"),
        pytest.raises(InputError, match=r"t\.json: another process is measuring into it"),
    ):
        measure_table(UNITS, bench, tmp_path / "t.json")
    assert bench.seen == []
    measure_table(UNITS, Scripted(), tmp_path / "t.json")
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def test_one_graph_level_is_no_full_one_and_said_before_anything_is_measured(
    tmp_path: Path, tiny: UNetConfig
) -> None:
    bench = Scripted()
    bench.facts = replace(bench.facts, has_full=False)  # type: ignore[misc]
    with pytest.raises(
        InputError, match="--full: runtime scripted has one graph level only, 'none'"
    ):
        measure_table(UNITS, bench, tmp_path / "t.json", WholeNetworks([("tiny", tiny)], full=1))
    assert bench.seen == []


def test_units_are_measured_in_another_order_than_they_are_listed(tiny: UNetConfig) -> None:
    """A drift of the machine must not become one of kinds; the same seed gives the same order."""
    keys: list[units.Unit] = [units.Downsample(32 * width, 8) for width in range(1, 30)]
    order: Callable[[int], list[Workload]] = lambda seed: [  # noqa: E731
        job.workload for job in jobs_of(keys, [], 0, 0, seed)
    ]
    assert order(0) != keys
    assert order(0) == order(0)
    assert order(0) != order(1)
    assert set(order(0)) == set(keys)
