"""``archsearch evaluate``, as it is typed."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from archsearch import catalog
from archsearch.data.prepare import Prepared
from archsearch.metrics.evaluate import build_metrics, evaluate, scan
from archsearch.metrics.networks import EfficientNetLite0
from archsearch.metrics.spec import MetricSettings
from tests.conftest import Cli

FREE = [
    "kid_effnet",
    "fd_effnet",
    "precision_effnet",
    "recall_effnet",
    "density_effnet",
    "coverage_effnet",
]


def write(folder: Path, images: torch.Tensor, captions: list[str] | None) -> Path:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:03d}.png")
        if captions:
            (folder / f"{i:03d}.txt").write_text(captions[i])
    return folder


@pytest.fixture(scope="module")
def real(data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(
        tmp_path_factory.mktemp("a") / "real",
        data.images[data.train],
        [data.captions[i] for i in data.train],
    )


@pytest.fixture(scope="module")
def made(data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(
        tmp_path_factory.mktemp("b") / "made",
        data.images[data.held_out] // 2,
        [data.captions[i] for i in data.held_out],
    )


def scores(cli: Cli, *arguments: object) -> dict[str, dict[str, float]]:
    code, out, err = cli("evaluate", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)["scores"]


def test_a_table_of_all_that_needs_no_file(cli: Cli, real: Path, made: Path) -> None:
    code, out, err = cli("evaluate", made, "--reference", real, "--size", 32)
    assert code == 0, err
    assert "16 pictures against 48 real ones, at 32 px" in out
    assert all(
        name in out for name in [*FREE, "alignment", "95 % from", "floor", "lower", "higher"]
    )
    assert "│ fid " not in out


def test_values_are_those_of_the_library(
    cli: Cli, real: Path, made: Path, inception_file: Path, clip_folder: Path
) -> None:
    found = scores(
        cli,
        made,
        "--reference",
        real,
        "--size",
        32,
        "--inception",
        inception_file,
        "--clip",
        clip_folder,
    )
    assert list(found) == [*FREE, "alignment", "fid", "kid", "cmmd", "clip_score"]
    settings = MetricSettings(inception=inception_file, clip=str(clip_folder))
    pictures = scan(made, 32)
    batches = list(pictures.batches(range(16)))
    expected = evaluate(build_metrics(found, scan(real, 32), settings), *batches[0])
    for name, score in found.items():
        assert score["value"] == pytest.approx(expected[name][name], rel=1e-4, abs=1e-6)
        assert score["low"] <= score["value"] <= score["high"]
        assert score["floor"] == pytest.approx(expected[name][f"{name}_floor"])
    assert "effnet" not in found["kid"]


def test_a_saved_reference_gives_the_same(
    cli: Cli,
    real: Path,
    made: Path,
    tmp_path: Path,
    inception_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "real.safetensors"
    options = ["--inception", inception_file]
    first = scores(cli, made, "--reference", real, "--size", 32, *options, "--save-reference", file)
    seen: list[int] = []
    plain = EfficientNetLite0._look
    monkeypatch.setattr(
        EfficientNetLite0,
        "_look",
        lambda self, images: seen.append(len(images)) or plain(self, images),
    )
    monkeypatch.setenv("ARCHSEARCH_CACHE", str(tmp_path / "empty"))
    assert scores(cli, made, "--reference", file, *options) == first
    assert seen == [16]  # the real pictures' are in the file


def test_the_largest_seed_gives_scores(cli: Cli, real: Path, made: Path) -> None:
    options = ["--reference", real, "--size", 32, "--metrics", "kid_effnet,fd_effnet", "--limit", 8]
    least, largest = (scores(cli, made, *options, "--seed", seed) for seed in (0, 2**63 - 1))
    assert largest.keys() == least.keys()
    assert largest["kid_effnet"]["floor"] != least["kid_effnet"]["floor"]


def test_a_study_is_a_reference(
    cli: Cli, real: Path, made: Path, monkeypatch: pytest.MonkeyPatch, data: Prepared
) -> None:
    monkeypatch.setattr("archsearch.cli.data.prepare", lambda spec, latent, progress: data)
    code, out, err = cli(
        "evaluate", made, "--reference", "quickstart", "--metrics", "kid_effnet", "--json"
    )
    assert code == 0, err
    assert (json.loads(out)["real_pictures"], json.loads(out)["size"]) == (48, 32)
    assert cli("evaluate", made, "--reference", "quickstart", "--size", 64)[0] == 2


def test_limit_draws_the_same_pictures_again(cli: Cli, real: Path, made: Path) -> None:
    def drawn(seed: int) -> float:
        options = ["--metrics", "kid_effnet", "--limit", 5, "--seed", seed]
        return scores(cli, made, "--reference", real, "--size", 32, *options)["kid_effnet"]["value"]

    assert drawn(0) == drawn(0) != drawn(1)


def test_what_cannot_be_read_is_skipped_and_counted(
    cli: Cli, real: Path, data: Prepared, tmp_path: Path
) -> None:
    folder = write(tmp_path / "made", data.images[:6], None)
    (folder / "broken.png").write_bytes(b"\x89PNG")
    code, out, err = cli("evaluate", folder, "--reference", real, "--size", 32, "--json")
    assert code == 0
    assert "left out: 1 corrupt picture (broken.png)" in err
    assert (json.loads(out)["pictures"], json.loads(out)["skipped"]) == (6, 1)
    assert "alignment" not in json.loads(out)["scores"]  # no captions


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--metrics", "kid_effnt"],
            "--metrics: 'kid_effnt' is not known; allowed are kid_effnet,",
        ),
        (["--metrics", "alignment_recombined"], "is not known"),
        (["--metrics", ","], "'' is not known"),
        (["--metrics", "fid"], "fid needs FID's InceptionV3 as a TorchScript file"),
        (["--metrics", "cmmd"], "Give it with --clip, or use kid_effnet"),
        (["--seed", "99999999999999999999"], "Invalid value for '--seed'"),
        (["--inception", "/nowhere/i.pt"], "--inception: /nowhere/i.pt: no such file"),
        (["--clip", "/nowhere/clip"], "metrics.clip: /nowhere/clip: there is no such folder"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    cli: Cli,
    real: Path,
    made: Path,
    options: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "archsearch.cli.evaluate.scan", lambda *a: pytest.fail("pictures were read")
    )
    code, _, err = cli("evaluate", made, "--reference", real, *options)
    assert code == 2
    assert words in err


def test_bad_data_are_refused_by_name(
    cli: Cli, real: Path, made: Path, data: Prepared, tmp_path: Path, inception_file: Path
) -> None:
    few, bare = (
        write(tmp_path / "few", data.images[:2], None),
        write(tmp_path / "bare", data.images[:6], None),
    )
    saved, cut = tmp_path / "saved.safetensors", tmp_path / "cut.safetensors"
    assert (
        cli(
            "evaluate",
            made,
            "--reference",
            real,
            "--size",
            32,
            "--metrics",
            "kid_effnet",
            "--save-reference",
            saved,
        )[0]
        == 0
    )
    cut.write_bytes(saved.read_bytes()[:-100])
    cases = [
        ((few, "--reference", real), f"{few}: at least 3 usable pictures are needed, but got 2"),
        ((made, "--reference", few), "at least 4 real pictures are needed, but got 2"),
        (
            (bare, "--reference", real, "--metrics", "alignment"),
            f"alignment needs a caption for each picture of {bare}",
        ),
        (
            (made, "--reference", bare, "--metrics", "alignment"),
            "alignment needs captions of the real pictures",
        ),
        ((tmp_path / "no", "--reference", real), "no: no such folder"),
        ((made, "--reference", "nostudy"), "nostudy"),
        (
            (made, "--reference", tmp_path / "no.safetensors"),
            "no.safetensors: no such reference file",
        ),
        ((made, "--reference", cut), f"{cut}: not a reference file, or cut short"),
        ((made, "--reference", saved, "--size", 64), "--size: 64, but the pictures"),
        (
            (made, "--reference", saved, "--inception", inception_file),
            "holds features of efficientnet-lite0 (input 128",
        ),
        (
            (made, "--reference", saved, "--inception", inception_file),
            "but those of torchscript (sha256",
        ),
    ]
    for arguments, words in cases:
        code, _, err = cli("evaluate", *arguments)
        assert (code, words in err) == (2, True), err


def test_no_traceback_where_the_file_cannot_be_written(
    cli: Cli, real: Path, made: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    target = tmp_path / "taken" / "x.safetensors"
    code, _, err = cli(
        "evaluate",
        made,
        "--reference",
        real,
        "--size",
        32,
        "--metrics",
        "kid_effnet",
        "--save-reference",
        target,
    )
    assert code == 1
    assert "cannot be written" in err


def test_a_study_finds_its_pictures_beside_its_file(
    cli: Cli, real: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study").mkdir()
    shutil.copytree(real, tmp_path / "study" / "pictures")
    text = catalog.find("study", "quickstart").read_text(encoding="utf-8")
    study = tmp_path / "study" / "mine.yaml"
    study.write_text(
        re.sub(r"(?m)^data:.*$", "data: {source: folder, path: pictures, size: 32}", text),
        encoding="utf-8",
    )
    monkeypatch.chdir(made)  # not where the study is
    code, out, err = cli(
        "evaluate", made, "--reference", study, "--metrics", "kid_effnet", "--json"
    )
    assert code == 0, err
    assert 0 < json.loads(out)["real_pictures"] < 48  # without those held out
