"""OpenVINO on the CPU, in float32. Needs an environment of its own: packages openvino and onnx."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from archsearch.errors import import_package
from archsearch.runtimes.base import Array, Runtime, named_inputs
from archsearch.runtimes.onnx import export_onnx


# A compiled model, which reads the inputs where they lie. Inputs that the graph does not use are
# not in it.
class _OpenvinoSession:
    def __init__(self, ov: Any, path: Path, inputs: tuple[Tensor, ...], threads: int) -> None:
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it
            "ENABLE_CPU_PINNING": False,  # the affinity this process was given holds
        }
        compiled = ov.Core().compile_model(ov.Core().read_model(str(path)), "CPU", settings)
        self._request = compiled.create_infer_request()
        given = named_inputs(inputs)
        # a port has several names where the graph began with an operator that did nothing
        names = [next(iter(port.get_names() & given.keys())) for port in compiled.inputs]
        self._inputs = {name: given[name] for name in names}
        for name, array in self._inputs.items():
            self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        self._count = len(compiled.outputs)

    def run(self) -> list[Array]:
        # the outputs lie in OpenVINO's memory
        self._request.infer()
        return [self._request.get_output_tensor(index).data for index in range(self._count)]


class OpenvinoRuntime(Runtime):
    """OpenVINO's CPU plugin, from the ONNX file that ONNX Runtime gets too: reading one is several
    times faster than tracing.
    """

    name = "openvino"
    library = "openvino"
    packages = ("openvino", "onnx")  # the exporter asks for onnx
    graph_level = "cpu plugin"

    @override
    def version(self) -> str:
        # without its build
        return super().version().split("-")[0]

    @override
    def convert(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1
    ) -> _OpenvinoSession:
        ov, _ = (import_package(package) for package in self.packages)
        path = folder / "module.onnx"
        export_onnx(module, inputs, path)
        return _OpenvinoSession(ov, path, inputs, threads)
