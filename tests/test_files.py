import errno
import os
from pathlib import Path

import pytest

from archsearch.errors import ArchsearchError, InputError
from archsearch.files import (
    printable,
    read_bytes,
    write_bytes,
    write_json,
    write_text,
    write_through,
)


def test_writes_what_is_given_and_makes_the_folder(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "bytes", b"\x00\xff")
    write_text(tmp_path / "text", "ä\n")
    write_json(tmp_path / "value.json", {"b": 1, "a": "ä"})
    assert (tmp_path / "a" / "b" / "bytes").read_bytes() == b"\x00\xff"
    assert (tmp_path / "text").read_bytes() == "ä\n".encode()
    assert (tmp_path / "value.json").read_text(encoding="utf-8") == '{\n "b": 1,\n "a": "ä"\n}\n'


def test_replaces_a_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    write_text(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "new"


def test_a_file_filled_by_another_takes_its_place_whole_or_not_at_all(tmp_path: Path) -> None:
    def fill(file: Path) -> None:
        file.write_text("new")

    write_through(tmp_path / "a" / "file", fill)
    assert (tmp_path / "a" / "file").read_text() == "new"

    def fail(file: Path) -> None:
        file.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_through(tmp_path / "a" / "file", fail)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]
    assert (tmp_path / "a" / "file").read_text() == "new"


def test_files_can_be_read_by_others(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "x")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file_and_is_named(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "file", "old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(
        ArchsearchError, match=r"file: cannot be written: No space left on device\."
    ) as caught:
        write_text(tmp_path / "file", "new")
    assert not isinstance(caught.value, InputError)
    assert caught.value.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_interruption_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "file", "old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_new_bytes_reach_the_disk_before_the_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    write_text(tmp_path / "file", "x")
    assert calls == ["fsync", "replace"]


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        ArchsearchError, match=r"file/inner\.json: cannot be written: (File exists|Not a directory)"
    ):
        write_json(tmp_path / "file" / "inner.json", {})


def test_no_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(ArchsearchError, match="cannot be written: Permission denied"):
        write_text(tmp_path / "file", "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_json_is_refused_before_anything_is_written(
    value: float, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"x": value})
    assert list(tmp_path.iterdir()) == []


def test_only_regular_files_are_read_and_within_limits(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_bytes(tmp_path / "file") == read_bytes(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="holds more than") as caught:
        read_bytes(tmp_path / "file", 4)
    assert caught.value.errno == errno.EFBIG
    os.mkfifo(tmp_path / "pipe")  # which nobody writes: to open it would wait for ever
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(OSError, match="is not a regular file"):
            read_bytes(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "gone")


def test_a_file_whose_size_is_not_known_is_read_to_its_end() -> None:
    path = Path("/proc/self/status")
    if not path.is_file():
        pytest.skip("this system has no files without a size")
    assert read_bytes(path).endswith(b"\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ä ✓ 🔥\ttab\nline", "plain ä ✓ 🔥\ttab\nline"),
        ("\x1b[31m\x07\x7f\x9b", r"\x1b[31m\x07\x7f\x9b"),
        (os.fsdecode(b"n\xff"), r"n\xff"),
        ("\ud83d", r"\ud83d"),
        ("a\u202eb\u2028", r"a\u202eb\u2028"),
        ("a\r\rb", r"a\x0d\x0db"),
    ],
)
def test_what_a_terminal_would_act_upon_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_half_characters_are_written_as_escapes(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "n\udcff")
    assert (tmp_path / "file").read_text() == r"n\udcff"
