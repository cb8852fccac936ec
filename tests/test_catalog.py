"""Architectures, spaces, tables and studies: by name, by path, or packaged."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml

from archsearch import catalog
from archsearch.catalog import load_architecture, read_config
from archsearch.edit.recipe import load_recipe
from archsearch.errors import InputError
from archsearch.files import write_json
from archsearch.latency.predict import load_table
from archsearch.search_space.space import load_space
from archsearch.study.setting import load_setting
from archsearch.unet.presets import PRESETS, preset
from tests.unet.published import SD15, SDXL

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
        match=r"space 'quikstart' is not known; there are: .*quickstart.* Did you mean "
        r"'quickstart'\?",
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


SMALL = {
    "schema": 1,
    "sample_size": 8,
    "norm_groups": 8,
    "stages": [{"channels": 16, "down": [{}], "up": [{}]}],
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load_by_name_and_from_their_file(name: str, tmp_path: Path) -> None:
    config = preset(name)
    assert load_architecture(name).config == config
    (tmp_path / "mine.json").write_text(config.to_json())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config.to_dict()))
    for file in ("mine.json", "mine.yaml"):
        loaded = load_architecture(str(tmp_path / file))
        assert (loaded.name, loaded.config) == ("mine", config)


def test_files_are_relative_to_the_file_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "base.json").write_text(json.dumps(SMALL))
    (tmp_path / "here.json").write_text(json.dumps(SMALL | {"sample_size": 16}))
    monkeypatch.chdir(tmp_path)
    near = tmp_path / "spaces" / "space.yaml"
    assert load_architecture("base.json", near).config.sample_size == 8
    assert load_architecture("here.json", near).config.sample_size == 16


def _write(path: Path, data: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", **data})
    )
    return path


def test_diffusers_files_go_by_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "model" / "config.json", SD15)
    _write(tmp_path / "pipeline" / "unet" / "config.json", SDXL)
    _write(tmp_path / "mine.json", SD15)
    for text, name, wanted in (
        ("model/config.json", "model", "sd15"),
        ("model", "model", "sd15"),
        ("pipeline", "pipeline", "sdxl"),
        ("pipeline/unet", "pipeline", "sdxl"),
        ("pipeline/unet/config.json", "pipeline", "sdxl"),
        ("mine.json", "mine", "sd15"),
    ):
        found = load_architecture(str(tmp_path / text))
        assert (found.name, found.config) == (name, preset(wanted))
    assert load_architecture("pipeline", near=tmp_path / "space.yaml").config == preset("sdxl")
    monkeypatch.chdir(tmp_path / "model")
    assert load_architecture("config.json").name == "model"


def test_what_is_wrong_with_a_diffusers_file_is_told_with_the_file(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "net" / "config.json", SD15 | {"act_fn": "gelu", "class_embed_type": "timestep"}
    )
    with pytest.raises(InputError) as caught:
        load_architecture(str(tmp_path / "net"))
    assert [line.split(" ")[:2] for line in str(caught.value).splitlines()] == [
        [f"{path}:", "act_fn:"],
        [f"{path}:", "class_embed_type:"],
    ]
    _write(path, {"_class_name": "UNet2DModel"})
    with pytest.raises(
        InputError,
        match=r"config\.json: _class_name: 'UNet2DModel' is not read; allowed are "
        r"UNet2DConditionModel",
    ):
        load_architecture(str(path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError,
        match=r"empty' is neither a preset .* nor a folder with a config\.json of diffusers",
    ):
        load_architecture(str(tmp_path / "empty"))


def test_unknown_names_are_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"'sd51' is neither a preset \(bk-sdm-base, .*, sd15, sdxl\).* Did you mean 'sd15'\?",
    ):
        load_architecture("sd51")
    with pytest.raises(
        InputError,
        match=r"absent\.json' is neither a preset .* nor a \.json or \.yaml file that exists",
    ):
        load_architecture("absent.json")
    (tmp_path / "config.txt").write_text(json.dumps(SMALL))
    with pytest.raises(InputError, match=r"nor a \.json or \.yaml file"):
        load_architecture(str(tmp_path / "config.txt"))
    with pytest.raises(
        InputError,
        match=r"'mobildiffusion' is not a preset; allowed are .* Did you mean 'mobilediffusion'\?",
    ):
        preset("mobildiffusion")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sample_size: 8\n", r"schema: is missing; a UNetConfig file begins with schema: 1\."),
        ("schema: 2\nstages: []\n", r"mine\.yaml:1: schema: must be 1, but got 2\."),
        (
            "schema: 1\nstages:\n  - channels: 16\n    down: [{}]\n    pu: [{}]\n",
            r"mine\.yaml:5: stages\[0\]\.pu: is not a known key\. Did you mean 'up'\?",
        ),
        (
            "schema: 1\nstages:\n  - {channels: 12, down: [{}], up: [{}]}\n",
            r"stages\[0\]\.channels: must be a multiple of 8, but got 12",
        ),
        (
            "schema: 1\nstages: 2024-01-01\n",
            r"mine\.yaml:2: stages: must be a list, such as \[2024-01-01\], but got '2024-01-01'",
        ),
        (
            "schema: 1\nstages:\n  - channels: 16\n    up: [{}]\n    down:\n"
            "      - {layer: [sa]}\n",
            r"mine\.yaml:6: stages\[0\]\.down\[0\]\.layer: is not a known key\. Did you mean "
            r"'layers'\? Allowed",
        ),
    ],
)
def test_wrong_files_are_refused_with_line_and_key(
    text: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=expected):
        read_config(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(preset("sd15").to_json()[:200])
    with pytest.raises(InputError, match="Is the file truncated"):
        read_config(path)


@pytest.mark.parametrize(
    ("inside", "name"),
    [("unet", "someone/small--net"), ("", "someone/small--net"), ("prior", "prior")],
)
def test_a_network_in_a_cache_of_the_hub_goes_by_its_repository(
    tmp_path: Path, inside: str, name: str
) -> None:
    repository = tmp_path / "models--someone--small--net"
    blob = _write(repository / "blobs" / "0123abcd", SD15)
    folder = repository / "snapshots" / "f00d" / inside
    folder.mkdir(parents=True)
    (folder / "config.json").symlink_to(blob)
    given = folder / "config.json" if inside == "prior" else repository / "snapshots" / "f00d"
    loaded = load_architecture(str(given))
    assert loaded.name == name
    assert loaded.config == preset("sd15")


def test_a_file_of_another_kind_is_named_as_what_it_is(tmp_path: Path) -> None:
    study, space = catalog.find("study", "quickstart"), catalog.find("space", "quickstart")
    with pytest.raises(
        InputError,
        match=r"quickstart\.yaml: is a study \(it has the key 'objectives'\), but a network is "
        r"needed here\. Of a study that was run, RUN_DIR#TRIAL is a network\.$",
    ):
        load_architecture(str(study))
    with pytest.raises(InputError, match=r"is a search space .* but a network is needed here"):
        load_architecture(str(space))
    with pytest.raises(InputError, match=r"is a study .* but a search space is needed here"):
        load_space(str(study))
    with pytest.raises(InputError, match=r"is a search space .* but a study is needed here"):
        load_setting(space)
    with pytest.raises(InputError, match=r"is a search space .* but a recipe is needed here"):
        load_recipe(space)
    with pytest.raises(InputError, match=r"is a study .* but a latency table is needed here"):
        load_table(study)


@pytest.mark.parametrize("trial", ["²", "³", "１", "-1", "1.0", "x", "", "1e3", "9" * 5000])
def test_a_trial_is_named_by_a_number(trial: str, tmp_path: Path) -> None:
    put(tmp_path / "run" / "study.yaml")
    with pytest.raises(InputError, match="after # comes the number of a trial"):
        load_architecture(f"{tmp_path}/run#{trial}")


def test_a_trials_file_must_hold_the_network_that_its_database_notes(tmp_path: Path) -> None:
    run = tmp_path / "run ?"
    put(run / "study.yaml")
    lite, other = preset("mobilediffusion-lite"), preset("sd15")
    for number, network in enumerate((lite, other, other)):
        write_json(run / "trials" / str(number) / "config.json", network.to_dict())
    with sqlite3.connect(run / "study.db") as database:  # as Optuna lays it out
        database.execute("CREATE TABLE trials (trial_id, number)")
        database.execute("CREATE TABLE trial_user_attributes (trial_id, key, value_json)")
        for number in (0, 1):
            database.execute("INSERT INTO trials VALUES (?, ?)", (number + 7, number))
            noted = json.dumps({"digest": lite.digest})
            row = (number + 7, "candidate", noted)
            database.execute("INSERT INTO trial_user_attributes VALUES (?, ?, ?)", row)
    assert load_architecture(f"{run}#0").config == lite
    with pytest.raises(
        InputError, match=f"1/config.json: holds .* {other.digest}, but .* {lite.digest}"
    ):
        load_architecture(f"{run}#1")
    assert load_architecture(f"{run}#2").config == other, "nothing is noted of it"
