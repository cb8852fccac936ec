"""The data of a study: paths from where the file lies, errors with its line, and a run on what a user brings."""

from pathlib import Path
from typing import Any

import pytest

from archsearch.errors import InputError
from archsearch.study.setting import check_metric_files, load_setting

from ..conftest import Cli
from ..data import brought
from ..data.made import pictures
from .conftest import WriteStudy


@pytest.mark.parametrize(
    ("changes", "line", "told"),
    [
        ({"data": {"source": "folders"}}, "source:", "data.source: 'folders' is not known. Did you mean 'folder'?"),
        ({"data": {"source": "folder"}}, "data:", "data.path: the source folder needs it, but it is not given."),
        ({"data": {"images": "x"}}, "images:", "data.images: belongs to coco, but data.source is twemoji."),
        ({"data": {"text": "minilmm"}}, "text:", "data.text: 'minilmm' is not known. Did you mean 'minilm'?"),
        (
            {"data": {"text": "./clip"}},
            "text:",
            "data.text: ./clip: there is no such folder, and it is no id",
        ),
        ({"proxy": {"latent": "pixel"}}, "latent:", "proxy.latent: 'pixel' is not known. Did you mean 'pixels'?"),
        ({"proxy": {"latent": "unshuffle"}}, "sample_size:", "must be data.size (16) divided by 2"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(write_study: WriteStudy, changes: dict[str, Any], line: str, told: str) -> None:
    path = write_study(**changes)
    with pytest.raises(InputError) as raised:
        load_setting(path)
    assert told in str(raised.value)
    where, number = str(raised.value).split(": ")[0].rsplit(":", 1)
    assert where == str(path)
    assert path.read_text().splitlines()[int(number) - 1].strip().startswith(line)


def test_paths_are_found_beside_the_study_then_in_the_working_folder(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work" / "there").mkdir(parents=True)
    (tmp_path / "work" / "clip").mkdir()
    brought.clip(tmp_path / "clip")
    (tmp_path / "minilm").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    data = load_setting(write_study(data={"source": "folder", "path": "there", "text": "clip"})).spec.data
    assert data.path == str((tmp_path / "work" / "there").resolve())
    assert data.text == str((tmp_path / "clip").resolve())
    assert load_setting(write_study()).spec.data.text == "minilm"  # a name of ours is no folder's
    shards = load_setting(write_study(data={"source": "webdataset", "path": "there/{0..3}.tar"})).spec.data.path
    assert shards == str((tmp_path / "work" / "there").resolve() / "{0..3}.tar")


def test_files_that_are_gone_are_refused_before_a_run_but_results_can_be_looked_at(write_study: WriteStudy) -> None:
    path = write_study(data={"source": "folder", "path": "gone"})
    setting = load_setting(path)
    with pytest.raises(InputError, match=rf"{path}:\d+: data\.path: gone: is no folder"):
        check_metric_files(setting)


def test_a_context_longer_than_the_encoders(write_study: WriteStudy, tmp_path: Path) -> None:
    brought.clip(tmp_path / "clip")
    with pytest.raises(InputError, match=r"data\.tokens: 32 is more than the 24 tokens that data\.text"):
        load_setting(write_study(data={"text": "clip", "tokens": 32}))


def test_a_proxy_has_the_channels_and_the_context_of_what_is_brought(write_study: WriteStudy, tmp_path: Path) -> None:
    brought.kl(tmp_path / "vae", 16)
    brought.t5(tmp_path / "t5")
    setting = load_setting(write_study(data={"size": 64, "text": "t5"}, proxy={"latent": "vae", "sample_size": 16}))
    proxy = setting.proxy(setting.space.base)
    assert (proxy.in_channels, proxy.out_channels, proxy.context_dim) == (16, 16, 24)


@pytest.fixture
def brought_study(write_study: WriteStudy, tmp_path: Path) -> Path:
    """A study on a folder of 20 pictures, one of them broken, with CLIP and an autoencoder."""
    made = pictures(tmp_path / "pictures", 20)
    assert made.spoil
    made.spoil()
    brought.clip(tmp_path / "clip")
    brought.kl(tmp_path / "vae")
    data = {"source": "folder", "path": "pictures", "size": 32, "text": "clip", "held_out": 0.3}
    return write_study(data=data, proxy={"latent": "vae", "sample_size": 8}, search={"trials": 1}, report=["kid_effnet"])


def test_prepare_and_show_say_what_was_left_out(brought_study: Path, cli: Cli) -> None:
    code, out, err = cli("data", "prepare", brought_study)
    assert code == 0, err
    assert "folder: 19 pictures ready" in out
    assert "left out: 1 corrupt picture (003.png)" in out
    code, out, err = cli("data", "show", brought_study, "--json")
    assert code == 0, err
    assert '"reason": "corrupt picture"' in out
    assert '"encoder": "CLIPTextModel ' in out
    assert '"sample": [\n  4,\n  8,\n  8\n ]' in out


@pytest.mark.slow
def test_a_study_on_what_a_user_brings_runs(brought_study: Path, tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("run", brought_study, "--output", tmp_path / "run")
    assert code == 0, err
    assert (tmp_path / "run" / "pareto.json").is_file()


def test_bad_data_ends_with_code_2_and_the_line(write_study: WriteStudy, tmp_path: Path, cli: Cli) -> None:
    pictures(tmp_path / "pictures", 4)
    (tmp_path / "pictures" / "metadata.jsonl").write_text("{")
    path = write_study(data={"source": "folder", "path": "pictures"})
    code, _, err = cli("data", "prepare", path)
    assert code == 2
    assert f"{tmp_path / 'pictures' / 'metadata.jsonl'}:1: is not valid JSON" in err
    assert "Traceback" not in err
    code, _, err = cli("data", "show", path, "--set", "data.path=nowhere")
    assert code == 2
    assert f"{path}:" in err
    assert "data.path: nowhere: is no folder" in err
