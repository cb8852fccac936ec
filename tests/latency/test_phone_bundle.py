"""Bundles: made, gone on with, run here with what they hold, and read back."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.phone import bundle as bundle_module
from archsearch.latency.phone.bundle import (
    CONVERTERS,
    MANIFEST,
    Conditions,
    Input,
    Item,
    Manifest,
    conditions_of,
    key_of,
    write_bundle,
)
from archsearch.latency.phone.returned import import_results
from archsearch.latency.process import Process
from archsearch.latency.stopwatch import MeasureSettings
from archsearch.latency.workload import Workload
from archsearch.unet import units
from archsearch.unet.config import UNetConfig

UNITS: list[tuple[str | None, Workload]] = [
    (None, units.Downsample(32, 16)),
    (None, units.TimeEmbedding(32, 128)),
]


@pytest.fixture
def conditions() -> Conditions:
    return conditions_of("onnx", threads=1, warmup=1, runs=2, seed=0)


def test_what_a_bundle_holds_runs_and_comes_back_as_a_table(
    tiny: UNetConfig, conditions: Conditions, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    manifest = write_bundle([*UNITS, ("small", tiny)], conditions, folder)
    assert Manifest.load(folder) == manifest
    assert [item.key for item in manifest.items] == [
        "reference",
        *(key_of(workload) for _, workload in [*UNITS, ("", tiny)]),
    ]
    assert manifest.workload_of(manifest.items[1]) == UNITS[0][1]
    for item in manifest.items:
        assert item.file
        assert (folder / item.file).is_file()
        for each in item.inputs:
            assert np.load(folder / each.file, allow_pickle=False).shape == tuple(each.shape)
    results = tmp_path / "results.json"
    command = [sys.executable, str(folder / "run_onnx.py"), "--output", str(results)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    imported = import_results(folder, results, "pixel-8", "Tensor G3", "Android 15", max_drift=1e9)
    table = imported.table
    assert set(table.by_unit) == {unit for _, unit in UNITS}
    assert table.name == "pixel-8-onnxruntime-fp32"
    assert all(entry.n >= 2 and 0 < entry.p10 <= entry.p50 <= entry.p90 for entry in table.entries)
    assert (imported.missing, imported.failed, imported.unpredicted) == ([], {}, ["small"])
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "1 of" not in again.stdout  # all of it was measured


def test_goes_on_where_it_was_cut_off(
    conditions: Conditions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = CONVERTERS["onnx"], []

    def convert(workload: Workload, seed: int, folder: Path) -> tuple[str, list[Input]]:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(workload)
        return real(workload, seed, folder)

    with monkeypatch.context() as patch:
        patch.setitem(CONVERTERS, "onnx", convert)
        with pytest.raises(KeyboardInterrupt):
            write_bundle(UNITS, conditions, tmp_path)
    assert not (tmp_path / MANIFEST).exists()
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == sorted(
        ["reference", key_of(UNITS[0][1])]
    )
    with pytest.raises(InputError, match=r"no manifest\.json: no bundle, or making it was cut off"):
        Manifest.load(tmp_path)
    made.clear()
    monkeypatch.setitem(CONVERTERS, "onnx", convert)
    manifest = write_bundle(UNITS, conditions, tmp_path)
    assert made == [UNITS[1][1]]
    assert len(manifest.items) == 3
    assert write_bundle(UNITS, conditions, tmp_path) == manifest


def test_does_not_touch_what_is_not_its_own(conditions: Conditions, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="holds something else than a bundle"):
        write_bundle(UNITS, conditions, tmp_path)
    with pytest.raises(InputError, match="is a file"):
        write_bundle(UNITS, conditions, tmp_path / "thesis.tex")
    write_bundle(UNITS[:1], conditions, tmp_path / "new")
    other = conditions.model_copy(update={"seed": 1, "runs": 3})
    with pytest.raises(
        InputError, match=r"made with another runs \(2 there, 3 now\), seed \(0 there, 1 now\)"
    ):
        write_bundle(UNITS[:1], other, tmp_path / "new")


def test_what_does_not_convert_is_said(
    conditions: Conditions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CONVERTERS["onnx"]

    def convert(workload: Workload, seed: int, folder: Path) -> tuple[str, list[Input]]:
        if isinstance(workload, units.TimeEmbedding):
            raise RuntimeError("unsupported operator")
        return real(workload, seed, folder)

    monkeypatch.setitem(CONVERTERS, "onnx", convert)
    manifest = write_bundle(UNITS, conditions, tmp_path)
    assert manifest.items[2].file is None
    assert manifest.items[2].failed
    assert "unsupported operator" in manifest.items[2].failed
    assert manifest.items[2].key not in manifest.order()
    monkeypatch.setattr(bundle_module, "REFERENCE_UNIT", UNITS[1][1])
    with pytest.raises(ArchsearchError, match="the reference block cannot be converted"):
        write_bundle([], conditions, tmp_path / "other")


def test_a_manifest_changed_by_hand_is_refused(conditions: Conditions, tmp_path: Path) -> None:
    write_bundle(UNITS[:1], conditions, tmp_path)
    path = tmp_path / MANIFEST
    text = path.read_text()
    path.write_text(text.replace('"runs": 2', '"runs": 9'))
    with pytest.raises(InputError, match="edited by hand"):
        Manifest.load(tmp_path)
    path.write_text(json.dumps(json.loads(text) | {"schema": 2}))
    with pytest.raises(InputError, match="schema: must be 1, but got 2"):
        Manifest.load(tmp_path)
    path.write_text(text[:200])
    with pytest.raises(InputError, match="is not valid JSON"):
        Manifest.load(tmp_path)


def test_a_shell_script_runs_a_tool_for_every_model(conditions: Conditions, tmp_path: Path) -> None:
    """The script itself, on this computer, with a program in the tool's place that writes what the
    tool writes.
    """
    manifest = write_bundle(UNITS, conditions, tmp_path / "bundle")
    tool = tmp_path / "onnxruntime_perf_test"
    tool.write_text(
        "#!/bin/sh\n"
        'while [ $# -gt 2 ]; do if [ "$1" = -r ]; then n=$2; fi; shift; done\n'
        'test -f "$1" || exit 3\n'
        'i=0; while [ $i -lt $n ]; do echo "model,0.00$((i + 1)),1000,99,$i" >>"$2"; i=$((i + '
        "1)); done\n"
    )
    tool.chmod(0o755)
    script = tmp_path / "bundle" / "run_onnx_android.sh"
    command, environment = ["sh", str(script), str(tool)], {"PATH": "/usr/bin:/bin", "ON": "local"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    results = tmp_path / "bundle" / "results"
    table = import_results(tmp_path / "bundle", results, "box", "x", "y", "1.31.1").table
    assert len(table.entries) == len(manifest.items) - 1
    assert table.reference.p50 == pytest.approx(2.5)  # the first of 1, 2 and 3 ms warms up
    assert (
        subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 2
    )


def test_another_python_converts_and_survives_what_it_cannot(tmp_path: Path) -> None:
    with Process("onnxruntime", MeasureSettings(), sys.executable, only_convert=True) as process:
        assert process.facts.library == "onnxruntime"
        conditions = conditions_of("onnx", threads=1, warmup=1, runs=2, seed=0, found=process.facts)
        convert = partial(process.convert, "onnx")
        (tmp_path / "broken").write_text("")
        with pytest.raises(ArchsearchError):
            convert(units.Downsample(32, 16), 0, tmp_path / "broken")
        manifest = write_bundle(UNITS[:1], conditions, tmp_path / "bundle", convert=convert)
    here = write_bundle(UNITS[:1], conditions, tmp_path / "here")
    assert manifest == here
    for item in manifest.items:
        for each in item.inputs:
            assert (tmp_path / "bundle" / each.file).read_bytes() == (
                tmp_path / "here" / each.file
            ).read_bytes()


def test_a_python_that_cannot_convert_is_bad_input() -> None:
    with pytest.raises(
        InputError, match="--runtime-python /nowhere/python: does not start: No such file"
    ):
        Process("onnxruntime", MeasureSettings(), Path("/nowhere/python"), only_convert=True)
    true = Path(shutil.which("true") or "true")
    with pytest.raises(
        InputError,
        match=r"--runtime-python .*true: cannot be used, its process ended with exit code 0",
    ):
        Process("onnxruntime", MeasureSettings(), true, only_convert=True)


def test_a_runtime_that_only_converts_there_is_no_measurer() -> None:
    pytest.importorskip("coremltools")
    if sys.platform == "darwin":
        pytest.skip("Core ML runs here")
    with Process("coreml", MeasureSettings(), only_convert=True) as process:
        assert process.facts.library == "coreml"
    with pytest.raises(InputError, match=r"runtime coreml cannot measure with .*macOS only"):
        Process("coreml", MeasureSettings())


@pytest.mark.parametrize(
    "thing",
    [
        {"part": {"evil": 1}},
        {"part": {"name": 1}},
        {"part": {"name": "taesd-decoder", "evil": 1}},
        {"part": {"name": "evil"}},
        {"part": {}},
        {"unit": {}},
        {"network": {"stages": []}},
        {"network": 1},
        {},
    ],
)
def test_what_an_item_is_comes_from_a_file(thing: dict[str, Any]) -> None:
    conditions = Manifest.load(Path(__file__).parent / "recorded" / "onnx").conditions
    item = Item(key="reference", thing=thing)
    with pytest.raises(InputError, match=r"manifest\.json: reference: "):
        Manifest.of(conditions, [item]).workload_of(item)
