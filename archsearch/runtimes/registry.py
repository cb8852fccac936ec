"""Runtimes by name. A new one is a file beside this and a line here; the contract test then covers
it.

Those of other packages follow (``docs/plugins.md``).
"""

import logging

from archsearch.errors import check_known
from archsearch.plugins import load_plugins
from archsearch.runtimes.base import Runtime
from archsearch.runtimes.coreml import CoremlRuntime
from archsearch.runtimes.executorch import ExecutorchRuntime
from archsearch.runtimes.ncnn import NcnnRuntime
from archsearch.runtimes.onnx import OnnxInt8Runtime, OnnxRuntime
from archsearch.runtimes.openvino import OpenvinoRuntime
from archsearch.runtimes.torch import TorchRuntime

# What a runtime of another package must have.
NEEDS = (
    "name",
    "library",
    "graph_level",
    "compute_unit",
    "dtype",
    "layout",
    "full",
    "version",
    "available",
    "convert",
)


def _plugins(known: dict[str, Runtime]) -> dict[str, Runtime]:
    # Runtimes of other packages. A measuring process is given a runtime's name and finds it here
    # again, so that the entry and the runtime must be called alike.
    found: dict[str, Runtime] = load_plugins("archsearch.runtimes", NEEDS, known)
    for entry in [entry for entry, runtime in found.items() if runtime.name != entry]:
        logging.getLogger(__name__).warning(
            "archsearch.runtimes: '%s' is left out, it calls itself '%s'", entry, found[entry].name
        )
        del found[entry]
    return found


RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        TorchRuntime(),
        OnnxRuntime(),
        OnnxInt8Runtime(),
        CoremlRuntime(),
        OpenvinoRuntime(),
        NcnnRuntime(),
        ExecutorchRuntime(),
    )
}
RUNTIMES |= _plugins(RUNTIMES)


def get_runtime(name: str) -> Runtime:
    """Return the runtime called ``name``, whether or not it runs here.

    Raises:
        InputError: There is none; the message lists those there are.
    """
    check_known(name, sorted(RUNTIMES), f"'{name}' is not a runtime")
    return RUNTIMES[name]
