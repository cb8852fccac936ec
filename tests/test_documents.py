import time
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from archsearch import documents
from archsearch.documents import Document
from archsearch.errors import InputError


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int = Field(ge=1)
    kind: Literal["full", "separable"] = "full"


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")
    schema_version: Literal[1] = Field(alias="schema")
    parts: list[Part] = []
    named: dict[str, Part] = {}
    path: str | tuple[str, ...] = ""


def write(folder: Path, text: str, name: str = "file.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def message(folder: Path, text: str, name: str = "file.yaml") -> str:
    """The error of reading and validating ``text``, without the folder."""
    path = write(folder, text, name)
    with pytest.raises(InputError) as caught:
        documents.validate(documents.read(path), Whole)
    return str(caught.value).replace(f"{folder}/", "")


def test_yaml_and_json_hold_the_same(tmp_path: Path) -> None:
    yaml = documents.read(write(tmp_path, "schema: 1\nparts:\n  - {width: 3}\n"))
    json = documents.read(write(tmp_path, '{"schema": 1, "parts": [{"width": 3}]}', "file.json"))
    assert yaml.data == json.data == {"schema": 1, "parts": [{"width": 3}]}
    assert documents.validate(yaml, Whole) == documents.validate(json, Whole)


def test_every_key_has_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path, "schema: 1\n# a remark\nparts:\n  - width: 3\n    kind: full\n  - width: 4\n"
    )
    document = documents.read(path)
    assert document.where(("schema",)) == f"{path}:1"
    assert document.where(("parts", 0, "kind")) == f"{path}:5"
    assert document.where(("parts", 1)) == f"{path}:6"
    assert document.where(("parts", 1, "absent")) == f"{path}:6", (
        "an absent key lies where its parent does"
    )
    assert document.where(("absent",)) == str(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "schema: 1\nprats: []\n",
            "file.yaml:2: prats: is not a known key. Did you mean 'parts'? Allowed are: named, "
            "parts, path, schema.",
        ),
        (
            "schema: 1\nparts:\n  - width: 3\n    knd: full\n",
            "file.yaml:4: parts[0].knd: is not a known key. Did you mean 'kind'? Allowed are: "
            "kind, width.",
        ),
        (
            "schema: 1\nparts: [{width: 0}]\n",
            "file.yaml:2: parts[0].width: must be greater than or equal to 1, but got 0.",
        ),
        (
            "schema: 1\nparts: [{width: 1, kind: ful}]\n",
            "file.yaml:2: parts[0].kind: must be 'full' or 'separable', but got 'ful'.",
        ),
        ("schema: 2\n", "file.yaml:1: schema: must be 1, but got 2."),
        ("parts: []\n", "file.yaml: schema: Field required."),
        ("schema: 1\nparts:\n  - {kind: full}\n", "file.yaml:3: parts[0].width: Field required."),
        (
            "schema: 1\nnamed:\n  Width:\n    width: 1\n    knd: full\n",
            "file.yaml:5: named.Width.knd: is not a known key. Did you mean 'kind'? Allowed "
            "are: kind, width.",
        ),
        (
            "schema: 1\nnamed:\n  int:\n    width: 0\n",
            "file.yaml:4: named.int.width: must be greater than or equal to 1, but got 0.",
        ),
    ],
)
def test_errors_name_line_key_value_and_what_is_allowed(
    text: str, expected: str, tmp_path: Path
) -> None:
    assert message(tmp_path, text) == expected


def test_every_problem_has_a_line_of_its_own(tmp_path: Path) -> None:
    lines = message(tmp_path, "schema: 2\nprats: 1\nparts: [{width: 0}]\n").splitlines()
    assert [line.split(": ")[1] for line in lines] == ["schema", "parts[0].width", "prats"]


def test_branches_of_a_union_are_no_part_of_the_key(tmp_path: Path) -> None:
    lines = message(tmp_path, "schema: 1\npath: 3\n").splitlines()
    assert [line.partition(", ")[0] for line in lines] == [
        "file.yaml:2: path: must be a valid string",
        "file.yaml:2: path: must be a list",
    ]


def test_long_values_are_cut(tmp_path: Path) -> None:
    text = message(tmp_path, f"schema: 1\nparts: [{{width: {'x' * 500}}}]\n")
    assert "xxx..." in text
    assert len(text) < 250


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "file.json",
            '{"schema": 1,\n "parts": [',
            r"file\.json:2: is not valid JSON: .* Is the file truncated\?",
        ),
        ("file.json", "", r"file\.json:1: is not valid JSON"),
        (
            "file.yaml",
            "schema: 1\nparts: [1, 2\n",
            r"file\.yaml:3: is not valid YAML: expected ',' or ']'",
        ),
        ("file.yaml", "schema: 1\n  parts: 1\n", r"file\.yaml:2: is not valid YAML"),
        (
            "file.yaml",
            "a: !!python/object/apply:os.getcwd []\n",
            r"file\.yaml:1: is not valid YAML: could not determine a constructor",
        ),
        ("file.yaml", "- 1\n- 2\n", r"must hold a mapping of keys to values, but holds \[1, 2\]"),
        ("file.yaml", "", "must hold a mapping of keys to values, but holds None"),
        ("file.json", "3", "must hold a mapping of keys to values, but holds 3"),
        ("file.yaml", "schema: 1\nparts: []\nschema: 2\n", r"file\.yaml:3: schema: is given twice"),
        (
            "file.yaml",
            "named:\n  a: {width: 1, width: 2}\n",
            r"file\.yaml:2: named\.a\.width: is given twice",
        ),
        ("file.json", '{"schema": 1, "named": {"a": 1, "a": 2}}', r"file\.json: a: is given twice"),
        ("file.yaml", "a: &x [*x]\n", r"file\.yaml: is nested too deeply, or in itself"),
        ("file.json", "[" * 100_000, r"file\.json: is nested too deeply"),
    ],
)
def test_unreadable_text_is_refused_with_its_line(
    name: str, text: str, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=expected):
        documents.read(write(tmp_path, text, name))


def test_missing_folder_and_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"absent\.yaml: cannot be read: No such file or directory\."
    ):
        documents.read(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        documents.read(tmp_path)
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: Z\xfcrich\n")
    with pytest.raises(InputError, match=r"latin\.yaml: is not UTF-8 text \(byte 7\)\."):
        documents.read(path)


def test_dates_stay_text(tmp_path: Path) -> None:
    """As in JSON, so that the data can be written as JSON again."""
    document = documents.read(write(tmp_path, "schema: 2024-01-01\n"))
    assert document.data == {"schema": "2024-01-01"}
    assert documents.override(document, ["a=1"]).data == {"schema": "2024-01-01", "a": 1}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("a=2", {"a": 2, "b": {"c": 1}}),
        ("b.c=2.5", {"a": 1, "b": {"c": 2.5}}),
        ("b.d=[x, y]", {"a": 1, "b": {"c": 1, "d": ["x", "y"]}}),
        ("e.f.g={h: true}", {"a": 1, "b": {"c": 1}, "e": {"f": {"g": {"h": True}}}}),
        ("b={c: 3}", {"a": 1, "b": {"c": 3}}),
        ("a=", {"a": None, "b": {"c": 1}}),
        ("a=x=y", {"a": "x=y", "b": {"c": 1}}),
        ('a="1"', {"a": "1", "b": {"c": 1}}),
    ],
)
def test_settings_override_by_dotted_key_with_a_yaml_value(
    setting: str, expected: dict[str, Any]
) -> None:
    document = Document(Path("file.yaml"), {"a": 1, "b": {"c": 1}}, {("a",): 1})
    changed = documents.override(document, [setting])
    assert changed.data == expected
    assert changed.where(("a",)) == "file.yaml:1"
    assert document.data == {"a": 1, "b": {"c": 1}}, "the document itself stays"


def test_later_settings_win() -> None:
    assert documents.override(Document(Path("x"), {}), ["a.b=1", "a.c=2", "a.b=3"]).data == {
        "a": {"b": 3, "c": 2}
    }


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("a", "--set a: must have the form key=value"),
        ("=1", "--set =1: must have the form key=value"),
        ("a.b=1", "--set a.b=1: 'a' holds 1, which has no keys"),
        ("a=[1", "--set a=[1: the value is not valid YAML"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        documents.override(Document(Path("file.yaml"), {"a": 1}), [setting])
    assert str(caught.value).startswith(expected)


def test_dotted() -> None:
    assert documents.dotted(("stages", 0, "channels")) == "stages[0].channels"
    assert documents.dotted(()) == ""


def test_a_mark_of_windows_is_no_part_of_the_text(tmp_path: Path) -> None:
    for name in ("file.json", "file.yaml"):
        path = write(tmp_path, '\ufeff{"schema": 1}', name)
        assert documents.read(path).data == {"schema": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"),  # an octal 8 in YAML 1.1
        ("1:30", "1:30"),  # 90 there: minutes and seconds
        ("1:30.5", "1:30.5"),
        ("1e-3", 1e-3),  # text there
        ("250_000_000", 250_000_000),
        ("0x10", 16),
        ("-2", -2),
        ("0.5", 0.5),
        (".5", 0.5),
    ],
)
def test_numbers_are_what_they_look_like(tmp_path: Path, text: str, value: object) -> None:
    assert documents.read(write(tmp_path, f"a: {text}")).data == {"a": value}
    assert documents.override(Document(Path("x"), {}), [f"a={text}"]).data == {"a": value}


class Nested(BaseModel):
    model_config = ConfigDict(extra="forbid")
    part: Part = Part(width=3)
    whole: Whole = Whole(schema=1)
    lists: list[int] | dict[str, int] = [1]
    number: int = 1
    one_or_more: int | list[int] = 1
    perhaps: Part | None = Part(width=4)


def test_an_empty_section_means_the_defaults(tmp_path: Path) -> None:
    text = "part:\nlists:\nperhaps:\nwhole:\n  schema: 1\n  parts:\n  named:\n"
    found = documents.validate(documents.read(write(tmp_path, text)), Nested)
    assert found == Nested(perhaps=None), "what may be null is null"
    for name in ("number", "one_or_more"):
        with pytest.raises(InputError, match=rf"file\.yaml:1: {name}: must be a valid integer"):
            documents.validate(documents.read(write(tmp_path, f"{name}:\n")), Nested)
    with pytest.raises(InputError, match=r"whole\.parts\[0\]"):
        documents.validate(
            documents.read(write(tmp_path, "whole: {schema: 1, parts: [1]}")), Nested
        )


def test_a_setting_fills_an_empty_section() -> None:
    document = Document(Path("file.yaml"), {"search": None})
    assert documents.override(document, ["search.trials=3"]).data == {"search": {"trials": 3}}


def laughs(levels: int) -> str:
    """A list of nine, of which each further level holds nine."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels + 1):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_aliases_that_multiply_are_refused_at_once(tmp_path: Path, suffix: str) -> None:
    started = time.process_time()
    with pytest.raises(InputError, match=rf"laughs\.{suffix}:6: repeats parts of itself"):
        documents.read(write(tmp_path, laughs(9), f"laughs.{suffix}"))
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "text",
    [
        # by merging, as keys, and within --set
        "a0: &a0 {x: 1}\n"
        + "\n".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 10)),
        laughs(9).replace("a9: &a9", "? *a8\n: &a9"),
    ],
)
def test_other_ways_to_multiply(tmp_path: Path, text: str) -> None:
    started = time.process_time()
    with pytest.raises(InputError, match=r"repeats parts of itself|must be text"):
        documents.read(write(tmp_path, text))
    with pytest.raises(InputError, match="repeats parts of itself"):
        documents.override(Document(Path("x"), {}), [f"a={{{laughs(9).replace(chr(10), ', ')}}}"])
    assert time.process_time() - started < 1


def test_anchors_and_merge_keys_are_read(tmp_path: Path) -> None:
    text = "base: &base {width: 3}\nlist: &list [1, 2]\na: {<<: *base, kind: full}\nb: *list\n"
    document = documents.read(write(tmp_path, text))
    assert document.data["a"] == {"width": 3, "kind": "full"}
    assert document.data["b"] == [1, 2]
    assert document.where(("a", "kind")).endswith(":3")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: !!bool x", "file.yaml:1: is not valid YAML: 'x' is no bool."),
        ("a: !!timestamp x", "file.yaml:1: is not valid YAML: could not determine a constructor"),
        ("a: 1\nb: !!int ''", "file.yaml:2: is not valid YAML: '' is no int."),
        ("a: !!float x", "file.yaml:1: is not valid YAML: 'x' is no float."),
        ("a: !!int [1]", "file.yaml:1: is not valid YAML: "),
        ("a: !!binary eA==", "file.yaml:1: is not valid YAML: could not determine a constructor"),
        ("a: !!set {x}", "file.yaml:1: is not valid YAML: could not determine a constructor"),
        (f"a: 0x{'f' * 5000}", "file.yaml:1: is not valid YAML: "),
        (f"a: {'9' * 5000}", "file.yaml:1: is not valid YAML: "),
        ('a: "\\UFFFFFFFF"', "file.yaml: is not valid YAML: "),
        ("a: \x00", "file.yaml: is not valid YAML: "),
        ("a:\n  .nan: 1", "file.yaml:2: a: a key must be text, but '.nan' is read as float; put"),
        ("a: 1\n2: 1", "file.yaml:2: file: a key must be text, but '2' is read as int; put"),
        ("no: 1", "file.yaml:1: file: a key must be text, but 'no' is read as bool; put"),
        ("? [a]\n: 1", "file.yaml:1: file: a key must be text, but a collection is read as seq"),
        ('a: "\\ud83d"', "file.yaml: '\\ud83d' holds half of a character."),
    ],
)
def test_yaml_that_json_could_not_hold(text: str, expected: str, tmp_path: Path) -> None:
    assert message(tmp_path, text).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": "\\ud83d"}', "file.json: '\\ud83d' holds half of a character."),
        ('{"a": {"\\udcff": 1}}', "file.json: '\\udcff' holds half of a character."),
        ('{"a": ' + "9" * 5000 + "}", "file.json: is not valid JSON: "),
        ('{"a":' * 100_000, "file.json: is nested too deeply."),
    ],
)
def test_json_that_nothing_can_be_done_with(text: str, expected: str, tmp_path: Path) -> None:
    assert message(tmp_path, text, "file.json").startswith(expected)


@pytest.mark.parametrize(
    ("name", "text"), [("x.json", '{"a": "\u00e4"}'), ("x.yaml", "a: \u00e4\n")]
)
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8-sig")
    assert documents.read(path).data == {"a": "ä"}


def test_a_yaml_file_has_an_end(tmp_path: Path) -> None:
    path = write(tmp_path, "a: 1\n" + "#" * (2 * 1024**2))
    with pytest.raises(InputError, match=r"cannot be read: holds more than 2 MiB\."):
        documents.read(path)


def test_every_yaml_of_the_package_is_read_by_this_reader() -> None:
    package = Path(documents.__file__).parent
    loading = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(f"yaml.{name}(" in path.read_text() for name in ("load", "safe_load", "load_all"))
    ]
    assert loading == []
    assert yaml.safe_load("a: 2024-01-01") != documents.parse_yaml("a: 2024-01-01", "x")
