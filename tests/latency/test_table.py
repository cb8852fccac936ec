import json
import string
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.table import (
    FIELD_TYPES,
    Correction,
    Entry,
    Failure,
    LatencyTable,
    PartTime,
    Reference,
    Whole,
    parse_unit,
)
from archsearch.unet.units import UNIT_TYPES, Downsample, Residual, Unit, unit_fields

times = st.floats(min_value=1e-9, max_value=1e9, allow_nan=False)
words = st.text(string.printable, min_size=1, max_size=20)
values = {
    int: st.integers(1, 10**6),
    bool: st.booleans(),
    str: st.sampled_from(["full", "relu", "gelu", 'é "quoted"']),
}


@st.composite
def any_unit(draw: st.DrawFn) -> Unit:
    kind = draw(st.sampled_from(sorted(UNIT_TYPES)))
    return parse_unit(
        {"kind": kind} | {name: draw(values[type_]) for name, type_ in FIELD_TYPES[kind].items()}
    )


@st.composite
def any_entry(draw: st.DrawFn) -> Entry:
    p10, p50, p90 = sorted(draw(st.tuples(times, times, times)))
    return Entry(unit=draw(any_unit()), n=draw(st.integers(1, 1000)), p10=p10, p50=p50, p90=p90)


@st.composite
def any_part(draw: st.DrawFn) -> PartTime:
    p10, p50, p90 = sorted(draw(st.tuples(times, times, times)))
    return PartTime(part=draw(words), n=draw(st.integers(1, 1000)), p10=p10, p50=p50, p90=p90)


@st.composite
def any_whole(draw: st.DrawFn) -> Whole:
    optional = {name: draw(st.none() | times) for name in ("p10", "p90", "repeat", "full")}
    line = Whole(
        config=draw(digests),
        name=draw(st.none() | words),
        measured=draw(near),
        predicted=draw(near),
        **optional,
    )
    return line.predicting(line.predicted) if draw(st.booleans()) else line


near = st.floats(1.0, 1e3).map(lambda value: round(value, 6))
digests = st.text("0123456789abcdef", min_size=16, max_size=16)
any_table = st.builds(
    LatencyTable,
    device=st.sampled_from(["cpu", "pixel-8", "iPhone_15.pro+"]),
    soc=words,
    os=words,
    runtime=st.just("onnxruntime 1.31.1"),
    graph_level=words,
    compute_unit=words,
    dtype=st.sampled_from(["float32", "float16", "int8"]),
    threads=st.integers(1, 64),
    warmup=st.integers(0, 10),
    runs=st.integers(1, 100),
    schema_version=st.just(1),
    date=st.just("2025-01-31"),
    cooling=words,
    unit=st.just("ms"),
    reference=st.builds(Reference, p50=times, drift=st.floats(0, 1)),
    entries=st.lists(any_entry(), max_size=6, unique_by=lambda entry: entry.unit),
    correction=st.builds(
        Correction,
        scale=st.floats(0.1, 10),
        offset=st.floats(-100, 100),
        fitted_on=st.lists(digests, max_size=3),
    ),
    parts=st.lists(any_part(), max_size=3, unique_by=lambda line: line.part),
    whole=st.lists(any_whole(), max_size=3, unique_by=lambda line: line.config),
)


@settings(max_examples=60, deadline=None)
@given(table=any_table)
def test_save_and_load_is_exact(table: LatencyTable) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "table.json"
        table.save(path)
        loaded = LatencyTable.load(path)
    assert loaded == table
    assert loaded.to_text() == table.to_text()
    assert all(loaded.by_unit[entry.unit] == entry for entry in table.entries)


def test_golden_file_reads_and_writes_to_the_byte(golden_path: Path, golden: LatencyTable) -> None:
    assert golden.to_text() == golden_path.read_text()
    assert golden.name == golden_path.stem
    assert golden.by_unit[Residual(64, 32, 8, "full", 128, 8)].p50 == 1.0
    assert golden.by_unit[Residual(32, 32, 8, "full", 0, 8)].p50 == 0.5
    assert golden.failed == [Failure(unit=Downsample(32, 8), reason="operator not supported")]
    assert golden.parts[0].part == "clip-vit-l-14-text"
    assert golden.correction == Correction(scale=1.05, offset=0.25, fitted_on=["0123456789abcdef"])


def test_files_of_the_first_version_are_read(first_path: Path) -> None:
    table = LatencyTable.load(first_path)
    assert (table.layout, table.failed, table.parts) == ("nchw", [], [])
    assert table.whole[1].name is None


def test_correction_and_whole_may_be_left_out(golden_path: Path, tmp_path: Path) -> None:
    data = json.loads(golden_path.read_text())
    del data["correction"], data["whole"]
    (tmp_path / "t.json").write_text(json.dumps(data))
    table = LatencyTable.load(tmp_path / "t.json")
    assert table.correction == Correction(scale=1.0, offset=0.0, fitted_on=[])
    assert table.whole == []


def _with(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.update(changes)


def _entry(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["entries"][3].update(changes)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "newer schema": (_with(schema=2), r"schema: must be 1, but got 2"),
    "no schema": (lambda data: data.pop("schema"), r"schema: must be 1, but got None"),
    "unknown key": (
        _with(colling="fan"),
        r"colling: is not a known key\. Did you mean 'cooling'\? Allowed are: ",
    ),
    "unknown reference key": (
        lambda data: data["reference"].update(p51=1),
        r"reference\.p51: .*Did you mean 'p50'",
    ),
    "missing key": (lambda data: data.pop("soc"), r"soc: Field required"),
    "device with a slash": (_with(device="a/b"), r"device: .*but got 'a/b'"),
    "no soc": (_with(soc=""), r"soc: .*but got ''"),
    "runtime without version": (_with(runtime="onnxruntime"), r"runtime: .*but got 'onnxruntime'"),
    "other unit": (_with(unit="s"), r"unit: .*'ms', but got 's'"),
    "zero time": (_entry(p10=0), r"entries\[3\]\.p10: .*greater than 0, but got 0"),
    "negative time": (_entry(p50=-1.5), r"entries\[3\]\.p50: .*but got -1\.5"),
    "NaN time": (_entry(p50=float("nan")), r"entries\[3\]\.p50: must be .*, but got nan"),
    "infinite time": (_entry(p90=float("inf")), r"entries\[3\]\.p90: must be .*, but got inf"),
    "text for a time": (_entry(p50="fast"), r"entries\[3\]\.p50: .*but got 'fast'"),
    "no time": (lambda data: data["entries"][3].pop("p50"), r"entries\[3\]\.p50: Field required"),
    "percentiles fall": (
        _entry(p10=0.6),
        r"entries\[3\]: percentiles must not fall, but got p10=0\.6",
    ),
    "unknown kind": (
        _entry(kind="residul"),
        r"entries\[3\]: kind: 'residul' is not .*Did you mean 'residual'",
    ),
    "no kind": (
        lambda data: data["entries"][3].pop("kind"),
        r"entries\[3\]: kind: None is not a kind",
    ),
    "unknown field": (
        _entry(timewidth=128),
        r"entries\[3\]: timewidth: not a field .*Did you mean 'time_width'",
    ),
    "missing field": (
        lambda data: data["entries"][3].pop("size"),
        r"entries\[3\]: size: missing in a residual entry",
    ),
    "field of another type": (
        _entry(size="8"),
        r"entries\[3\]: size: must be a whole number from 1 on, but got '8'",
    ),
    "truth for a number": (_entry(size=True), r"size: must be a whole number"),
    "two entries a unit": (
        lambda data: data["entries"].append(data["entries"][0]),
        r"entries\[8\]: a second entry for input\(",
    ),
    "entry is a list": (lambda data: data["entries"].insert(0, []), r"entries\[0\]: "),
    "scale of zero": (
        lambda data: data["correction"].update(scale=0),
        r"correction\.scale: .*but got 0",
    ),
    "digest": (
        lambda data: data["whole"][0].update(config="abc"),
        r"whole\[0\]\.config: .*but got 'abc'",
    ),
    "residual of other figures": (
        lambda data: data["whole"][0].update(residual=0.5),
        r"whole\[0\]: residual must be .*but got 0\.5",
    ),
    "a network twice": (
        lambda data: data["whole"].append(data["whole"][0]),
        r"whole: 0123456789abcdef twice",
    ),
    "a part twice": (
        lambda data: data["parts"].append(data["parts"][0]),
        r"parts: clip-vit-l-14-text twice",
    ),
    "part's percentiles fall": (
        lambda data: data["parts"][0].update(p10=160.0),
        r"parts\[0\]: percentiles must not fall",
    ),
    "unknown part key": (
        lambda data: data["parts"][0].update(p51=1.0),
        r"parts\[0\]\.p51: .*Did you mean",
    ),
    "failed and measured": (
        lambda data: data["entries"].append(
            {
                "kind": "downsample",
                "channels": 32,
                "size": 8,
                "n": 1,
                "p10": 1.0,
                "p50": 1.0,
                "p90": 1.0,
            }
        ),
        r"failed\[0\]: there is an entry for downsample",
    ),
    "failure without reason": (
        lambda data: data["failed"][0].pop("reason"),
        r"failed\[0\]\.reason: Field required",
    ),
    "unknown whole key": (
        lambda data: data["whole"][0].update(mesured=1),
        r"whole\[0\]\.mesured: .*Did you mean 'measured'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_errors_name_file_and_key(case: str, golden_path: Path, tmp_path: Path) -> None:
    change, message = BROKEN[case]
    data = json.loads(golden_path.read_text())
    change(data)
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=message) as caught:
        LatencyTable.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_truncated_file_names_the_line(golden_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    for share in (0.1, 0.5, 0.99):
        text = golden_path.read_text()
        path.write_text(text[: int(len(text) * share)])
        with pytest.raises(
            InputError, match=r"cut\.json:\d+: is not valid JSON: .*Is the file truncated"
        ):
            LatencyTable.load(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: cannot be read: No such file"):
        LatencyTable.load(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        LatencyTable.load(tmp_path)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match="must hold a mapping of keys to values, but holds"):
        LatencyTable.load(tmp_path / "list.json")
    (tmp_path / "twice.json").write_text('{"schema": 1, "schema": 2}')
    with pytest.raises(InputError, match=r"schema: is given twice"):
        LatencyTable.load(tmp_path / "twice.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bytes\.json: "):
        LatencyTable.load(tmp_path / "bytes.json")


def test_saving_where_nothing_can_be_written_is_an_error(
    golden: LatencyTable, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchsearchError, match="cannot be written"):
        golden.save(tmp_path / "file" / "table.json")


def test_replace_validates_and_indexes_anew(golden: LatencyTable) -> None:
    shorter = golden.replace(entries=golden.entries[:1])
    assert set(shorter.by_unit) == {golden.entries[0].unit}
    with pytest.raises(ValueError, match="a second entry"):
        golden.replace(entries=golden.entries[:1] * 2)


def test_entry_is_flat(golden: LatencyTable) -> None:
    entry = golden.entries[0]
    assert entry.model_dump() == unit_fields(entry.unit) | {
        "n": 15,
        "p10": 0.125,
        "p50": 0.25,
        "p90": 0.375,
    }
