"""The int8 graph that ONNX Runtime runs: integer kernels wherever there are weights or products of
activations.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from archsearch.latency.workload import build
from archsearch.runtimes.onnx import OnnxInt8Runtime, OnnxSession, Quantizer, export_onnx
from archsearch.runtimes.registry import get_runtime
from archsearch.unet import units

FLOAT_KERNELS = {
    "Conv",
    "FusedConv",
    "Gemm",
    "FusedGemm",
    "MatMul",
    "FusedMatMul",
    "Attention",
    "MultiHeadAttention",
}
INT8 = get_runtime("onnxruntime-int8")


def _kernels(path: Path) -> Counter[str]:
    """Operators of the graph after ONNX Runtime has optimised it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path.with_name("optimised.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (units.Residual(32, 64, 16, "full", 128, 8), {"QLinearConv": 3, "QGemm": 1}),
        (units.Residual(32, 32, 16, "separable", 128, 8), {"QLinearConv": 4, "QGemm": 1}),
        (units.Projection(32, 8, 8), {"QLinearConv": 2}),
        (
            units.SelfAttention(64, 64, 8, False, "softmax"),
            {"MatMulIntegerToFloat": 3, "QLinearMatMul": 2, "QGemm": 1},
        ),
        (
            units.CrossAttention(64, 64, 8, True, "relu", 48, 12),
            {"MatMulIntegerToFloat": 2, "QLinearMatMul": 2, "QGemm": 1},
        ),
        (units.FeedForward(32, 64, 4, "geglu"), {"QGemm": 2}),
        (units.TimeEmbedding(32, 128), {"QGemm": 2}),
    ],
    ids=lambda value: value.kind if not isinstance(value, dict) else "",
)
def test_everything_with_weights_runs_in_integers(
    unit: units.Unit, expected: dict[str, int], tmp_path: Path
) -> None:
    INT8.convert(*build(unit), tmp_path)
    kernels = _kernels(tmp_path / "int8.onnx")
    assert not FLOAT_KERNELS & set(kernels)
    assert {kind: kernels[kind] for kind in expected} == expected


def test_weights_take_a_quarter(tmp_path: Path) -> None:
    INT8.convert(*build(units.FeedForward(128, 16, 4, "gelu")), tmp_path)
    small, large = ((tmp_path / name).stat().st_size for name in ("int8.onnx", "module.onnx"))
    assert small < 0.3 * large


@pytest.mark.parametrize("signed", [True, False])
def test_both_kinds_of_activations_compute_the_same(signed: bool, tmp_path: Path) -> None:
    unit = units.Residual(32, 32, 16, "full", 128, 8)
    module, inputs = build(unit)
    export_onnx(module, inputs, tmp_path / "module.onnx", ["input_0", "input_1"], ["output"])
    feed = {f"input_{index}": tensor.numpy() for index, tensor in enumerate(inputs)}
    Quantizer(tmp_path / "module.onnx", signed, 7).write(tmp_path / "int8.onnx", [feed], 1)
    (got,) = OnnxSession(tmp_path / "int8.onnx", inputs, 1, "extended").run()
    with torch.inference_mode():
        wanted = module(*inputs).numpy()
    assert np.abs(got - wanted).max() <= 0.03 * np.abs(wanted).max()


def test_weights_of_zero_and_shared_weights_are_no_trouble(tmp_path: Path) -> None:
    shared = nn.Linear(8, 8)
    module = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Flatten(2), shared, nn.ReLU(), shared).eval()
    with torch.no_grad():
        module[0].weight[3].zero_()
        shared.bias.zero_()
    inputs = (torch.randn(1, 4, 2, 4, generator=torch.Generator().manual_seed(0)),)
    (got,) = OnnxInt8Runtime().convert(module, inputs, tmp_path).run()
    with torch.inference_mode():
        wanted = module(*inputs).numpy()
    assert np.isfinite(got).all()
    assert np.abs(got - wanted).max() <= 0.05 * np.abs(wanted).max()


def test_weights_beside_the_file_are_found(tmp_path: Path) -> None:
    module, inputs = build(units.FeedForward(32, 16, 4, "gelu"))
    export_onnx(module, inputs, tmp_path / "inside.onnx", ["input_0"], ["output"])
    onnx.save_model(
        onnx.load(tmp_path / "inside.onnx"),
        tmp_path / "module.onnx",
        save_as_external_data=True,
        size_threshold=0,
    )
    Quantizer(tmp_path / "module.onnx", False, 7).write(
        tmp_path / "int8.onnx", [{"input_0": inputs[0].numpy()}], 1
    )
    (got,) = OnnxSession(tmp_path / "int8.onnx", inputs, 1, "extended").run()
    with torch.inference_mode():
        wanted = module(*inputs).numpy()
    assert np.abs(got - wanted).max() <= 0.03 * np.abs(wanted).max()
