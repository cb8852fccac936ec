"""onnxruntime, in fp32 and in int8."""

import platform
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
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> None:
    """Write ``module`` as ONNX, for inputs of exactly these shapes.

    Weights of 2 GB and more, which one ONNX file cannot hold, are put beside it by the exporter,
    one file a tensor.
    """
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # tracing warns of shapes becoming constants, which is what is wanted
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

    ``extended``, not ``all``, where blocks are measured: the blocked layout of ``all`` crosses
    their borders, so that blocks measured alone would not add up.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if level == "all" else levels.ORT_ENABLE_EXTENDED
    )
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def input_names(count: int) -> list[str]:
    """Names of a converted module's inputs."""
    return [f"input_{index}" for index in range(count)]


class OnnxSession:
    """Inputs and outputs are bound once, so that a run copies nothing. Inputs that the graph does
    not use are not in it.
    """

    def __init__(
        self, path: Path, inputs: tuple[Tensor, ...], threads: int, level: GraphLevel
    ) -> None:
        self._session = open_session(path, threads, level)
        given = dict(zip(input_names(len(inputs)), inputs, strict=True))
        feed = {
            node.name: np.ascontiguousarray(given[node.name].numpy())
            for node in self._session.get_inputs()
        }
        self._outputs: list[Array] = [
            np.ascontiguousarray(array) for array in self._session.run(None, feed)
        ]
        self._feed = feed
        self._binding = self._session.io_binding()
        for name, array in feed.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for node, array in zip(self._session.get_outputs(), self._outputs, strict=True):
            self._binding.bind_output(
                node.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data
            )

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
        """Runs everywhere: onnxruntime is a core dependency, missing only in an environment made
        for another runtime.
        """
        try:
            self.version()
        except InputError as error:
            return str(error)
        return None

    def convert(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1
    ) -> OnnxSession:
        """Export to ``folder/module.onnx`` and open it."""
        path = folder / "module.onnx"
        export_onnx(module, inputs, path, input_names(len(inputs)), ["output"])
        return OnnxSession(path, inputs, threads, self._level)


QUANTIZED = ("Conv", "Gemm", "MatMul")


class Quantizer:
    """Rewrites one exported graph.

    Args:
        path: The ONNX file. Weights that lie outside it, in its folder, are read from there.
        signed_activations: int8 activations around zero, else uint8.
        weight_bits: 8, or 7 for kernels that could saturate.
    """

    def __init__(self, path: Path, signed_activations: bool, weight_bits: int) -> None:
        import onnx
        from onnx import numpy_helper

        self._onnx, self._numpy = onnx, numpy_helper
        self._folder = path.parent
        self._model = onnx.load_model(str(path), load_external_data=False)
        self._graph = self._model.graph
        self._signed = signed_activations
        self._weight_max = 2 ** (weight_bits - 1) - 1
        self._stored = {tensor.name: tensor for tensor in self._graph.initializer}
        same = {
            node.output[0]: node.input[0] for node in self._graph.node if node.op_type == "Identity"
        }
        self._constant = {name: name for name in self._stored} | {
            new: old for new, old in same.items() if old in self._stored
        }
        self._producer = {output: node for node in self._graph.node for output in node.output}
        self._nodes: list[Any] = []
        self._added: dict[str, Any] = {}
        self._scales: dict[str, Array] = {}
        """Scale of everything quantised so far, by the name of its dequantised form."""

    def write(self, path: Path, feed: dict[str, Array], threads: int) -> None:
        """Calibrate on ``feed`` and write the quantised graph to ``path``, in the folder of the
        original.
        """
        ranges = self._calibrate(feed, threads)
        for node in self._graph.node:
            if node.op_type in QUANTIZED:
                self._quantize(node, ranges)
            else:
                if node.op_type == "Add":
                    self._quantize_bias_of_matmul(node)
                self._nodes.append(node)
        used = {name for node in self._nodes for name in node.input}
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        for name, tensor in self._stored.items():
            if name not in used:
                self._graph.initializer.remove(tensor)
        self._graph.initializer.extend(self._added.values())
        self._onnx.save_model(self._model, str(path))

    def _calibrate(self, feed: dict[str, Array], threads: int) -> dict[str, tuple[float, float]]:
        """Run the graph once. Returns lowest and highest value of every activation that gets
        quantised, by name.
        """
        import onnxruntime

        wanted = dict.fromkeys(
            name
            for node in self._graph.node
            if node.op_type in QUANTIZED
            for name in (*node.input[:2], *(node.output if node.op_type == "Conv" else ()))
            if name not in self._constant
        )
        outputs = [name for name in wanted if name in self._producer]
        kept = list(self._graph.output)
        del self._graph.output[:]
        self._graph.output.extend(self._onnx.ValueInfoProto(name=name) for name in outputs)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self._folder)
        )
        session = onnxruntime.InferenceSession(
            self._model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        taken = {node.name for node in session.get_inputs()}
        values = (
            session.run(outputs, {name: array for name, array in feed.items() if name in taken})
            if outputs
            else []
        )
        del self._graph.output[:]
        self._graph.output.extend(kept)
        found = feed | dict(zip(outputs, values, strict=True))
        return {name: (float(found[name].min()), float(found[name].max())) for name in wanted}

    def _quantize(self, node: Any, ranges: dict[str, tuple[float, float]]) -> None:
        """Put ``node`` between quantised operands; a convolution's output is quantised too, for its
        kernel writes nothing else.
        """
        operands = list(node.input)
        for index, name in enumerate(operands[:2]):
            if name in self._constant:
                node.input[index] = self._weight(name, self._channel_axis(node, index))
            else:
                node.input[index] = self._activation(name, *ranges[name])
        if len(operands) > 2 and operands[2] in self._constant:
            node.input[2] = self._bias(operands[2], node)
        self._nodes.append(node)
        if node.op_type == "Conv":
            # consumers go on reading the name, which is now the dequantised output
            output = node.output[0]
            node.output[0] = f"{output}_float"
            self._activation(node.output[0], *ranges[output], dequantized=output)

    def _channel_axis(self, node: Any, index: int) -> int | None:
        """Axis of a weight's output channels; None for a constant on the left, which gets one
        scale.
        """
        if node.op_type == "Conv":
            return 0
        if index == 0:
            return None
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return 0 if transposed else -1

    def _activation(self, name: str, low: float, high: float, dequantized: str = "") -> str:
        """Quantise and dequantise ``name`` once, however many read it."""
        dequantized = dequantized or f"{name}_dequantized"
        if dequantized in self._scales:
            return dequantized
        low, high = min(low, 0.0), max(high, 0.0)
        if self._signed:
            scale, zero = max(-low, high) / 127, np.array(0, np.int8)
        else:
            scale = (high - low) / 255
            zero = np.array(round(-low / scale) if scale > 0 else 0, np.uint8)
        quantized = f"{name}_quantized"
        scales = self._scales[dequantized] = np.array(scale or 1.0, np.float32)
        grid = [self._store(f"{name}_scale", scales), self._store(f"{name}_zero", zero)]
        self._emit("QuantizeLinear", [name, *grid], quantized)
        self._emit("DequantizeLinear", [quantized, *grid], dequantized)
        return dequantized

    def _weight(self, name: str, axis: int | None) -> str:
        """Replace a weight by a dequantised 8-bit one, symmetric."""
        dequantized = f"{name}_by_axis_{axis}"
        if dequantized in self._scales:
            return dequantized
        values = self._values(name)
        axis = axis if axis is None else axis % values.ndim
        others = (
            None if axis is None else tuple(each for each in range(values.ndim) if each != axis)
        )
        largest = np.maximum(
            values.max(axis=others, keepdims=True), -values.min(axis=others, keepdims=True)
        )
        spread = np.where(largest > 0, largest / self._weight_max, 1.0).astype(np.float32)
        quantized = np.rint(values / spread).astype(np.int8)
        scales = spread.reshape(()) if axis is None else spread.reshape(-1)
        self._dequantize(dequantized, quantized, scales, axis)
        return dequantized

    def _bias(self, name: str, node: Any) -> str:
        """Replace a bias by a dequantised 32-bit one on the scale of ``node``'s products."""
        dequantized = f"{name}_of_{node.output[0]}"
        scales = np.ravel(self._scales[node.input[0]] * self._scales[node.input[1]]).astype(
            np.float32
        )
        limit = 2**31 - 1024  # the largest float32 below is an int32
        quantized = np.clip(np.rint(self._values(name) / scales), -limit, limit).astype(np.int32)
        self._dequantize(
            dequantized,
            quantized,
            scales if scales.size > 1 else scales.reshape(()),
            0 if scales.size > 1 else None,
        )
        return dequantized

    def _quantize_bias_of_matmul(self, node: Any) -> None:
        """Where ``node`` adds a bias to a quantised product, ONNX Runtime makes one QGemm of them
        if the bias is quantised.
        """
        for index, product in enumerate(node.input):
            other = node.input[1 - index]
            matmul = self._producer.get(product)
            if matmul is None or matmul.op_type != "MatMul" or other not in self._constant:
                continue
            if self._scales[matmul.input[1]].shape == tuple(self._shape(other)):
                node.input[1 - index] = self._bias(other, matmul)
            return

    def _dequantize(self, name: str, quantized: Array, scales: Array, axis: int | None) -> None:
        zero = np.zeros(scales.shape, quantized.dtype)
        inputs = [
            self._store(f"{name}_{part}", array)
            for part, array in (("int", quantized), ("scale", scales), ("zero", zero))
        ]
        self._emit("DequantizeLinear", inputs, name, **({} if axis is None else {"axis": axis}))
        self._scales[name] = scales

    def _emit(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [output], **attributes))

    def _store(self, name: str, array: Array) -> str:
        self._added[name] = self._numpy.from_array(array, name)
        return name

    def _values(self, name: str) -> Array:
        values: Array = self._numpy.to_array(
            self._stored[self._constant[name]], base_dir=str(self._folder)
        )
        return values

    def _shape(self, name: str) -> list[int]:
        return list(self._stored[self._constant[name]].dims)


class OnnxInt8Runtime(OnnxRuntime):
    """ONNX Runtime's CPU provider, statically quantised (QDQ): 8-bit activations, one range a
    tensor, 8-bit weights, one a channel.

    Only speed is wanted, so the activations' ranges are those of one run on the random example
    inputs (MinMax). A network to ship is calibrated on real ones: its numbers change, its speed
    does not.

    ``Conv``, ``Gemm`` and ``MatMul`` run as integer kernels (QLinearConv, QGemm, QLinearMatMul,
    MatMulIntegerToFloat; a test looks them up in the optimised graph), among them both products of
    attention, whose operands are activations. Norms, softmax, activation functions, sums and the
    resizing of maps stay float32, with a conversion at each border, as is usual for such UNets.

    On x86, activations are unsigned and weights signed with 7 bits: processors without VNNI add
    pairs of 16-bit products with saturation, which 8 bits would run into; the time is the same. On
    ARM both are signed with 8 bits, as its kernels like it.
    """

    name = "onnxruntime-int8"
    dtype = "int8"

    @property
    def graph_level(self) -> str:
        """ONNX Runtime's graph optimisation level, and how the graph was quantised."""
        return f"{self._level}, static QDQ"

    def convert(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1
    ) -> OnnxSession:
        """Export to ``folder/module.onnx``, calibrate, write ``folder/int8.onnx`` and open it."""
        source, path = folder / "module.onnx", folder / "int8.onnx"
        export_onnx(module, inputs, source, input_names(len(inputs)), ["output"])
        arm = platform.machine().lower() in {"arm64", "aarch64"}
        feed = dict(
            zip(input_names(len(inputs)), (tensor.numpy() for tensor in inputs), strict=True)
        )
        Quantizer(source, signed_activations=arm, weight_bits=8 if arm else 7).write(
            path, feed, threads
        )
        return OnnxSession(path, inputs, threads, self._level)
