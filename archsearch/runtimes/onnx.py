"""onnxruntime, in fp32 and in int8."""

import math
import platform
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from archsearch.runtimes.base import CHOSEN, Array, Runtime, named_inputs
from archsearch.runtimes.base import input_names as input_names
from archsearch.runtimes.int8 import OPERATORS, activation_grid, weight_grid

OPSET = 17

GraphLevel = Literal["none", "extended", "all"]


def export_onnx(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] = ("output",),
    any_batch: bool = False,
) -> None:
    """Write ``module`` as ONNX, for inputs of exactly these shapes, which are called ``input_0``,
    ``input_1`` and so on unless ``input_names`` says otherwise. With ``any_batch`` the first
    dimension of every input and output may have any size.

    Weights of 2 GB and more, which one ONNX file cannot hold, are put beside it by the exporter,
    one file a tensor.
    """
    names, outputs = list(input_names or named_inputs(inputs)), list(output_names)
    # tracing warns of shapes becoming constants, which is what is wanted
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            module.eval(),
            inputs,
            str(path),
            input_names=names,
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in (*names, *outputs)} if any_batch else None,
            opset_version=OPSET,
            dynamo=False,
        )


def open_session(
    model: Path | bytes,
    threads: int = 1,
    level: GraphLevel = "extended",
    weights: Path | None = None,
) -> Any:
    """Open an ONNX file: one sequential stream of operators on ``threads`` threads.

    Args:
        model: The file, or what would be in it.
        threads: Number of threads.
        level: How far the graph is optimised. ``extended``, not ``all``, where blocks are measured:
            the blocked layout of ``all`` crosses their borders, so that blocks measured alone would
            not add up.
        weights: Folder of the weights that lie outside of a model given as bytes.
    """
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = {
        "none": levels.ORT_DISABLE_ALL,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "all": levels.ORT_ENABLE_ALL,
    }[level]
    options.log_severity_level = 3
    if weights:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(weights)
        )
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model),
        options,
        providers=["CPUExecutionProvider"],
    )


class OnnxSession:
    """Inputs and outputs are bound once, so that a run copies nothing. Inputs that the graph does
    not use are not in it.
    """

    def __init__(
        self, path: Path, inputs: tuple[Tensor, ...], threads: int, level: GraphLevel
    ) -> None:
        self._session = open_session(path, threads, level)
        given = named_inputs(inputs)
        self._feed = {node.name: given[node.name] for node in self._session.get_inputs()}
        self._outputs: list[Array] = [
            np.ascontiguousarray(array) for array in self._session.run(None, self._feed)
        ]
        self._binding = self._session.io_binding()
        for name, array in self._feed.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for node, array in zip(self._session.get_outputs(), self._outputs, strict=True):
            self._binding.bind_output(
                node.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data
            )

    def run(self) -> list[Array]:
        """Run inference once into the bound outputs."""
        self._session.run_with_iobinding(self._binding)
        return self._outputs


class OnnxRuntime(Runtime):
    """ONNX Runtime's CPU provider in float32. It is missing only in an environment made for another
    runtime.

    Activations are NCHW; at level ``all`` ONNX Runtime blocks channels where it finds it
    worthwhile.

    Args:
        level: ONNX Runtime's graph optimisation level.
    """

    name = "onnxruntime"
    library = "onnxruntime"
    packages = ("onnxruntime",)

    def __init__(self, level: GraphLevel = "extended") -> None:
        self._level = level
        self.graph_level = level
        self.layout = CHOSEN if level == "all" else "nchw"
        self.full = None if level == "all" else type(self)("all")

    @override
    def convert(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1
    ) -> OnnxSession:
        path = folder / "module.onnx"
        export_onnx(module, inputs, path)
        return OnnxSession(path, inputs, threads, self._level)


class OnnxInt8Runtime(OnnxRuntime):
    """ONNX Runtime's CPU provider, statically quantised (QDQ) as ``archsearch.runtimes.int8`` says.

    Only speed is wanted, so the activations' ranges are those of one run on the random example
    inputs. A network to ship is calibrated on real ones: its numbers change, its speed does not.

    ``Conv``, ``Gemm`` and ``MatMul`` run as integer kernels (QLinearConv, QGemm, QLinearMatMul,
    MatMulIntegerToFloat; a test looks them up in the optimised graph), with a conversion at each
    border to what stays float32, as is usual for such UNets.

    On x86, activations are unsigned and weights signed with 7 bits: processors without VNNI add
    pairs of 16-bit products with saturation, which 8 bits would run into; the time is the same. On
    ARM both are signed with 8 bits, as its kernels like it.
    """

    name = "onnxruntime-int8"
    dtype = "int8"

    def __init__(self, level: GraphLevel = "extended") -> None:
        super().__init__(level)
        self.graph_level = f"{level}, static QDQ"

    @override
    def convert(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1
    ) -> OnnxSession:
        source, path = folder / "module.onnx", folder / "int8.onnx"
        export_onnx(module, inputs, source)
        arm = platform.machine().lower() in {"arm64", "aarch64"}
        quantizer = Quantizer(source, signed_activations=arm, weight_bits=8 if arm else 7)
        quantizer.write(path, [named_inputs(inputs)], threads)
        return OnnxSession(path, inputs, threads, self._level)


# Kinds of nodes that are quantised, and whether their outputs are too.
QUANTIZED = {kind: operator.output for operator in OPERATORS for kind in operator.nodes}


class Quantizer:
    """Rewrites one exported graph.

    Args:
        path: The ONNX file. Weights that lie outside it, in its folder, are read from there.
        signed_activations: int8 activations around zero, else uint8.
        weight_bits: 8, or 7 for kernels that could saturate.
    """

    def __init__(self, path: Path, signed_activations: bool, weight_bits: int) -> None:
        import onnx

        self._onnx, self._folder = onnx, path.parent
        self._signed, self._weight_bits = signed_activations, weight_bits
        self._model = onnx.load_model(str(path), load_external_data=False)
        self._graph = self._model.graph
        stored = {tensor.name: tensor for tensor in self._graph.initializer}
        copies = [node for node in self._graph.node if node.op_type == "Identity"]
        self._constants = stored | {
            node.output[0]: stored[node.input[0]] for node in copies if node.input[0] in stored
        }
        self._producer = {output: node for node in self._graph.node for output in node.output}
        self._nodes: list[Any] = []
        self._added: list[Any] = []
        # Steps of everything quantised so far, by the name of its dequantised form.
        self._steps: dict[str, Array] = {}

    def write(self, path: Path, feeds: Iterable[dict[str, Array]], threads: int) -> None:
        """Calibrate on ``feeds``, inputs by name, and write the quantised graph to ``path``, in the
        folder of the original.
        """
        ranges = self._calibrate(feeds, threads)
        for node in self._graph.node:
            if node.op_type in QUANTIZED:
                self._quantize(node, ranges)
            else:
                if node.op_type == "Add":
                    self._quantize_bias_of_matmul(node)
                self._nodes.append(node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        for tensor in [tensor for tensor in self._graph.initializer if tensor.name not in used]:
            self._graph.initializer.remove(tensor)
        self._graph.initializer.extend(self._added)
        self._onnx.save_model(self._model, str(path))

    def _calibrate(
        self, feeds: Iterable[dict[str, Array]], threads: int
    ) -> dict[str, tuple[float, float]]:
        # Run the graph on each feed. Returns lowest and highest value of every activation that gets
        # quantised, by name.
        wanted = dict.fromkeys(
            name
            for node in self._graph.node
            if node.op_type in QUANTIZED
            for name in (*node.input[:2], *(node.output if QUANTIZED[node.op_type] else ()))
            if name not in self._constants
        )
        computed = [name for name in wanted if name in self._producer]
        own = list(self._graph.output)
        del self._graph.output[:]
        self._graph.output.extend(self._onnx.ValueInfoProto(name=name) for name in computed)
        model = self._model.SerializeToString()
        del self._graph.output[:]
        self._graph.output.extend(own)
        session = open_session(model, threads, "none", weights=self._folder) if computed else None
        ranges: dict[str, tuple[float, float]] = {}
        for feed in feeds:
            found = dict(feed)
            if session is not None:
                given = {node.name: feed[node.name] for node in session.get_inputs()}
                found |= zip(computed, session.run(computed, given), strict=True)
            for name in wanted:
                low, high = ranges.get(name, (math.inf, -math.inf))
                array = found[name]
                ranges[name] = min(low, float(array.min())), max(high, float(array.max()))
        return ranges

    def _quantize(self, node: Any, ranges: dict[str, tuple[float, float]]) -> None:
        operands = list(node.input)
        for index, name in enumerate(operands[:2]):
            if name in self._constants:
                node.input[index] = self._weight(name, _channel_axis(node, index))
            else:
                node.input[index] = self._activation(name, f"{name}_dequantized", ranges[name])
        if len(operands) > 2 and operands[2] in self._constants:
            node.input[2] = self._bias(operands[2], node)
        self._nodes.append(node)
        if QUANTIZED[node.op_type]:
            # consumers go on reading the name, which is now the dequantised output
            output = node.output[0]
            node.output[0] = f"{output}_float"
            self._activation(node.output[0], output, ranges[output])

    def _activation(self, name: str, dequantized: str, range_: tuple[float, float]) -> str:
        # Once, however many read it.
        if dequantized not in self._steps:
            step, zero = activation_grid(*range_, signed=self._signed)
            steps = self._steps[dequantized] = np.array(step or 1.0, np.float32)
            kind = np.int8 if self._signed else np.uint8
            grid = [
                self._store(f"{name}_scale", steps),
                self._store(f"{name}_zero", np.array(zero, kind)),
            ]
            self._emit("QuantizeLinear", [name, *grid], f"{name}_quantized")
            self._emit("DequantizeLinear", [f"{name}_quantized", *grid], dequantized)
        return dequantized

    def _weight(self, name: str, axis: int | None) -> str:
        dequantized = f"{name}_by_axis_{axis}"
        if dequantized not in self._steps:
            values = self._values(name)
            axis = axis if axis is None else axis % values.ndim
            others = tuple(each for each in range(values.ndim) if each != axis)
            largest = np.abs(values).max(axis=others, keepdims=True)
            integers, steps = weight_grid(values, largest, self._weight_bits)
            self._dequantize(dequantized, integers.astype(np.int8), np.ravel(steps), axis)
        return dequantized

    def _bias(self, name: str, node: Any) -> str:
        dequantized = f"{name}_of_{node.output[0]}"
        steps = np.ravel(self._steps[node.input[0]] * self._steps[node.input[1]])
        limit = 2**31 - 1024  # the largest float32 below is an int32
        integers = np.clip(np.rint(self._values(name) / steps), -limit, limit).astype(np.int32)
        self._dequantize(dequantized, integers, steps, 0 if steps.size > 1 else None)
        return dequantized

    def _quantize_bias_of_matmul(self, node: Any) -> None:
        # Where ``node`` adds a bias to a quantised product, ONNX Runtime makes one QGemm of them if
        # the bias is quantised.
        for index, product in enumerate(node.input):
            other = node.input[1 - index]
            matmul = self._producer.get(product)
            if matmul is None or matmul.op_type != "MatMul" or other not in self._constants:
                continue
            if self._steps[matmul.input[1]].shape == tuple(self._constants[other].dims):
                node.input[1 - index] = self._bias(other, matmul)
            return

    def _dequantize(self, name: str, integers: Array, steps: Array, axis: int | None) -> None:
        # Store ``integers`` with their ``steps`` (channels,), or (1,) where ``axis`` is None.
        steps = steps.reshape(()) if axis is None else steps
        inputs = [
            self._store(f"{name}_int", integers),
            self._store(f"{name}_scale", steps),
            self._store(f"{name}_zero", np.zeros(steps.shape, integers.dtype)),
        ]
        self._emit("DequantizeLinear", inputs, name, **({} if axis is None else {"axis": axis}))
        self._steps[name] = steps

    def _emit(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [output], **attributes))

    def _store(self, name: str, array: Array) -> str:
        self._added.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def _values(self, name: str) -> Array:
        values: Array = self._onnx.numpy_helper.to_array(
            self._constants[name], base_dir=str(self._folder)
        )
        return values


def _channel_axis(node: Any, index: int) -> int | None:
    # Axis of a weight's output channels; None for a constant on the left, which gets one step.
    if node.op_type == "Conv":
        return 0
    if index == 0:
        return None
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if transposed else -1
