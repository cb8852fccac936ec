"""Runtimes by name. A new one is a file beside this and a line here; the contract test then covers it."""

from archsearch.errors import InputError, nearest
from archsearch.runtimes.base import Runtime
from archsearch.runtimes.coreml import CoremlRuntime
from archsearch.runtimes.executorch import ExecutorchRuntime
from archsearch.runtimes.ncnn import NcnnRuntime
from archsearch.runtimes.onnx_int8 import OnnxInt8Runtime
from archsearch.runtimes.onnx_runtime import OnnxRuntime
from archsearch.runtimes.openvino import OpenvinoRuntime
from archsearch.runtimes.torch_runtime import TorchRuntime

_ALL: tuple[Runtime, ...] = (
    TorchRuntime(),
    OnnxRuntime(),
    OnnxInt8Runtime(),
    CoremlRuntime(),
    OpenvinoRuntime(),
    NcnnRuntime(),
    ExecutorchRuntime(),
)
RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in _ALL}


def get_runtime(name: str) -> Runtime:
    """Return the runtime called ``name``, whether or not it runs here.

    Raises:
        InputError: There is none; the message lists those there are.
    """
    if name not in RUNTIMES:
        raise InputError(f"'{name}' is not a runtime; allowed are {', '.join(sorted(RUNTIMES))}.{nearest(name, RUNTIMES)}")
    return RUNTIMES[name]
