"""Every runtime converts every unit and whole networks; where it runs, it computes what torch computes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from archsearch.errors import InputError
from archsearch.latency.inputs import unit_inputs, unit_module
from archsearch.runtimes.base import Runtime
from archsearch.runtimes.registry import RUNTIMES, get_runtime
from archsearch.unet import units
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs

TOLERANCE = {"float32": 1e-4, "float16": 3e-2}

UNITS: list[units.Unit] = [
    units.Input(4, 32, 16),
    units.TimeEmbedding(32, 128),
    units.Residual(32, 32, 16, "full", 128, 8),
    units.Residual(96, 64, 8, "separable", 128, 8),
    units.Projection(32, 8, 8),
    units.SelfAttention(64, 64, 8, False, "softmax"),
    units.SelfAttention(64, 64, 4, True, "relu"),
    units.CrossAttention(64, 64, 8, True, "softmax", 48, 12),
    units.CrossAttention(64, 64, 1, False, "relu", 48, 12),
    *(units.FeedForward(32, 64, 4, activation) for activation in ("gelu", "geglu", "silu", "swiglu", "relu")),
    units.Downsample(32, 16),
    units.Upsample(32, 8),
    units.Output(32, 4, 16, 8),
]

BLOCK = {"transformers": 1, "layers": ["sa", "ca", "ff"]}
SMALL = UNetConfig.model_validate(
    {
        "sample_size": 16,
        "norm_groups": 8,
        "context_dim": 48,
        "context_tokens": 12,
        "stages": [
            {"channels": 32, "down": [{}], "up": [BLOCK, {}], "attention": {"normalizer": "relu", "kv": "shared"}},
            {"channels": 64, "conv": "separable", "down": [BLOCK], "up": [BLOCK] * 2, "feed_forward": {"activation": "silu"}},
        ],
        "middle": [BLOCK],
    }
)
WITHOUT_CONTEXT = UNetConfig.model_validate(
    SMALL.to_dict() | {"stages": [{"channels": 32, "down": [{}], "up": [{"transformers": 1, "layers": ["sa"]}]}], "middle": []}
)
MODULES = [*UNITS, SMALL, WITHOUT_CONTEXT]

EVERY_RUNTIME = pytest.mark.parametrize(
    "runtime",
    [pytest.param(runtime, id=name, marks=pytest.mark.slow if name == "coreml" else ()) for name, runtime in RUNTIMES.items()],
)


def _build(thing: units.Unit | UNetConfig) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    if isinstance(thing, UNetConfig):
        return UNet(thing).eval(), example_inputs(thing)
    return unit_module(thing), unit_inputs(thing)


def _id(thing: units.Unit | UNetConfig) -> str:
    return (
        f"unet-{len(thing.stages)}-stages"
        if isinstance(thing, UNetConfig)
        else "-".join(str(v) for v in units.unit_fields(thing).values())
    )


def test_every_unit_kind_is_covered() -> None:
    assert {unit.kind for unit in UNITS} == set(units.UNIT_TYPES)


@EVERY_RUNTIME
@pytest.mark.parametrize("thing", MODULES, ids=_id)
def test_converts_and_computes_what_torch_computes(runtime: Runtime, thing: units.Unit | UNetConfig, tmp_path: Path) -> None:
    if runtime.name == "coreml":
        pytest.importorskip("coremltools")
    module, inputs = _build(thing)
    with torch.inference_mode():
        wanted = module(*inputs).numpy()
    session = runtime.convert(module, inputs, tmp_path)
    if runtime.available():
        with pytest.raises(InputError, match="macOS only"):
            session.run()
        assert (tmp_path / "module.mlpackage" / "Manifest.json").is_file()
        return
    for _ in range(2):  # outputs are rewritten, not accumulated
        (got,) = session.run()
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= TOLERANCE[runtime.dtype] * np.abs(wanted).max()


@EVERY_RUNTIME
def test_says_what_it_is(runtime: Runtime) -> None:
    if runtime.name == "coreml":
        pytest.importorskip("coremltools")
    assert get_runtime(runtime.name) is runtime
    assert runtime.version()[0].isdigit()
    assert runtime.dtype in TOLERANCE
    assert runtime.graph_level
    assert runtime.compute_unit


def test_unknown_runtime_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"coreml, onnxruntime, torch\. Did you mean 'onnxruntime'"):
        get_runtime("onnx-runtime")


def test_missing_extra_says_how_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "coremltools", None)
    module, inputs = _build(UNITS[0])
    with pytest.raises(InputError, match=r"archsearch\[coreml\]"):
        get_runtime("coreml").convert(module, inputs, tmp_path)


def test_converting_leaves_the_module_as_it_was(tmp_path: Path) -> None:
    module, inputs = _build(SMALL)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    get_runtime("onnxruntime").convert(module, inputs, tmp_path)
    assert not module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("unit", UNITS, ids=_id)
def test_units_are_built_alike_for_one_seed(unit: units.Unit) -> None:
    state = torch.random.get_rng_state()
    one, two, other = unit_module(unit, 1), unit_module(dataclasses.replace(unit), 1), unit_module(unit, 2)
    assert torch.equal(torch.random.get_rng_state(), state)
    first, second, third = (torch.cat([p.flatten() for p in module.parameters()]) for module in (one, two, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
