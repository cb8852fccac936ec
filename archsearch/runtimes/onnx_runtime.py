"""ONNX Runtime on the CPU, fed by the tracing ONNX exporter (0.1 s a block where the newer one takes seconds)."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from archsearch.errors import InputError
from archsearch.runtimes.base import CHOSEN, Array, import_package

OPSET = 17

GraphLevel = Literal["extended", "all"]


def export_onnx(
    module: nn.Module, inputs: tuple[Tensor, ...], path: Path, input_names: Sequence[str], output_names: Sequence[str]
) -> None:
    """Write ``module`` as ONNX, for inputs of exactly these shapes.

    Weights of 2 GB and more, which one ONNX file cannot hold, are put beside it by the exporter, one file a tensor.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of shapes becoming constants, which is what is wanted
        torch.onnx.export(
            module.eval(),
            inputs,
            str(path),
            input_names=list(input_names),
            output_names=list(output_names),
            opset_version=OPSET,
            dynamo=False,
        )


def open_session(path: Path, threads: int = 1, level: GraphLevel = "extended") -> Any:
    """Open an ONNX file: one sequential stream of operators on ``threads`` threads.

    ``extended``, not ``all``, where blocks are measured: the blocked layout of ``all`` crosses their borders, so that blocks
    measured alone would not add up.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if level == "all" else levels.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def input_names(count: int) -> list[str]:
    """Names of a converted module's inputs."""
    return [f"input_{index}" for index in range(count)]


class OnnxSession:
    """Inputs and outputs are bound once, so that a run copies nothing. Inputs that the graph does not use are not in it."""

    def __init__(self, path: Path, inputs: tuple[Tensor, ...], threads: int, level: GraphLevel) -> None:
        self._session = open_session(path, threads, level)
        given = dict(zip(input_names(len(inputs)), inputs, strict=True))
        feed = {node.name: np.ascontiguousarray(given[node.name].numpy()) for node in self._session.get_inputs()}
        self._outputs: list[Array] = [np.ascontiguousarray(array) for array in self._session.run(None, feed)]
        self._feed = feed
        self._binding = self._session.io_binding()
        for name, array in feed.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for node, array in zip(self._session.get_outputs(), self._outputs, strict=True):
            self._binding.bind_output(node.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run(self) -> list[Array]:
        """Run inference once into the bound outputs."""
        self._session.run_with_iobinding(self._binding)
        return self._outputs


class OnnxRuntime:
    """ONNX Runtime's CPU provider in float32."""

    name = "onnxruntime"
    library = "onnxruntime"
    compute_unit = "cpu"
    dtype = "float32"

    def __init__(self, level: GraphLevel = "extended") -> None:
        self._level: GraphLevel = level

    @property
    def graph_level(self) -> str:
        """ONNX Runtime's graph optimisation level."""
        return self._level

    @property
    def layout(self) -> str:
        """NCHW; from level ``all`` on ONNX Runtime blocks channels where it finds it worthwhile."""
        return CHOSEN if self._level == "all" else "nchw"

    @property
    def full(self) -> Self | None:
        """The same at level ``all``."""
        return None if self._level == "all" else type(self)("all")

    def version(self) -> str:
        """Version of onnxruntime.

        Raises:
            InputError: It is not installed.
        """
        return str(import_package("onnxruntime", "onnxruntime").__version__)

    def available(self) -> str | None:
        """Runs everywhere: onnxruntime is a core dependency, missing only in an environment made for another runtime."""
        try:
            self.version()
        except InputError as error:
            return str(error)
        return None

    def convert(self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1) -> OnnxSession:
        """Export to ``folder/module.onnx`` and open it."""
        path = folder / "module.onnx"
        export_onnx(module, inputs, path, input_names(len(inputs)), ["output"])
        return OnnxSession(path, inputs, threads, self._level)
