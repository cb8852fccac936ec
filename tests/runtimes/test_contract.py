"""Every runtime converts every unit and whole networks; where it runs, it computes what torch
computes.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from archsearch.errors import InputError
from archsearch.latency.process import Process
from archsearch.latency.stopwatch import MeasureSettings
from archsearch.latency.workload import build
from archsearch.runtimes.base import Array, Runtime, facts
from archsearch.runtimes.registry import RUNTIMES, get_runtime
from archsearch.unet import units
from archsearch.unet.config import UNetConfig

TOLERANCE = {"float32": 1e-4, "float16": 3e-2, "int8": 0.1}
RUNTIMES_PYTHON = Path(__file__).parents[2] / ".venv-runtimes" / "bin" / "python"

UNITS: list[units.Unit] = [
    units.Input(4, 32, 16),
    units.TimeEmbedding(32, 128),
    units.TimeProjection(128, 32),
    units.Residual(32, 32, 16, "full", 128, 8),
    units.Residual(32, 32, 8, "full", 0, 8),
    units.Residual(96, 64, 8, "separable", 128, 8),
    units.Residual(64, 32, 8, "inverted", 128, 8),
    units.Projection(32, 8, 8),
    units.SelfAttention(64, 64, 8, False, "softmax"),
    units.SelfAttention(64, 64, 4, True, "relu"),
    units.SelfAttention(64, 64, 4, False, "linear"),
    units.SelfAttention(64, 64, 4, False, "softmax", 0, "none", "conv"),
    units.Norm(64, 64),
    units.CrossAttention(64, 64, 8, True, "softmax", 48, 12),
    units.CrossAttention(64, 64, 1, False, "relu", 48, 12),
    *(
        units.FeedForward(32, 64, 4, activation)
        for activation in ("gelu", "geglu", "silu", "swiglu", "relu")
    ),
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
            {
                "channels": 32,
                "down": [{}],
                "up": [BLOCK, {}],
                "attention": {"normalizer": "relu", "kv": "shared"},
            },
            {
                "channels": 64,
                "conv": "separable",
                "down": [BLOCK],
                "up": [BLOCK] * 2,
                "feed_forward": {"activation": "silu"},
            },
        ],
        "middle": [BLOCK],
    }
)
WITHOUT_CONTEXT = UNetConfig.model_validate(
    SMALL.to_dict()
    | {
        "stages": [{"channels": 32, "down": [{}], "up": [{"transformers": 1, "layers": ["sa"]}]}],
        "middle": [],
    }
)
MODULES = [*UNITS, SMALL, WITHOUT_CONTEXT]

REMOTE = ("openvino", "ncnn", "executorch")
"""Runtimes with an environment of their own."""
EVERY_RUNTIME = pytest.mark.parametrize(
    "runtime",
    [
        pytest.param(runtime, id=name, marks=pytest.mark.slow if name == "coreml" else ())
        for name, runtime in RUNTIMES.items()
        if name not in REMOTE
    ],
)


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
def test_converts_and_computes_what_torch_computes(
    runtime: Runtime, thing: units.Unit | UNetConfig, tmp_path: Path
) -> None:
    if runtime.name == "coreml":
        pytest.importorskip("coremltools")
    module, inputs = build(thing)
    session = runtime.convert(module, inputs, tmp_path)
    if runtime.available():
        with pytest.raises(InputError, match="macOS only"):
            session.run()
        assert (tmp_path / "module.mlpackage" / "Manifest.json").is_file()
        return
    for _ in range(2):  # outputs are rewritten, not accumulated
        _check(session.run(), thing, runtime.dtype)


@pytest.fixture(scope="module", params=REMOTE)
def bench(request: pytest.FixtureRequest) -> Iterator[Process]:
    if not RUNTIMES_PYTHON.is_file():
        pytest.fail(f"{RUNTIMES_PYTHON} is not there; make it with: make runtimes")
    with Process(request.param, MeasureSettings(), RUNTIMES_PYTHON) as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.parametrize("thing", MODULES, ids=_id)
def test_computes_what_torch_computes_in_its_own_environment(
    bench: Process, thing: units.Unit | UNetConfig
) -> None:
    _check(bench.run(thing), thing, bench.facts.dtype)


@pytest.mark.slow
def test_measures_in_its_own_environment(bench: Process) -> None:
    sample, _ = bench.measure(UNITS[2])
    assert len(sample.ratios) >= 5
    assert bench.facts.library == bench.facts.name
    assert bench.facts.version[0].isdigit()
    with pytest.raises(InputError, match="one graph level only"):
        bench.measure(UNITS[2], full=True)


def _check(outputs: list[Array], thing: units.Unit | UNetConfig, dtype: str) -> None:
    module, inputs = build(thing)
    with torch.inference_mode():
        wanted = module(*inputs).numpy()
    (got,) = outputs
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= TOLERANCE[dtype] * np.abs(wanted).max()


@EVERY_RUNTIME
def test_says_what_it_is(runtime: Runtime) -> None:
    if runtime.name == "coreml":
        pytest.importorskip("coremltools")
    assert get_runtime(runtime.name) is runtime
    said = facts(runtime)
    assert said.name == runtime.name
    assert said.version[0].isdigit()
    assert said.dtype in TOLERANCE
    assert all(value for name, value in dataclasses.asdict(said).items() if name != "has_full")
    assert said.has_full == (runtime.full is not None)
    if runtime.full:
        assert runtime.full.full is None
        assert runtime.full.name == runtime.name
        assert runtime.full.graph_level != runtime.graph_level


@pytest.mark.parametrize("name", REMOTE)
def test_missing_package_names_it_and_the_way_out(name: str, tmp_path: Path) -> None:
    pattern = rf"{name} cannot be imported here .*pip install {name}.*--runtime-python"
    runtime = get_runtime(name)
    assert re.search(pattern, runtime.available() or "")
    with pytest.raises(InputError, match=pattern):
        facts(runtime)
    with pytest.raises(InputError, match=pattern):
        runtime.convert(*build(UNITS[0]), tmp_path)
    with pytest.raises(InputError, match=pattern):
        Process(name, MeasureSettings())


def test_unknown_runtime_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"coreml, .*, torch\. Did you mean 'onnxruntime'"):
        get_runtime("onnx-runtime")


def test_missing_extra_says_how_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "coremltools", None)
    module, inputs = build(UNITS[0])
    with pytest.raises(InputError, match=r"archsearch\[coreml\]"):
        get_runtime("coreml").convert(module, inputs, tmp_path)


def test_converting_leaves_the_module_as_it_was(tmp_path: Path) -> None:
    module, inputs = build(SMALL)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    get_runtime("onnxruntime").convert(module, inputs, tmp_path)
    assert not module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("unit", UNITS, ids=_id)
def test_units_are_built_alike_for_one_seed(unit: units.Unit) -> None:
    state = torch.random.get_rng_state()
    one, two, other = (
        build(unit, 1)[0],
        build(dataclasses.replace(unit), 1)[0],
        build(unit, 2)[0],
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    first, second, third = (
        torch.cat([p.flatten() for p in module.parameters()]) for module in (one, two, other)
    )
    assert torch.equal(first, second)
    # a norm begins with ones and zeros whatever the seed
    assert torch.equal(first, third) == isinstance(unit, units.Norm)


@pytest.mark.slow
def test_coreml_takes_token_ids_as_whole_numbers(tmp_path: Path) -> None:
    """CLIP's go up to 49,407, of which float16 holds every 32nd."""
    module = torch.nn.Embedding(50_000, 4).eval()
    get_runtime("coreml").convert(module, (torch.tensor([[49_407, 3]]),), tmp_path)
    coremltools = pytest.importorskip("coremltools")
    (given,) = coremltools.utils.load_spec(str(tmp_path / "module.mlpackage")).description.input
    assert given.type.multiArrayType.dataType == given.type.multiArrayType.INT32
