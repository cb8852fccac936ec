"""Every exporter writes a file that is the same network, overwrites nothing unasked, and explains
what stops it.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from archsearch.diffusion.trained import Conditions
from archsearch.errors import ArchsearchError, InputError
from archsearch.export import onnx as onnx_export
from archsearch.export import writing
from archsearch.export.formats import EXPORTERS, export, export_config
from archsearch.runtimes.onnx import open_session
from archsearch.unet.config import UNetConfig
from archsearch.unet.diffusers import from_diffusers
from archsearch.unet.diffusers_weights import to_diffusers_state
from archsearch.unet.model import UNet, example_inputs, input_names
from archsearch.unet.presets import PRESETS
from benchmarks.export_formats import noise
from tests.data import brought
from tests.unet.published import SDXL, small

BLOCK = {"transformers": 1, "layers": ["sa", "ca", "ff"]}
TINY = UNetConfig.model_validate(
    {
        "sample_size": 8,
        "norm_groups": 8,
        "context_dim": 24,
        "context_tokens": 5,
        "stages": [
            {"channels": 16, "down": [{}], "up": [{}] * 2},
            {"channels": 24, "down": [BLOCK], "up": [BLOCK] * 2},
        ],
    }
)

NO_CONTEXT = UNetConfig.model_validate(
    {
        "sample_size": 8,
        "norm_groups": 8,
        "context_dim": 24,
        "context_tokens": 5,
        "stages": [{"channels": 16, "down": [{}], "up": [{}] * 2}],
    }
)

ADDED = UNetConfig.model_validate(TINY.to_dict() | {"added": {"text_dim": 12, "id_dim": 8}})
GUIDED = UNetConfig.model_validate(ADDED.to_dict() | {"guidance_dim": 8})
NETWORKS = pytest.mark.parametrize(
    "config",
    [TINY, NO_CONTEXT, ADDED, GUIDED],
    ids=["tiny", "without cross-attention", "added embedding", "guidance weight"],
)

QUICK = ("json", "yaml", "diffusers", "onnx")
WRITERS = {getattr(each.write, "func", each.write): name for name, each in EXPORTERS.items()}
"""A format of each function that writes: others of that function differ in its options."""


def _formats(names: Iterable[str]) -> pytest.MarkDecorator:
    marked = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in names]
    return pytest.mark.parametrize("format", marked)


EVERY_FORMAT, EVERY_WRITER = _formats(EXPORTERS), _formats(WRITERS.values())
RUNTIMES_PYTHON = Path(__file__).parents[2] / ".venv-runtimes" / "bin" / "python"


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    for format, package in (("coreml", "coremltools"), ("coreai", "coreai")):
        if format in request.node.name:
            pytest.importorskip(package)


def _config_of(path: Path, config: UNetConfig = TINY) -> Any:
    """What the file says the architecture is."""
    if (path / "unet.onnx").is_file():
        return _config_of(path / "unet.onnx")
    if path.is_dir() and path.suffix == "":
        data = json.loads((path / "config.json").read_text())
        return from_diffusers(
            data, config.context_tokens
        ).to_dict()  # diffusers' file says nothing of the context's length
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".yaml":
        return yaml.safe_load(path.read_text())
    if path.suffix == ".onnx":
        metadata = open_session(path).get_modelmeta().custom_metadata_map
    elif path.suffix == ".pte":  # it has no room for it: its card names it
        assert config.digest in path.with_name(f"{path.name}.card.md").read_text()
        return config.to_dict()
    elif path.suffix == ".aimodel":
        from coreai.authoring import AIModelAsset

        metadata = AIModelAsset.load(path).metadata.creator_defined_metadata
    else:
        import coremltools

        metadata = dict(coremltools.utils.load_spec(str(path)).description.metadata.userDefined)
    return json.loads(metadata["archsearch.config"])


def _target(folder: Path, format: str) -> Path:
    return folder / f"net{EXPORTERS[format].suffix}"


def _export(config: UNetConfig, format: str, path: Path, **given: Any) -> Path:
    python = RUNTIMES_PYTHON if format == "executorch" else None
    if not format.startswith("pipeline"):
        return export(config, format, path, python=python, **given)
    with TemporaryDirectory() as name:  # it takes a trained network alone
        weights = Path(name) / "weights.safetensors"
        save_file(UNet(config).state_dict(), weights)
        trained = Conditions(
            text=str(brought.t5(Path(name) / "t5")),
            tokens=config.context_tokens,
            latent=str(brought.tiny(Path(name) / "tiny")),
            prediction="v",
        )
        if "pictures" in EXPORTERS[format].takes:
            given["pictures"] = noise(config)
        return export(config, format, path, weights, conditions=trained, **given)


def _written(path: Path) -> list[str]:
    """What lies where ``path`` does, the card and the diagram of a file aside."""
    names = {item.name for item in path.parent.iterdir()}
    if path.suffix:
        assert {f"{path.name}.card.md", f"{path.name}.stages.svg"} <= names
        names -= {f"{path.name}.card.md", f"{path.name}.stages.svg"}
    return sorted(names)


@EVERY_FORMAT
@NETWORKS
def test_the_file_is_the_same_network(config: UNetConfig, format: str, tmp_path: Path) -> None:
    path = _target(tmp_path / "new" / "folder", format)
    if format.startswith("pipeline") and config.added.text_dim is not None:
        with pytest.raises(InputError, match="takes an added embedding"):
            _export(config, format, path)
        return
    _export(config, format, path, name="tiny\nnet")
    assert UNetConfig.model_validate(_config_of(path, config)) == config
    assert _written(path) == [path.name]


@EVERY_WRITER
def test_nothing_is_overwritten_unasked(format: str, tmp_path: Path) -> None:
    path = _target(tmp_path, format)
    path.write_text("mine")
    with pytest.raises(
        InputError, match=rf"net{EXPORTERS[format].suffix}: is there already; .*--force"
    ):
        _export(TINY, format, path)
    assert path.read_text() == "mine"
    for _ in range(2):  # over something foreign, then over its own
        _export(TINY, format, path, force=True)
        assert UNetConfig.model_validate(_config_of(path)) == TINY
    assert _written(path) == [path.name]


@EVERY_WRITER
def test_a_folder_that_cannot_be_written(format: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchsearchError, match="cannot be written"):
        _export(TINY, format, _target(tmp_path / "file", format))


@EVERY_WRITER
def test_a_folder_is_never_replaced(format: str, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("")
    with pytest.raises(InputError, match="kept: "):
        _export(TINY, format, tmp_path / "kept", force=True)
    assert (tmp_path / "kept" / "file").exists()


@EVERY_WRITER
def test_names_that_are_not_utf_8(format: str, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"folder \xff")
    path = folder / os.fsdecode(b"net \xfe%b" % EXPORTERS[format].suffix.encode())
    for _ in range(2):
        _export(TINY, format, path, force=True)
    assert _written(path) == [path.name]
    for written in folder.iterdir():  # what looks into the files here takes names in UTF-8 alone
        ending = written.name.removeprefix(path.name)
        written.rename(tmp_path / f"{_target(tmp_path, format).name}{ending}")
    assert UNetConfig.model_validate(_config_of(_target(tmp_path, format))) == TINY


def test_unknown_format() -> None:
    with pytest.raises(
        InputError,
        match=r"'yml' is not an export format; allowed are json, yaml.*Did you mean 'yaml'",
    ):
        export(TINY, "yml", Path("net.yml"))


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("format", ["json", "yaml"])
def test_presets_come_back_the_same(name: str, format: Any, tmp_path: Path) -> None:
    config = PRESETS[name]()
    path = tmp_path / f"net.{format}"
    export_config(config, path, format, name=name)
    rebuilt = UNetConfig.model_validate(_config_of(path))
    assert rebuilt == config
    assert rebuilt.digest == config.digest
    if format == "yaml":
        assert path.read_text().startswith(f"# {name}: UNet architecture {config.digest}")


def test_onnx_computes_what_torch_computes_with_given_weights(tmp_path: Path) -> None:
    torch.manual_seed(7)
    network, inputs = UNet(TINY).eval(), example_inputs(TINY)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    export(TINY, "onnx", tmp_path / "net.onnx", weights=tmp_path / "weights.safetensors")
    session = open_session(tmp_path / "net.onnx")
    feed = {
        name: tensor.numpy()
        for name, tensor in zip(("sample", "timesteps", "context"), inputs, strict=True)
    }
    (got,) = session.run(["prediction"], feed)
    with torch.inference_mode():
        wanted = network(*inputs).numpy()
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_large_weights_go_into_one_file_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "ONE_FILE_BYTES", 1000)
    export(TINY, "onnx", tmp_path / "net.onnx")
    assert _written(tmp_path / "net.onnx") == ["net.onnx", "net.onnx.data"]
    assert (tmp_path / "net.onnx").stat().st_size < (tmp_path / "net.onnx.data").stat().st_size
    assert UNetConfig.model_validate(_config_of(tmp_path / "net.onnx")) == TINY


def test_onnx_calls_a_file_of_weights_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "ONE_FILE_BYTES", 1000)
    with pytest.raises(InputError, match=r"second file, whose name ONNX keeps in UTF-8"):
        export(TINY, "onnx", tmp_path / os.fsdecode(b"net \xff.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_conversion_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "TOLERANCE", -1.0)
    with pytest.raises(ArchsearchError, match="differs from torch's"):
        export(TINY, "onnx", tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = UNet(TINY).state_dict()
    state["extra"] = torch.zeros(1)
    state["input.bias"] = torch.zeros(3)
    del state["output.conv.bias"]
    save_file(state, path)
    message = (
        r"1 missing: output\.conv\.bias\.\n1 not in the network: extra\.\n1 of "
        r"another shape: input\.bias \(3,\), .* \(16,\)"
    )
    with pytest.raises(InputError, match=message):
        export(TINY, "onnx", tmp_path / "net.onnx", weights=path)
    path.write_bytes(b"no safetensors")
    with pytest.raises(InputError, match=r"weights\.safetensors: cannot be read as safetensors"):
        export(TINY, "onnx", tmp_path / "net.onnx", weights=path)
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        export(TINY, "onnx", tmp_path / "net.onnx", weights=tmp_path / "none.safetensors")
    with pytest.raises(
        InputError,
        match=r"format json holds no weights; those that do are diffusers, onnx, onnx-int8",
    ):
        export(TINY, "json", tmp_path / "net.json", weights=path)


@pytest.mark.parametrize(
    ("format", "name", "told"),
    [
        ("onnx", "net.txt", r"net\.txt: a file of format onnx must be called \*\.onnx\."),
        ("json", "net.yaml", r"format json must be called \*\.json\."),
        ("yaml", "net", r"format yaml must be called \*\.yaml or \*\.yml\."),
    ],
)
def test_a_file_is_called_by_its_format(format: str, name: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        export(TINY, format, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@NETWORKS
def test_onnx_takes_any_batch(config: UNetConfig, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    export(config, "onnx", path)
    session, network = open_session(path), writing.build(config, None)
    for batch in (1, 3):
        torch.manual_seed(batch)
        inputs = example_inputs(config, batch)
        given = dict(zip(input_names(config), inputs, strict=True))
        asked = {node.name: given[node.name].numpy() for node in session.get_inputs()}
        (got,) = session.run(None, asked)
        with torch.inference_mode():
            wanted = network(*inputs).numpy()
        assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_a_core_ml_package_has_its_suffix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be called \*\.mlpackage"):
        export(TINY, "coreml", tmp_path / "net.mlmodel")


def _from_pretrained(folder: Path) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(folder, local_files_only=True).eval()


@pytest.mark.parametrize("naming", ["ours", "theirs"])
@pytest.mark.parametrize(
    "config",
    [TINY, NO_CONTEXT, from_diffusers(small(SDXL), context_tokens=5)],
    ids=["tiny", "plain", "sdxl"],
)
def test_diffusers_loads_the_folder_and_computes_the_same(
    config: UNetConfig, naming: str, tmp_path: Path
) -> None:
    torch.manual_seed(7)
    network, inputs = UNet(config).eval(), example_inputs(config)
    state = network.state_dict()
    weights = tmp_path / "weights.safetensors"
    save_file(state if naming == "ours" else to_diffusers_state(config, state), weights)
    export(config, "diffusers", tmp_path / "net", weights=weights)
    conditions = dict(zip(("text_embeds", "time_ids"), inputs[3:], strict=False)) or None
    with torch.inference_mode():
        got = _from_pretrained(tmp_path / "net")(*inputs[:3], added_cond_kwargs=conditions).sample
        wanted = network(*inputs)
    assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_a_folder_of_diffusers_is_replaced_only_if_it_holds_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    export(TINY, "diffusers", folder)
    with pytest.raises(InputError, match=r"net: is there already; .*--force"):
        export(NO_CONTEXT, "diffusers", folder)
    (folder / "README.md").write_text("mine")
    with pytest.raises(
        InputError,
        match=r"net: is a folder that holds README\.md; "
        r"only a folder of config\.json, diffusion_.*, card\.md, stages\.svg is replaced",
    ):
        export(NO_CONTEXT, "diffusers", folder, force=True)
    (folder / "README.md").unlink()
    export(NO_CONTEXT, "diffusers", folder, force=True)
    assert sorted(item.name for item in folder.iterdir()) == [
        "card.md",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "stages.svg",
    ]
    assert len(_from_pretrained(folder).down_blocks) == 1


def test_what_diffusers_lacks_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"cannot be a diffusers UNet2DConditionModel:\n(.*\n)*stages\[2\]\.conv separable",
    ):
        export(PRESETS["mobilediffusion-lite"](), "diffusers", tmp_path / "net")
    assert list(tmp_path.iterdir()) == []
