from pathlib import Path

import pytest

from archsearch import catalog
from archsearch.errors import InputError

SHIPPED = [
    (kind, path.stem)
    for kind, folder in catalog.FOLDERS.items()
    for path in sorted((catalog.packaged() / folder).glob(f"*{catalog.SUFFIX[kind]}"))
    if ".partial" not in path.name  # a measurement that is not finished
]


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("schema: 1\n")
    return path


@pytest.fixture
def working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with nothing in it."""
    folder = tmp_path / "working"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_shipped_files_are_found_from_anywhere(kind: str, name: str, working: Path) -> None:
    assert catalog.find(kind, name).parent == catalog.packaged() / catalog.FOLDERS[kind]


def test_a_space_and_a_study_are_shipped() -> None:
    assert {("space", "quickstart"), ("study", "quickstart")} <= set(SHIPPED)


def test_a_name_is_looked_for_near_then_here_then_in_the_package(
    working: Path, tmp_path: Path
) -> None:
    study = put(tmp_path / "project" / "studies" / "mine.yaml")
    assert (
        catalog.find("space", "quickstart", study)
        == catalog.packaged() / "search_spaces" / "quickstart.yaml"
    )
    here = put(working / "search_spaces" / "quickstart.yaml")
    assert catalog.find("space", "quickstart", study).resolve() == here
    put(tmp_path / "project" / "studies" / "quickstart.yaml")
    assert catalog.find("space", "quickstart", study).resolve() == here, (
        "a study of that name is no space"
    )
    beside = put(tmp_path / "project" / "search_spaces" / "quickstart.yaml")
    assert catalog.find("space", "quickstart", study).resolve() == beside
    assert catalog.find("space", "quickstart").resolve() == here, (
        "without a file that names it, the working folder is first"
    )


def test_near_is_the_folder_of_the_file_also_from_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``cd studies; archsearch run mine.yaml`` means the same files as from outside."""
    put(tmp_path / "studies" / "mine.yaml")
    beside = put(tmp_path / "search_spaces" / "quickstart.yaml")
    monkeypatch.chdir(tmp_path / "studies")
    assert catalog.find("space", "quickstart", Path("mine.yaml")).resolve() == beside
    monkeypatch.chdir(tmp_path)
    assert catalog.find("space", "quickstart", Path("studies/mine.yaml")).resolve() == beside


def test_a_path_is_taken_as_it_is(working: Path, tmp_path: Path) -> None:
    study = put(tmp_path / "project" / "mine.yaml")
    here = put(working / "space.yaml")
    assert catalog.find("space", "space.yaml", study).resolve() == here
    near = put(tmp_path / "project" / "space.yaml")
    assert catalog.find("space", "space.yaml", study).resolve() == near, (
        "relative to the file that names it first"
    )
    assert catalog.find("space", str(here), study) == here


def test_missing_files_are_named_with_the_nearest(working: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"space 'quikstart' is not known; there are: .*quickstart.* Did you mean 'quickstart'\?",
    ):
        catalog.find("space", "quikstart")
    with pytest.raises(InputError, match=r"study 'absent\.yaml': there is no such file\."):
        catalog.find("study", "absent.yaml")
    with pytest.raises(InputError, match=r"table 'folder/absent': there is no such file\."):
        catalog.find("table", "folder/absent")


def test_names_in_the_working_folder_are_listed(working: Path) -> None:
    put(working / "search_spaces" / "my-own.yaml")
    with pytest.raises(
        InputError, match="there are: lite-inner, mobilediffusion, my-own, quickstart"
    ):
        catalog.find("space", "absent")


def test_initialise_copies_what_is_shipped(tmp_path: Path) -> None:
    written = catalog.initialise(tmp_path / "new")
    assert tmp_path / "new" / "search_spaces" / "quickstart.yaml" in written
    assert tmp_path / "new" / "studies" / "quickstart.yaml" in written
    for file in written:
        assert (
            file.read_bytes()
            == (catalog.packaged() / file.relative_to(tmp_path / "new")).read_bytes()
        )
    assert sorted(written) == sorted(
        path for path in (tmp_path / "new").rglob("*") if path.is_file()
    )


def test_initialise_leaves_what_is_there(tmp_path: Path) -> None:
    mine = put(tmp_path / "search_spaces" / "quickstart.yaml")
    before = mine.read_bytes()
    written = catalog.initialise(tmp_path)
    assert mine not in written
    assert mine.read_bytes() == before
    assert catalog.initialise(tmp_path) == []
