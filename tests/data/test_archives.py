"""Archives: damaged ones, and small ones that would unpack to anything."""

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from archsearch.data import archives
from archsearch.data.archives import content_of, members_of, open_archive
from archsearch.errors import InputError


def packed(path: Path, mode: str, **members: bytes) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def names(path: Path) -> list[str]:
    with open_archive(path) as archive:
        return [member.name for member in members_of(archive, path)]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_regular_files_are_read_packed_or_not(tmp_path: Path, mode: str) -> None:
    path = packed(tmp_path / "a.tar", mode, one=b"1", two=b"22")
    with open_archive(path) as archive:
        found = {each.name: content_of(archive, each) for each in members_of(archive, path)}
    assert found == {"one": b"1", "two": b"22"}


def test_links_and_devices_are_no_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            entry = tarfile.TarInfo(f"kind-{kind.decode()}")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    assert names(tmp_path / "a.tar") == []


def test_a_member_above_the_limit_is_not_read(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar", "w:gz", large=bytes(1001), small=bytes(1000))
    with open_archive(path) as archive:
        sizes = [content_of(archive, each, 1000) for each in members_of(archive, path)]
    assert sizes == [None, bytes(1000)]


def test_an_archive_that_unpacks_to_anything_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "UNPACKED_BYTES", 100_000)
    path = packed(tmp_path / "a.tgz", "w:gz", zeros=bytes(10_000_000), after=b"x")
    assert path.stat().st_size < 20_000
    with pytest.raises(InputError, match=r"a\.tgz: unpacks to more than .* 100 times its size"):
        names(path)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_damaged_archive_is_told_wherever_it_is_damaged(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    whole = packed(tmp_path / "a.tar", "w", **{f"m{i}": bytes([i]) * 3000 for i in range(40)})
    content = bytearray(pack(whole.read_bytes()))
    for place in range(20, len(content), max(1, len(content) // 25)):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        (tmp_path / "b.tar").write_bytes(changed)
        # read, where the damage does not show, or told
        with suppress(InputError), open_archive(tmp_path / "b.tar") as archive:
            for member in members_of(archive, tmp_path / "b.tar"):
                content_of(archive, member)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.tar").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="is not a regular file"):
        names(tmp_path / "a.tar")
