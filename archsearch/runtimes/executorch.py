"""ExecuTorch with XNNPACK, in float32. Needs an environment of its own: package executorch."""

import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archsearch.errors import InputError
from archsearch.runtimes.base import CHOSEN, Array, import_package


class ExecutorchSession:
    """A loaded program."""

    def __init__(self, path: Path, inputs: tuple[Tensor, ...], threads: int) -> None:
        # one thread pool a process, sized from the machine unless told otherwise before a program
        # is loaded
        import_package(
            "executorch.extension.pybindings.portable_lib", "executorch"
        )._unsafe_reset_threadpool(threads)
        runtime = import_package("executorch.runtime", "executorch").Runtime.get()
        self._program = runtime.load_program(str(path))
        self._method = self._program.load_method("forward")
        self._inputs = list(inputs)

    def run(self) -> list[Array]:
        """Execute once."""
        return [output.numpy() for output in self._method.execute(self._inputs)]


class ExecutorchRuntime:
    """ExecuTorch, the graph lowered to XNNPACK as far as its partitioner takes it.

    XNNPACK computes convolutions, linear layers, products, softmax and most elementwise operations;
    group and layer norms, the sinusoids and resizing run in ExecuTorch's portable kernels. These
    are written for every processor, not for speed, and a table shows it.
    """

    name = "executorch"
    library = "executorch"
    graph_level = "xnnpack"
    compute_unit = "cpu"
    dtype = "float32"
    layout = CHOSEN
    full = None

    def version(self) -> str:
        """Version of executorch.

        Raises:
            InputError: It is not installed here.
        """
        import_package("executorch.runtime", "executorch")
        return metadata.version("executorch")

    def available(self) -> str | None:
        """None where executorch is installed."""
        try:
            self.version()
        except InputError as error:
            return str(error)
        return None

    def convert(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1
    ) -> ExecutorchSession:
        """Export, lower and write to ``folder/module.pte``; load it from there."""
        path = folder / "module.pte"
        lower_to_xnnpack(module, inputs).save(str(path))
        return ExecutorchSession(path, inputs, threads)


def lower_to_xnnpack(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """Lower ``module`` for inputs of exactly these shapes.

    Returns:
        An ``ExecutorchProgramManager``; its ``save(path)`` writes the .pte file.

    Raises:
        InputError: executorch is not installed here.
    """
    exir = import_package("executorch.exir", "executorch")
    xnnpack = import_package(
        "executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch"
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        exported = torch.export.export(module.eval(), inputs, strict=False)
        return exir.to_edge_transform_and_lower(
            exported, partitioner=[xnnpack.XnnpackPartitioner()]
        ).to_executorch()
