from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from archsearch.data.cache import RowWriter, cached_rows
from archsearch.errors import ArchsearchError


@given(parts=st.lists(st.integers(0, 5), min_size=1, max_size=6), width=st.integers(1, 4))
def test_what_is_appended_is_read_back_by_safetensors(
    parts: list[int], width: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    bytes_, halves = (
        [torch.randint(0, 256, (n, width), dtype=torch.uint8) for n in parts],
        [torch.randn(n).half() for n in parts],
    )
    with RowWriter(folder) as rows:
        for some, others in zip(bytes_, halves, strict=True):
            rows.append("bytes", some)
            rows.append("halves", others)
        rows.append("whole", torch.arange(3))
        rows.write(folder / "x.safetensors", {"key": "“é”"})
    found = load_file(folder / "x.safetensors")
    assert torch.equal(found["bytes"], torch.cat(bytes_))
    assert torch.equal(found["halves"], torch.cat(halves))
    assert torch.equal(found["whole"], torch.arange(3))
    with safe_open(folder / "x.safetensors", "pt") as file:
        assert file.metadata() == {"key": "“é”"}
    assert [path.name for path in folder.iterdir()] == ["x.safetensors"]


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    with RowWriter(tmp_path) as rows:
        rows.append("x", torch.zeros(2, 3))
        with pytest.raises(ValueError, match="'x'"):
            rows.append("x", torch.zeros(2, 4))
        with pytest.raises(ValueError, match="'x'"):
            rows.append("x", torch.zeros(2, 3).half())


def test_rows_are_cached_under_their_key(own_cache: Path) -> None:
    calls: list[int] = []

    def fill(rows: RowWriter) -> None:
        calls.append(1)
        rows.append("x", torch.ones(2, 2))

    first = cached_rows({"a": 1}, fill)["x"]
    first.zero_()  # a memory map of one's own: the file stays as it is
    assert cached_rows({"a": 1}, fill)["x"].eq(1).all()
    assert len(calls) == 1
    cached_rows({"a": 2}, fill)
    assert len(calls) == 2


def test_a_full_disk_has_a_name_and_leaves_nothing(own_cache: Path) -> None:
    def fill(rows: RowWriter) -> None:
        rows.append("x", torch.ones(2, 2))
        raise OSError(28, "No space left on device")

    with pytest.raises(ArchsearchError, match="No space left"):
        cached_rows({"a": 1}, fill)
    assert [path.suffix for path in own_cache.iterdir()] == [".lock"]
