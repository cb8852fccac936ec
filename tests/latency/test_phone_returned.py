"""Results of devices, in the form each tool gives them; see recorded/README.md."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.measure import RefusedError
from archsearch.latency.phone.returned import import_results
from archsearch.unet import units

RECORDED = Path(__file__).parent / "recorded"
DOWN, UP = units.Downsample(32, 16), units.Upsample(32, 8)
FACTS = ("pixel-8", "Tensor G3", "Android 15", "1.31.1")
DOWN_RUNS = [0.0621, 0.0609, 0.0613, 0.0627, 0.0611]


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECORDED / "onnx", tmp_path / "onnx"))


@pytest.fixture
def executorch(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECORDED / "executorch", tmp_path / "executorch"))


def log_of(folder: Path, number: int, suffix: str = ".log") -> Path:
    (path,) = (folder / "results").glob(f"{number:05d}.*{suffix}")
    return path


def number_of(folder: Path, kind: str) -> int:
    return next(int(path.name[:5]) for path in (folder / "results").glob(f"*.{kind}-*.log"))


def test_results_of_our_own_program() -> None:
    imported = import_results(
        RECORDED / "onnx",
        RECORDED / "onnx" / "results.json",
        "box",
        "x",
        "y",
        max_drift=10,
    )
    assert set(imported.table.by_unit) == {DOWN, UP}
    assert imported.table.runtime == "onnxruntime 1.31.1"
    assert imported.table.entries[0].n == 5


@pytest.mark.parametrize(("name", "precision"), [("onnx", 1e-5), ("executorch", 1e-6)])
def test_results_of_the_platforms_own_tools(name: str, precision: float) -> None:
    imported = import_results(RECORDED / name, RECORDED / name / "results", *FACTS)
    table, entry = imported.table, imported.table.by_unit[DOWN]
    reference = table.reference.p50
    assert table.runtime == f"{'onnxruntime' if name == 'onnx' else name} 1.31.1"
    assert (table.warmup, table.runs, table.threads) == (1, 5, 1)
    assert reference == pytest.approx(4.1, rel=0.05)
    assert entry.n == 5  # the first of six runs warms up
    wanted = np.percentile(DOWN_RUNS, (10, 50, 90))
    assert [entry.p10, entry.p50, entry.p90] == pytest.approx(list(wanted), rel=0.01)
    assert (imported.missing, imported.failed) == ([], {})


def test_core_ml_with_a_model_that_failed() -> None:
    imported = import_results(
        RECORDED / "coreml",
        RECORDED / "coreml" / "results.json",
        "iphone-17",
        "A19",
        "iOS 26.1",
    )
    assert [entry.unit for entry in imported.table.entries] == [DOWN]
    assert [failure.unit for failure in imported.table.failed] == [UP]
    assert "execution plan" in imported.table.failed[0].reason
    assert imported.table.dtype == "float16"


def test_an_average_alone_is_one_sample(executorch: Path, onnx: Path) -> None:
    for path in (executorch / "results").glob("*.log"):
        path.write_text(
            "".join(
                line
                for line in path.read_text().splitlines(keepends=True)
                if "Iteration" not in line
            )
        )
    entry = import_results(executorch, executorch / "results", *FACTS).table.by_unit[UP]
    assert entry.n == 1
    assert entry.p10 == entry.p50 == entry.p90
    for path in (onnx / "results").glob("*.csv"):
        path.unlink()
    same = import_results(onnx, onnx / "results", *FACTS).table.by_unit[UP]
    assert same.p50 == pytest.approx(entry.p50, rel=1e-3)


def test_newer_tables_of_perf_test_have_the_total_after_the_submission(onnx: Path) -> None:
    before = import_results(onnx, onnx / "results", *FACTS).table
    for path in (onnx / "results").glob("*.csv"):
        rows = [line.split(",") for line in path.read_text().splitlines()]
        path.write_text(
            "".join(",".join([row[0], "1e-9", *row[1:]]) + "\n" for row in rows)
            + "\nP50 Latency is 1sec\n"
        )
    assert import_results(onnx, onnx / "results", *FACTS).table.entries == before.entries


def test_a_run_that_failed_is_recorded(onnx: Path) -> None:
    log = log_of(onnx, number_of(onnx, "upsample"))
    log.write_text(
        "Setting intra_op_num_threads to 1\nLoad model failed: Protobuf parsing failed.\nexit "
        "code: 255\n"
    )
    imported = import_results(onnx, onnx / "results", *FACTS)
    assert (
        imported.table.failed[0].reason
        == "exit code 255: Load model failed: Protobuf parsing failed."
    )
    assert list(imported.table.by_unit) == [DOWN]


def test_measuring_cut_off_leaves_the_rest_missing(onnx: Path) -> None:
    results = json.loads((onnx / "results.json").read_text())
    results["measured"] = results["measured"][:1]
    (onnx / "results.json").write_text(json.dumps(results))
    imported = import_results(onnx, onnx / "results.json", *FACTS, max_drift=10)
    assert len(imported.missing) == 1
    assert imported.missing[0].startswith("upsample(")
    log_of(onnx, 4).write_text(
        "Session creation time cost: 0.01 s\n"
    )  # no reference after the units
    with pytest.raises(
        ArchsearchError,
        match="nothing was measured: no model lies between two runs of the reference",
    ):
        import_results(onnx, onnx / "results", *FACTS)
    log_of(onnx, 2).write_text("Session creation time cost: 0.01 s\n")
    with pytest.raises(
        InputError, match=r"00002\..*\.log: is cut short: it does not end with 'exit code: <n>'"
    ):
        import_results(onnx, onnx / "results", *FACTS)


def test_a_drifting_reference_is_refused(onnx: Path) -> None:
    with pytest.raises(
        RefusedError,
        match=r"2 measurements refused, the reference spread by more than 1% beside .*sample\(",
    ):
        import_results(onnx, onnx / "results", *FACTS, max_drift=0.01)


@pytest.mark.parametrize("value", ["nan", "-0.001", "0", "inf"])
def test_times_that_are_none_are_refused(onnx: Path, value: str) -> None:
    path = log_of(onnx, 2, ".csv")
    rows = path.read_text().splitlines()
    columns = rows[3].split(",")
    rows[3] = ",".join([columns[0], value, *columns[2:]])
    path.write_text("\n".join(rows) + "\n")
    with pytest.raises(InputError, match=r"00002\..*: run 3: a time must be positive"):
        import_results(onnx, onnx / "results", *FACTS)


def test_files_cut_short_are_refused(onnx: Path, executorch: Path) -> None:
    table = log_of(onnx, 2, ".csv")
    lines = table.read_text()
    table.write_text(lines[: lines.rindex(",9")])
    with pytest.raises(
        InputError, match=r"line 6: \d columns, where the tool writes 5 or 6: cut short"
    ):
        import_results(onnx, onnx / "results", *FACTS)
    table.write_text(lines.splitlines()[0] + "\n")
    with pytest.raises(InputError, match="has 1 runs, but 1 of them warm up"):
        import_results(onnx, onnx / "results", *FACTS)
    log = log_of(executorch, 2)
    text = log.read_text()
    log.write_text(
        "".join(line for line in text.splitlines(keepends=True) if "Iteration 2" not in line)
    )
    with pytest.raises(InputError, match="5 iterations are listed of 6"):
        import_results(executorch, executorch / "results", *FACTS)
    log.write_text("exit code: 0\n")
    with pytest.raises(InputError, match="has no 'Model executed successfully"):
        import_results(executorch, executorch / "results", *FACTS)
    results = onnx / "results.json"
    results.write_text(results.read_text()[:300])
    with pytest.raises(InputError, match="is not valid JSON"):
        import_results(onnx, results, *FACTS)


def test_results_of_another_bundle_are_refused(onnx: Path, executorch: Path) -> None:
    with pytest.raises(InputError, match=r"these are results of bundle .*, not of this one"):
        import_results(executorch, onnx / "results", *FACTS)
    with pytest.raises(InputError, match=r"bundle: these are results of .*, not of this one"):
        import_results(executorch, onnx / "results.json", *FACTS)
    (onnx / "results" / "bundle.txt").unlink()
    with pytest.raises(InputError, match=r"has no bundle\.txt"):
        import_results(onnx, onnx / "results", *FACTS)
    with pytest.raises(InputError, match=r"cannot be read: No such file|no manifest\.json"):
        import_results(onnx / "nowhere", onnx / "results", *FACTS)
    with pytest.raises(InputError, match="cannot be read"):
        import_results(onnx, onnx / "none.json", *FACTS)
    with pytest.raises(InputError, match="is a folder, but Core ML's results are one file"):
        import_results(RECORDED / "coreml", onnx / "results", *FACTS)


def test_files_that_do_not_belong_are_named(onnx: Path) -> None:
    log = log_of(onnx, 2)
    log.rename(log.with_name(log.name.replace("00002", "00003")))
    with pytest.raises(InputError, match=r"run 3 of this bundle is not"):
        import_results(onnx, onnx / "results", *FACTS)
    (onnx / "results" / "notes.log").write_text("")
    for path in (onnx / "results").glob("0*.log"):
        path.unlink()
    with pytest.raises(InputError, match=r"notes\.log: is not of this bundle"):
        import_results(onnx, onnx / "results", *FACTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"ratios": [0.1, -1.0, 0.1, 0.1, 0.1]},
            r"measured\[0\]\.ratios\[1\]: .*greater than 0, but got -1\.0",
        ),
        ({"ratios": [0.1]}, "one more than the 1 ratios was expected, but got 6"),
        ({"key": "reference"}, "key: 'reference' is not in the bundle"),
    ],
)
def test_values_that_cannot_be_are_refused(
    onnx: Path, change: dict[str, object], message: str
) -> None:
    path = onnx / "results.json"
    results = json.loads(path.read_text())
    results["measured"][0] |= change
    path.write_text(json.dumps(results))
    with pytest.raises(InputError, match=message):
        import_results(onnx, path, *FACTS)
    results["measured"] = [results["measured"][1]] * 2
    path.write_text(json.dumps(results))
    with pytest.raises(InputError, match="given twice"):
        import_results(onnx, path, *FACTS)
    path.write_text(path.read_text().replace('"threads": 1', '"threads": NaN'))
    with pytest.raises(InputError, match=r"threads: must be .*, but got nan"):
        import_results(onnx, path, *FACTS)


def test_the_version_must_be_known(onnx: Path) -> None:
    with pytest.raises(
        InputError,
        match="does not tell the version of onnxruntime on the device; give --runtime-version",
    ):
        import_results(onnx, onnx / "results", "a", "b", "c")
