"""Real measurements of a few small units: short, and lenient about noise."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency import paired
from archsearch.latency.measure import (
    RefusedError,
    WholeNetworks,
    fit_correction,
    header_of,
    measure_networks,
    measure_table,
    partial_path,
)
from archsearch.latency.paired import Bench
from archsearch.latency.predict import predict
from archsearch.latency.stopwatch import MeasureSettings
from archsearch.latency.table import Correction, LatencyTable, describe, keys_of
from archsearch.runtimes.base import facts
from archsearch.runtimes.registry import get_runtime
from archsearch.unet import units
from archsearch.unet.config import UNetConfig

SETTINGS = MeasureSettings(warmup=1, runs=3, max_drift=1e9, save_every=2)
UNITS: list[units.Unit] = [
    units.Input(4, 32, 16),
    units.TimeEmbedding(32, 128),
    units.Residual(32, 32, 16, "full", 128, 8),
    units.Projection(32, 8, 8),
    units.SelfAttention(64, 64, 8, False, "softmax"),
    units.CrossAttention(64, 64, 8, True, "relu", 48, 12),
    units.FeedForward(32, 64, 4, "geglu"),
    units.Output(32, 4, 16, 8),
]
ONNX = get_runtime("onnxruntime")


def build(
    wanted: list[units.Unit],
    output: Path,
    runtime: str = "onnxruntime",
    settings: MeasureSettings = SETTINGS,
    **more: Any,
) -> LatencyTable:
    with Bench(get_runtime(runtime), settings) as bench:
        return measure_table(wanted, bench, output, **more)[0]


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_builds_a_table(runtime: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int, float]] = []
    path = tmp_path / "table.json"
    table = build(UNITS, path, runtime, progress=lambda *state: seen.append(state))
    assert table == LatencyTable.load(path)
    assert set(table.by_unit) == set(UNITS)
    assert table.name == f"cpu-{runtime}-fp32"
    assert table.runtime.startswith(f"{runtime} ")
    assert (table.warmup, table.runs, table.threads) == (1, 3, 1)
    assert all(
        0 < entry.p10 <= entry.p50 <= entry.p90 < 1000 and entry.n == 3 for entry in table.entries
    )
    assert [state[:2] for state in seen] == [(number, 8) for number in range(1, 9)]
    assert seen[-1][2] == 0
    assert not partial_path(path).exists()


def test_more_work_takes_longer(tmp_path: Path) -> None:
    small, large = (
        units.Residual(32, 32, 8, "full", 128, 8),
        units.Residual(128, 128, 32, "full", 128, 8),
    )
    table = build([small, large], tmp_path / "table.json")
    assert table.by_unit[large].p50 > 5 * table.by_unit[small].p50


def test_interrupted_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "table.json", Bench.measure
    measured: list[units.Unit] = []

    def measure(self: Bench, workload: units.Unit | UNetConfig, full: bool = False) -> object:
        if len(measured) == 3:
            raise KeyboardInterrupt
        assert not isinstance(workload, UNetConfig)
        measured.append(workload)
        return real(self, workload)

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "measure", measure)
        with pytest.raises(KeyboardInterrupt):
            build(UNITS, path)
    assert not path.exists()
    kept = json.loads(partial_path(path).read_text())["units"]
    assert [line["kind"] for line in kept] == [unit.kind for unit in measured]

    seen: list[int] = []
    table = build(UNITS, path, progress=lambda done, total, _: seen.append(done))
    assert seen == [4, 5, 6, 7, 8]
    assert set(table.by_unit) == set(UNITS)
    for unit, line in zip(measured, kept, strict=True):
        ratios = sorted(line["sample"]["ratios"])
        assert table.by_unit[unit].p50 == pytest.approx(ratios[1] * table.reference.p50, abs=1e-5)


def test_what_was_measured_otherwise_is_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    build(UNITS[:1], path)
    with pytest.raises(
        InputError,
        match=r"table\.json: was measured with another warmup \(1 there, 2 here\), runs \(3 there",
    ):
        build(UNITS, path, settings=dataclasses.replace(SETTINGS, runs=4, warmup=2))
    with pytest.raises(InputError, match="another runtime"):
        build(UNITS, path, "torch")


def test_broken_partial_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    for content in (
        "{",
        "[]",
        '{"schema": 9}',
        '{"schema": 1, "header": {}, "units": [], "whole": {}}',
    ):
        partial_path(path).write_text(content)
        with pytest.raises(
            InputError,
            match=r"table\.json\.partial\.json: is no partial latency table .* delete it",
        ):
            build(UNITS[:1], path)


def test_a_table_that_is_there_gains_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    first = build(UNITS[:2], path)
    second = build(UNITS[1:4], path)
    assert set(second.by_unit) == set(UNITS[:4])
    assert all(second.by_unit[unit] == first.by_unit[unit] for unit in UNITS[:2])
    assert second.reference.p50 == first.reference.p50
    assert build([], path).entries == second.entries
    with pytest.raises(InputError, match="nothing to measure"):
        build([], tmp_path / "other.json")


def test_whole_networks_are_measured_predicted_and_fitted(tiny: UNetConfig, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    wide = UNetConfig.model_validate(
        tiny.to_dict()
        | {"stages": [{"channels": 128, "down": [{}], "up": [{}]}], "sample_size": 16}
    )
    table = build([], path, whole=WholeNetworks([("tiny", tiny), ("wide", wide)], ["wide"]))
    assert set(table.by_unit) == set(keys_of([tiny, wide]))
    assert [(line.name, line.config) for line in table.whole] == [
        ("tiny", tiny.digest),
        ("wide", wide.digest),
    ]
    assert table.correction.fitted_on == [wide.digest]
    lines = {line.name: line for line in table.whole}
    assert lines["wide"].predicted == pytest.approx(lines["wide"].measured, rel=1e-4)
    assert lines["tiny"].predicted == pytest.approx(predict(tiny, table).latency_ms, abs=1e-5)
    again = build([], path, whole=WholeNetworks([("tiny", tiny)], ["tiny"]))
    assert [line.name for line in again.whole] == ["wide", "tiny"]
    assert again.whole[0].predicted == pytest.approx(predict(wide, again).latency_ms, rel=1e-3)
    with pytest.raises(InputError, match="fit_on: nobody not among the whole networks"):
        build([], path, whole=WholeNetworks([("tiny", tiny)], ["nobody"]))


def test_refused_units_are_named_and_the_rest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "table.json", Bench.measure

    def measure(self: Bench, workload: units.Unit | UNetConfig, full: bool = False) -> object:
        sample, _ = real(self, workload)
        return sample, workload != UNITS[2]

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "measure", measure)
        with pytest.raises(RefusedError, match=r"1 measurements refused.*residual\(in_channels=32"):
            build(UNITS[:4], path)
    assert not path.exists()
    seen: list[int] = []
    assert set(build(UNITS[:4], path, progress=lambda done, *_: seen.append(done)).by_unit) == set(
        UNITS[:4]
    )
    assert seen == [4]


def test_a_runtime_that_does_not_run_here_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = get_runtime("coreml")
    monkeypatch.setattr(type(runtime), "available", lambda self: "coreml runs on macOS only")
    with pytest.raises(InputError, match="coreml cannot measure here: coreml runs on macOS only"):
        Bench(runtime, SETTINGS)


def test_what_cannot_be_converted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(ONNX, SETTINGS)

    def fail(*_: object) -> object:
        raise RuntimeError("unsupported operator")

    monkeypatch.setattr(paired, "measure_paired", fail)
    monkeypatch.setattr(type(ONNX), "convert", fail)
    with pytest.raises(
        ArchsearchError,
        match=r"input\(in_channels=4.*onnxruntime cannot convert it: unsupported operator",
    ):
        bench.measure(UNITS[0])
    bench.close()


def test_descriptions_are_readable() -> None:
    assert describe(units.Downsample(64, 32)) == "downsample(channels=64, size=32)"


def test_this_machine_is_described() -> None:
    header = header_of(facts(ONNX), SETTINGS)
    assert header.device == "cpu"
    assert header.soc
    assert header.os
    with pytest.raises(InputError, match=r"header of the table: device: .*but got 'a/b'"):
        header_of(facts(ONNX), dataclasses.replace(SETTINGS, device="a/b"))


def test_networks_alone_are_measured_once_each_and_kept(tiny: UNetConfig, tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    first = measure_networks([tiny, tiny], ONNX, SETTINGS, path, open_bench=Bench)
    assert (first.refused, first.failed) == ([], {})
    assert list(first.samples) == [tiny.digest]

    def never(*_: object) -> Bench:
        raise AssertionError("all is known: nothing is to be opened")

    assert measure_networks([tiny], ONNX, SETTINGS, path, open_bench=never) == first


def test_scale_is_robust_and_names_its_networks() -> None:
    digests = [f"{index:016x}" for index in range(5)]
    pairs = [
        (digest, 10.0 * (index + 1), 9.5 * (index + 1)) for index, digest in enumerate(digests)
    ]
    pairs[0] = (digests[0], 10.0, 30.0)  # one measured while something else ran
    fitted = fit_correction(pairs)
    assert fitted.scale == pytest.approx(0.95)
    assert fitted.offset == 0.0
    assert fitted.fitted_on == digests
    assert Correction() == Correction(scale=1.0, offset=0.0, fitted_on=[])
