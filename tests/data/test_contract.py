"""What every source keeps to: each one reads small real files of its kind."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from archsearch.data import pictures as module
from archsearch.data.pictures import SOURCES, check_source, load_source
from archsearch.data.prepare import Prepared, prepare
from archsearch.data.spec import DataSpec

from .made import MAKERS, NEEDED, Made, colour

N = 20


@dataclass(frozen=True)
class Case:
    """A source's files, and the spec that reads them."""

    name: str
    made: Made
    spec: DataSpec


@pytest.fixture(params=sorted(SOURCES))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    name = str(request.param)
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    make: Callable[[Path, int], Made] = MAKERS[name]
    made = make(tmp_path / "files", N)
    spec = {"source": name, "size": 16, "held_out": 0.4, "tokens": 4} | made.keys
    return Case(name, made, DataSpec.model_validate(spec))


def test_order_shapes_and_captions(case: Case) -> None:
    loaded = load_source(case.spec)
    assert loaded.images.shape == (N, 3, 16, 16)
    assert loaded.images.dtype == torch.uint8
    assert len(loaded.captions) == len(loaded.families) == N
    assert all(caption and caption == " ".join(caption.split()) for caption in loaded.captions)
    if not case.made.of_a_package:
        assert set(loaded.captions) == {f"picture {i}{case.made.ending}" for i in range(N)}
        numbers = [int(caption.split()[1].strip(",")) for caption in loaded.captions]
        wanted = torch.tensor([colour(i) for i in numbers])
        assert (loaded.images[:, :, 8, 8].int() - wanted).abs().max() <= 3  # JPEG
    again = [record.name for record in SOURCES[case.name].records(case.spec)]
    assert again == [record.name for record in SOURCES[case.name].records(case.spec)]


def test_the_second_call_decodes_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_source(case.spec)

    def refuse(*args: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(module, "square", refuse)
    second = load_source(case.spec)
    assert torch.equal(first.images, second.images)
    assert (first.captions, first.families, first.skipped) == (
        second.captions,
        second.families,
        second.skipped,
    )


def test_the_split_is_whole_families_and_always_the_same(case: Case) -> None:
    first, second = prepare(case.spec), prepare(case.spec)
    assert torch.equal(first.train, second.train)
    assert not _families(first, first.train) & _families(first, first.held_out)
    assert len(first.train) + len(first.held_out) == N
    assert first.fingerprint == second.fingerprint


def _families(data: Prepared, side: torch.Tensor) -> set[str]:
    return {data.families[i] for i in side.tolist()}


def test_what_is_broken_is_left_out_and_counted(case: Case) -> None:
    if case.made.spoil is None:
        pytest.skip("a package's files are as they are")
    case.made.spoil()
    loaded = load_source(case.spec)
    assert len(loaded.images) == N - 1
    assert loaded.skipped[0].reason == "corrupt picture"
    assert loaded.skipped[0].count == 1


def test_another_picture_is_another_fingerprint(case: Case) -> None:
    if case.made.repaint is None:
        other = case.spec.model_copy(update={"limit": N - 1})
        assert prepare(other).fingerprint != prepare(case.spec).fingerprint
        return
    before = prepare(case.spec)
    case.made.repaint()
    after = prepare(case.spec)
    assert after.captions == before.captions
    assert not torch.equal(after.images, before.images)
    assert after.fingerprint != before.fingerprint


def test_the_place_of_the_files_is_not_in_the_fingerprint(case: Case, tmp_path: Path) -> None:
    if case.made.of_a_package:
        pytest.skip("a package has one place")
    before = prepare(case.spec).fingerprint
    os.rename(tmp_path / "files", tmp_path / "elsewhere")
    moved = {
        key: value.replace(str(tmp_path / "files"), str(tmp_path / "elsewhere"))
        for key, value in case.made.keys.items()
        if isinstance(value, str)
    }
    assert prepare(case.spec.model_copy(update=moved)).fingerprint == before


def test_a_limit_takes_the_first(case: Case) -> None:
    whole = load_source(case.spec)
    few = load_source(case.spec.model_copy(update={"limit": 5}))
    assert few.captions == whole.captions[:5]
    assert torch.equal(few.images, whole.images[:5])


def test_every_source_says_what_it_is(case: Case) -> None:
    source = SOURCES[case.name]
    assert source.needs <= source.takes
    assert all(isinstance(version, str) for version in source.versions().values())
    assert check_source(case.spec) == {case.name: source}
    for name, licence in source.licences(case.spec).items():
        assert name
        assert licence


def test_the_pictures_of_the_tests_differ() -> None:
    assert len({Image.new("RGB", (1, 1), colour(i)).tobytes() for i in range(N)}) == N
