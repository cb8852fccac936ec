"""The front measured whole, beside what was predicted."""

import json
from pathlib import Path
from typing import Any

import pytest

from archsearch.data.prepare import Prepared
from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.paired import Sample
from archsearch.latency.stopwatch import MeasureSettings
from archsearch.latency.table import LatencyTable
from archsearch.latency.workload import Workload
from archsearch.runtimes.base import Runtime, facts
from archsearch.study import worker
from archsearch.study.remeasure import remeasure, runtime_of
from archsearch.study.results import Results
from archsearch.study.worker import Worker

from .conftest import WriteStudy, WriteTable, started

PHONE = Path(__file__).parents[2] / "latency_tables" / "iphone-15-pro.published.json"


class Stopwatch:
    """Measures everything to take four times the reference; stops, or fails, when told to."""

    def __init__(self, runtime: Runtime, settings: MeasureSettings) -> None:
        self.facts, self.settings, self.measured = facts(runtime), settings, 0
        self.raises: BaseException | None = None

    def measure(self, workload: Workload, full: bool = False) -> tuple[Sample, bool]:
        if self.raises and self.measured:
            raise self.raises
        self.measured += 1
        return Sample(ratios=[4.0] * 5, reference=[7.0] * 6), True

    def close(self) -> None:
        pass


@pytest.fixture
def finished(
    write_study: WriteStudy,
    write_table: WriteTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: Prepared,
) -> Results:
    """A finished run with a table of this machine, and one of another."""
    monkeypatch.setattr(worker, "prepare", lambda spec, latent: data)
    tables = [str(write_table("here")), str(write_table("there", soc="Another"))]
    path = write_study(
        objectives={"val_loss": "minimize", "params": "minimize"},
        report=[],
        search={"trials": 4, "confirm_seeds": 1},
        deployment={"tables": tables},
    )
    run, results = started(path, tmp_path / "run")
    Worker(run, 4).work()
    return results


def test_the_runtime_of_a_table_is_the_one_that_made_it(write_table: WriteTable) -> None:
    assert runtime_of(LatencyTable.load(write_table("here"))).name == "onnxruntime"


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({"soc": "A17"}, "soc ('A17' there"),
        ({"dtype": "float8"}, "dtype ('float8' there"),
        ({"runtime": "tflite 2.0"}, "no runtime here is tflite"),
    ],
)
def test_a_table_of_another_machine_is_told_by_what_differs(
    write_table: WriteTable, header: dict[str, str], told: str
) -> None:
    with pytest.raises(InputError) as raised:
        runtime_of(LatencyTable.load(write_table("there", **header)))
    assert told in str(raised.value)


def test_what_was_measured_stands_beside_what_was_predicted(finished: Results) -> None:
    found = remeasure(finished, open_bench=Stopwatch)
    members = finished.front()
    assert len(found.lines) == len(members)
    assert "soc ('Another' there" in found.skipped["there"]
    for line, trial in zip(found.lines, members, strict=True):
        kept = finished.metrics_of(trial.number)["measured"]["here"]
        assert kept["measured"] == line.measured == 20.0  # four times the table's reference of 5 ms
        assert kept["predicted"] == trial.scores["latency_ms[here]"]
        assert kept["error"] == pytest.approx(kept["predicted"] / 20.0 - 1, abs=1e-5)
    finished.write()
    run = finished.run
    assert "latency_ms[here] measured" in (run.path / "pareto.csv").read_text().splitlines()[0]
    entry = json.loads((run.path / "pareto.json").read_text())["front"][0]
    assert entry["latency_measured"]["here"]["measured"] == 20.0


def test_cut_off_it_goes_on_where_it_stopped(finished: Results) -> None:
    benches: list[Stopwatch] = []

    def open_bench(stop: BaseException | None) -> Any:
        def make(runtime: Runtime, settings: MeasureSettings) -> Stopwatch:
            benches.append(Stopwatch(runtime, settings))
            benches[-1].raises = stop
            return benches[-1]

        return make

    networks = len({trial.digest for trial in finished.front()})
    assert networks > 1
    with pytest.raises(KeyboardInterrupt):
        remeasure(finished, open_bench=open_bench(KeyboardInterrupt()))
    remeasure(finished, open_bench=open_bench(None))
    assert [bench.measured for bench in benches] == [1, networks - 1]
    remeasure(finished, open_bench=open_bench(None))
    assert len(benches) == 2  # all is known: nothing is opened


def test_a_network_that_fails_is_named_and_the_others_stay(finished: Results) -> None:

    def failing(runtime: Runtime, settings: MeasureSettings) -> Stopwatch:
        bench = Stopwatch(runtime, settings)
        bench.raises = ArchsearchError("no such operator")
        return bench

    found = remeasure(finished, open_bench=failing)
    assert len(found.lines) == 1
    assert found.failed
    assert all("no such operator" in failure for failure in found.failed)
    assert found.failed[0].startswith("here: network ")


def test_published_figures_cannot_be_measured_and_no_table_is_refused(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    path = write_study(report=[], deployment={"tables": [str(PHONE)]})
    _, results = started(path, tmp_path / "phone")
    assert remeasure(results).skipped == {
        "iphone-15-pro.published": "published figures: there is no runtime to measure with"
    }
    _, results = started(write_study(report=[]), tmp_path / "none")
    with pytest.raises(InputError, match="the study has no latency table"):
        remeasure(results)
