"""Whole networks beside what the sum of their units says."""

from pathlib import Path

import pytest

from archsearch.errors import InputError
from archsearch.latency.measure import WholeNetworks, measure_table
from archsearch.latency.paired import Bench
from archsearch.latency.predict import MissingEntryError, predict
from archsearch.latency.stopwatch import MeasureSettings
from archsearch.latency.table import LatencyTable, Whole, keys_of
from archsearch.latency.validate import draw_networks, summarise, validate_table
from archsearch.report.costs import draw_validation
from archsearch.runtimes.registry import get_runtime
from archsearch.search_space.space import load_space

SETTINGS = MeasureSettings(warmup=1, runs=3, max_drift=1e9, save_every=2)
SPACE = """
schema: 1
base: base.json
dimensions:
  depth: {path: "stages[0].down.length", choices: [1, 2, 3]}
  normalizer: {path: attention.normalizer, choices: [relu, softmax]}
  width: {path: "stages[0].channels", choices: [32, 64]}
"""


def line(measured: float, predicted: float, **more: float) -> Whole:
    return Whole(config=f"{int(measured):016x}", measured=measured, predicted=predicted, **more)


@pytest.fixture
def space(tiny: object, tmp_path: Path) -> Path:
    (tmp_path / "base.json").write_text(tiny.to_json())  # type: ignore[attr-defined]
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path / "space.yaml"


def test_summary_by_hand() -> None:
    lines = [
        line(100, 109, repeat=0.02, full=50.0),
        line(200, 196, repeat=0.04, full=160.0),
        line(300, 303),
        line(400, 500),
    ]
    summary = summarise(lines)
    assert summary.networks == 4
    assert summary.median_error == pytest.approx((0.09 + 0.02) / 2)
    assert summary.bias == pytest.approx((0.09 + 0.01) / 2)
    assert summary.max_error == pytest.approx(0.25)
    assert summary.within_10_percent == pytest.approx(0.75)
    assert summary.spearman == pytest.approx(1.0)
    assert summary.repeat_noise == pytest.approx(0.03)
    assert summary.full_gain == pytest.approx((2.0 + 1.25) / 2)


def test_ranks_the_wrong_way_round_are_seen() -> None:
    assert summarise([line(1, 30), line(2, 20), line(3, 10)]).spearman == pytest.approx(-1.0)
    assert summarise([line(1, 30), line(2, 20)]).spearman is None
    assert summarise([line(1, 30)]).repeat_noise is None
    with pytest.raises(InputError, match="no whole networks"):
        summarise([])


def test_a_table_is_validated_on_networks_it_has_not_seen(space: Path, tmp_path: Path) -> None:
    loaded = load_space(str(space))
    path = tmp_path / "t.json"
    every = [config for point in loaded.points() for config in [loaded.build(point)]]
    bench = Bench(get_runtime("onnxruntime"), SETTINGS)
    table, _ = measure_table([], bench, path, WholeNetworks([("n0", every[0])], ["n0"]))
    with pytest.raises(MissingEntryError):  # before anything is measured
        draw_networks(loaded, table, 12, seed=3)
    table, _ = measure_table(keys_of(every), bench, path)
    networks = draw_networks(loaded, table, 4, seed=3)
    assert networks == draw_networks(loaded, table, 4, seed=3)
    assert len({config.digest for _, config in networks}) == 4
    assert not {config.digest for _, config in networks} & set(table.correction.fitted_on)
    with pytest.raises(InputError, match="only 11 different networks"):
        draw_networks(loaded, table, 13, seed=3)

    seen: list[int] = []
    whole = WholeNetworks(networks, again=4, full=4)
    table, lines, _ = validate_table(path, whole, bench, lambda done, *_: seen.append(done))
    assert table == LatencyTable.load(path)
    assert {line.config for line in lines} <= {line.config for line in table.whole}
    assert all(line.repeat is not None and line.full is not None and line.n == 6 for line in lines)
    for found, (name, config) in zip(lines, networks, strict=True):
        assert found.name == name
        assert found.predicted == pytest.approx(predict(config, table).latency_ms, abs=1e-5)
    assert max(seen) == 12

    _, again, _ = validate_table(path, whole, bench, lambda *_: seen.append(-1))
    bench.close()
    assert again == lines
    assert -1 not in seen  # all of it stands in the table

    draw_validation("title", table.whole, table.correction.fitted_on, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_of_another_machine_is_not_validated_here(
    golden_path: Path, tiny: object, tmp_path: Path
) -> None:
    path = tmp_path / "t.json"
    path.write_text(golden_path.read_text())
    with (
        Bench(get_runtime("onnxruntime"), SETTINGS) as bench,
        pytest.raises(InputError, match=r"t\.json: was measured with another soc \('Example 3000'"),
    ):
        validate_table(path, WholeNetworks(), bench)
