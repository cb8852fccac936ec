"""ONNX Runtime on the CPU in int8: convolutions, linear layers and attention's products; the rest stays float32."""

import platform
from pathlib import Path

from torch import Tensor, nn

from archsearch.runtimes.onnx_qdq import Quantizer
from archsearch.runtimes.onnx_runtime import OnnxRuntime, OnnxSession, export_onnx, input_names


class OnnxInt8Runtime(OnnxRuntime):
    """ONNX Runtime's CPU provider, statically quantised (QDQ): 8-bit activations, one range a tensor, 8-bit weights, one a channel.

    Only speed is wanted, so the activations' ranges are those of one run on the random example inputs (MinMax). A network to ship
    is calibrated on real ones: its numbers change, its speed does not.

    ``Conv``, ``Gemm`` and ``MatMul`` run as integer kernels (QLinearConv, QGemm, QLinearMatMul, MatMulIntegerToFloat; a test looks
    them up in the optimised graph), among them both products of attention, whose operands are activations. Norms, softmax,
    activation functions, sums and the resizing of maps stay float32, with a conversion at each border, as is usual for such UNets.

    On x86, activations are unsigned and weights signed with 7 bits: processors without VNNI add pairs of 16-bit products with
    saturation, which 8 bits would run into; the time is the same. On ARM both are signed with 8 bits, as its kernels like it.
    """

    name = "onnxruntime-int8"
    dtype = "int8"

    @property
    def graph_level(self) -> str:
        """ONNX Runtime's graph optimisation level, and how the graph was quantised."""
        return f"{self._level}, static QDQ"

    def convert(self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1) -> OnnxSession:
        """Export to ``folder/module.onnx``, calibrate, write ``folder/int8.onnx`` and open it."""
        source, path = folder / "module.onnx", folder / "int8.onnx"
        export_onnx(module, inputs, source, input_names(len(inputs)), ["output"])
        arm = platform.machine().lower() in {"arm64", "aarch64"}
        feed = dict(zip(input_names(len(inputs)), (tensor.numpy() for tensor in inputs), strict=True))
        Quantizer(source, signed_activations=arm, weight_bits=8 if arm else 7).write(path, feed, threads)
        return OnnxSession(path, inputs, threads, self._level)
