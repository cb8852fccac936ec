"""``latency bundle`` and ``latency import`` as they are typed."""

import json
import shutil
from pathlib import Path

import pytest

from archsearch.latency.table import LatencyTable
from archsearch.unet.config import UNetConfig
from tests.conftest import Cli

RECORDED = Path(__file__).parent / "recorded"
DEVICE = ("--device", "pixel-8", "--soc", "Tensor G3", "--os", "Android 15")


def test_bundles_an_architecture(cli: Cli, tiny: UNetConfig, tmp_path: Path) -> None:
    arch = tmp_path / "tiny.json"
    arch.write_text(tiny.to_json())
    code, out, err = cli(
        "latency",
        "bundle",
        "--arch",
        arch,
        "--format",
        "onnx",
        "--output",
        tmp_path / "bundle",
        "--json",
    )
    assert (code, err) == (0, "")
    said = json.loads(out)
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert said["models"] == len(manifest["items"]) > 5
    assert said["bundle"] == manifest["bundle"]
    assert [item["name"] for item in manifest["items"] if "network" in item["thing"]] == ["tiny"]
    assert "@" not in (tmp_path / "bundle" / "run_onnx_android.sh").read_text().replace('"$@"', "")
    assert manifest["bundle"] in (tmp_path / "bundle" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--format", "onxx", "--part", "taesd-decoder"],
            "--format: 'onxx' is unknown; allowed are onnx, coreml, executorch. Did you",
        ),
        (["--format", "onnx"], "nothing to bundle: give --space, --arch or --part"),
        (
            ["--format", "onnx", "--whole", "2"],
            "--whole: draws networks of a space; give --space too",
        ),
        (["--format", "onnx", "--part", "vae"], "part: 'vae' is unknown; allowed are"),
        (
            [
                "--format",
                "executorch",
                "--part",
                "taesd-decoder",
                "--runtime-python",
                "/nowhere/python",
            ],
            "does not start: No such file",
        ),
    ],
)
def test_bad_bundles_are_bad_input(
    cli: Cli, arguments: list[str], message: str, tmp_path: Path
) -> None:
    code, _, err = cli("latency", "bundle", *arguments, "--output", tmp_path / "bundle")
    assert code == 2
    assert message in err
    assert not (tmp_path / "bundle").exists()


def test_imports_and_names_what_is_missing(cli: Cli, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(RECORDED / "onnx", tmp_path / "onnx"))
    results = json.loads((bundle / "results.json").read_text())
    results["measured"] = results["measured"][:1]
    (bundle / "results.json").write_text(json.dumps(results))
    given = (
        "latency",
        "import",
        "--bundle",
        bundle,
        "--results",
        bundle / "results.json",
        *DEVICE,
        "--max-drift",
        10,
    )
    table = tmp_path / "pixel.json"
    code, out, _ = cli(*given, "--output", table)
    assert code == 0
    assert "1 entries" in out
    assert "1 without a result: upsample(" in out
    assert LatencyTable.load(table).soc == "Tensor G3"
    code, _, err = cli(*given, "--output", table)
    assert (code, "is there already" in err) == (2, True)
    code, out, _ = cli(*given, "--output", table, "--force", "--json")
    assert len(json.loads(out)["missing"]) == 1


def test_a_drifting_reference_fails_the_import(cli: Cli, tmp_path: Path) -> None:
    bundle = RECORDED / "onnx"
    given = (
        "--bundle",
        bundle,
        "--results",
        bundle / "results",
        *DEVICE,
        "--runtime-version",
        "1.31.1",
        "--max-drift",
        0.01,
    )
    code, _, err = cli("latency", "import", *given, "--output", tmp_path / "table.json")
    assert code == 1
    assert "the reference spread by more than 1%" in err
    assert not (tmp_path / "table.json").exists()


@pytest.mark.slow
def test_bundles_for_core_ml(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    arch = tmp_path / "tiny.json"
    stages = [{"channels": 32, "down": [{}], "up": [{}]}]
    arch.write_text(
        UNetConfig.model_validate({"sample_size": 8, "norm_groups": 8, "stages": stages}).to_json()
    )
    code, _, err = cli(
        "latency", "bundle", "--arch", arch, "--format", "coreml", "--output", tmp_path / "bundle"
    )
    assert (code, err) == (0, "")
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    for item in manifest["items"]:
        assert (tmp_path / "bundle" / item["file"] / "Manifest.json").is_file()
        for each in item["inputs"]:
            elements = 1
            for size in each["shape"]:
                elements *= size
            assert (tmp_path / "bundle" / each["file"]).stat().st_size == 4 * elements
