import zipfile
from pathlib import Path
from typing import Any

import pytest

from archsearch.data.pictures import load_source
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError

from .made import colour, draw, encoded

datasets: Any = pytest.importorskip("datasets")


def spec(path: Path | str, **more: object) -> DataSpec:
    return DataSpec.model_validate({"source": "huggingface", "size": 16, "path": str(path)} | more)


def rows(**columns: Any) -> Any:
    pictures = [{"bytes": encoded(i), "path": None} for i in range(3)]
    given = {"image": pictures, "text": ["zero", "one", "two"]} | columns
    features = datasets.Dataset.from_dict(
        {k: v for k, v in given.items() if k != "image"}
    ).features | {"image": datasets.Image()}
    return datasets.Dataset.from_dict(given, features=datasets.Features(features))


def test_parquet_files(tmp_path: Path) -> None:
    rows().to_parquet(str(tmp_path / "data" / "train-00000.parquet"))
    assert load_source(spec(tmp_path / "data")).captions == ("zero", "one", "two")


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    draw(tmp_path / "data" / "1.png", 1)
    (tmp_path / "data" / "metadata.jsonl").write_text('{"file_name": "1.png", "caption": "one"}\n')
    assert load_source(spec(tmp_path / "data")).captions == ("one",)


def test_pictures_in_an_archive(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data" / "train.zip", "w") as archive:
        for i in range(3):
            archive.writestr(f"{i}.png", encoded(i) if i else b"no picture")
        archive.writestr(
            "metadata.jsonl",
            "".join(f'{{"file_name": "{i}.png", "text": "picture {i}"}}\n' for i in range(3)),
        )
    loaded = load_source(spec(tmp_path / "data"))
    assert loaded.captions == ("picture 1", "picture 2")
    assert loaded.images[:, :, 0, 0].tolist() == [list(colour(1)), list(colour(2))]
    assert [str(s) for s in loaded.skipped] == ["1 corrupt picture (row 0)"]


def test_splits_and_columns(tmp_path: Path) -> None:
    whole = rows(words=[["null"], ["eins", "eins"], []]).rename_column("image", "picture")
    datasets.DatasetDict({"train": whole.select([0]), "test": whole}).save_to_disk(
        str(tmp_path / "data")
    )
    columns = {"image_column": "picture", "caption_column": "words"}
    loaded = load_source(spec(tmp_path / "data", split="test", **columns))
    assert loaded.captions == ("null", "eins")
    assert str(loaded.skipped[0]) == "1 no caption (row 2)"
    for wrong, told in (
        (
            {"split": "dev"} | columns,
            r"data\.split: .* has no split 'dev'\. Allowed are: train, test",
        ),
        ({}, r"data\.image_column: .* has no column 'image'\. Allowed are: "),
        (columns | {"caption_column": "mots"}, r"data\.caption_column: .* has no column 'mots'"),
    ):
        with pytest.raises(InputError, match=told):
            load_source(spec(tmp_path / "data", **wrong))


def test_a_split_that_was_saved_alone(tmp_path: Path) -> None:
    rows().save_to_disk(str(tmp_path / "data"))
    assert len(load_source(spec(tmp_path / "data")).images) == 3
    with pytest.raises(InputError, match=r"data\.split"):
        load_source(spec(tmp_path / "data", split="test"))


def test_what_is_no_data_set_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"data\.path: .*empty: cannot be read as a data set"):
        load_source(spec(tmp_path / "empty"))
    with pytest.raises(
        InputError, match=r"data\.path: .*nowhere: there is no such folder, and it is no id"
    ):
        load_source(spec(tmp_path / "nowhere"))


def test_an_id_without_a_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        InputError,
        match=r"data\.path: org/none: there is no such folder, and the hub does not give it "
        r"\(.+\)\.$",
    ):
        load_source(spec("org/none"))
