"""The data of a study: paths from where the file lies, errors with its line, and a run on what a
user brings.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from archsearch.data import latent, text
from archsearch.data.pictures import SOURCES
from archsearch.data.prepare import prepare
from archsearch.errors import InputError
from archsearch.study.rundir import open_run
from archsearch.study.setting import load_setting
from archsearch.study.worker import Worker

from ..conftest import Cli
from ..data import brought
from ..data.made import pictures
from .conftest import WriteStudy, started


@pytest.mark.parametrize(
    ("changes", "line", "told"),
    [
        (
            {"data": {"source": "folders"}},
            "source:",
            "data.source: 'folders' is not known. Did you mean 'folder'?",
        ),
        (
            {"data": {"source": "folder"}},
            "data:",
            "data.path: the source folder needs it, but it is not given.",
        ),
        (
            {"data": {"images": "x"}},
            "images:",
            "data.images: belongs to coco, but data.source is twemoji.",
        ),
        (
            {"data": {"text": "minilmm"}},
            "text:",
            "data.text: 'minilmm' is not known. Did you mean 'minilm'?",
        ),
        (
            {"data": {"text": "./clip"}},
            "text:",
            "data.text: ./clip: there is no such folder, and it is no id",
        ),
        (
            {"proxy": {"latent": "pixel"}},
            "latent:",
            "proxy.latent: 'pixel' is not known. Did you mean 'pixels'?",
        ),
        ({"proxy": {"latent": "unshuffle"}}, "sample_size:", "must be data.size (16) divided by 2"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    write_study: WriteStudy, changes: dict[str, Any], line: str, told: str
) -> None:
    path = write_study(**changes)
    setting = load_setting(path)
    with pytest.raises(InputError) as raised:
        setting.check_files()
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
    data = load_setting(
        write_study(data={"source": "folder", "path": "there", "text": "clip"})
    ).spec.data
    assert data.path == str((tmp_path / "work" / "there").resolve())
    assert data.text == str((tmp_path / "clip").resolve())
    assert load_setting(write_study()).spec.data.text == "minilm"  # a name of ours is no folder's
    shards = load_setting(
        write_study(data={"source": "webdataset", "path": "there/{0..3}.tar"})
    ).spec.data.path
    assert shards == str((tmp_path / "work" / "there").resolve() / "{0..3}.tar")


def test_files_that_are_gone_are_refused_before_a_run_but_results_can_be_looked_at(
    write_study: WriteStudy,
) -> None:
    path = write_study(data={"source": "folder", "path": "gone"})
    setting = load_setting(path)
    with pytest.raises(InputError, match=rf"{path}:\d+: data\.path: gone: is no folder"):
        setting.check_files()


def test_a_context_longer_than_the_encoders(write_study: WriteStudy, tmp_path: Path) -> None:
    brought.clip(tmp_path / "clip")
    with pytest.raises(
        InputError, match=r"data\.tokens: 32 is more than the 24 tokens that data\.text"
    ):
        load_setting(write_study(data={"text": "clip", "tokens": 32})).check_files()


def test_a_proxy_has_the_channels_and_the_context_of_what_is_brought(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    brought.kl(tmp_path / "vae", 16)
    brought.t5(tmp_path / "t5")
    setting = load_setting(
        write_study(data={"size": 64, "text": "t5"}, proxy={"latent": "vae", "sample_size": 16})
    )
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
    return write_study(
        data=data,
        proxy={"latent": "vae", "sample_size": 8},
        search={"trials": 1},
        report=["kid_effnet"],
    )


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


def forget_models() -> None:
    """As another process, which has read no configuration yet."""
    for brought_models in (text._brought, latent._brought):
        brought_models.cache_clear()


def test_a_run_is_looked_at_without_models_data_and_the_package_of_its_source(
    brought_study: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = started(brought_study, tmp_path / "run")
    Worker(run, 1).work()
    code, shown, err = cli("pareto", run.path, "--json")
    assert code == 0, err
    for name in ("clip", "vae", "pictures"):
        shutil.rmtree(tmp_path / name)
    monkeypatch.delitem(SOURCES, "folder")
    forget_models()
    code, out, err = cli("pareto", run.path, "--json")
    assert (code, out) == (0, shown), err
    number = json.loads(out)["front"][0]["trial"]
    exported = tmp_path / "proxy.json"
    for command in (
        ("status", run.path),
        ("plot", run.path),
        ("arch", "show", f"{run.path}#{number}"),
        (
            "export",
            run.path,
            "--trial",
            number,
            "--proxy",
            "--format",
            "json",
            "--output",
            exported,
        ),
    ):
        code, _, err = cli(*command)
        assert code == 0, err
    assert json.loads(exported.read_text())["context_dim"] == 16
    code, _, err = cli("run", run.study, "--output", run.path)  # but not continued
    assert code == 2
    assert "data.source: 'folder' is not known" in err


def test_a_run_notes_the_ends_of_its_proxies(brought_study: Path, tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", load_setting(brought_study))
    known = json.loads((run.path / "environment.json").read_text())
    assert known["proxy"] == {"channels": 4, "context_dim": 16}
    shutil.rmtree(tmp_path / "clip")
    forget_models()
    setting = run.setting()
    assert setting.proxy(setting.space.base).context_dim == 16
    with pytest.raises(InputError, match=r"data\.text: .*clip: there is no such folder"):
        setting.read_proxy_ends()


def test_a_run_goes_on_with_what_has_moved(brought_study: Path, tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", load_setting(brought_study))
    (tmp_path / "moved").mkdir()
    for name in ("clip", "vae", "pictures"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    moved = [
        f"{key}=moved/{name}"
        for key, name in (("data.text", "clip"), ("data.path", "pictures"), ("proxy.latent", "vae"))
    ]
    again = open_run(tmp_path / "run", load_setting(brought_study, moved)).setting()
    assert again.spec.data.text == str(tmp_path / "moved" / "clip")
    assert again.spec.proxy.latent == str(tmp_path / "moved" / "vae")
    for change in ("data.text=minilm", "proxy.latent=pixels", "data.size=40"):
        with pytest.raises(
            InputError, match=rf"another study; these differ: {change.partition('=')[0]} "
        ):
            open_run(run.path, load_setting(brought_study, [change]))


def test_other_data_at_a_new_place_are_refused_and_the_old_place_is_kept(
    brought_study: Path, tmp_path: Path
) -> None:
    setting = load_setting(brought_study)
    run = open_run(tmp_path / "run", setting)
    run.keep_data(prepare(setting.spec.data, setting.spec.proxy.latent).fingerprint)
    shutil.copytree(tmp_path / "pictures", tmp_path / "fewer")
    next((tmp_path / "fewer").glob("*.png")).unlink()
    with pytest.raises(InputError, match="the data have changed since this run began"):
        open_run(run.path, load_setting(brought_study, ["data.path=fewer"]))
    assert run.setting().spec.data.path == str(tmp_path / "pictures")


@pytest.mark.slow
def test_a_study_on_what_a_user_brings_runs(brought_study: Path, tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("run", brought_study, "--output", tmp_path / "run")
    assert code == 0, err
    assert (tmp_path / "run" / "pareto.json").is_file()


def test_bad_data_ends_with_code_2_and_the_line(
    write_study: WriteStudy, tmp_path: Path, cli: Cli
) -> None:
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
