"""Eager PyTorch on the CPU."""

from pathlib import Path

import torch
from torch import Tensor, nn

from archsearch.runtimes.base import Array


class TorchSession:
    """Runs the module itself in inference mode."""

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...], threads: int) -> None:
        self._module = module
        self._inputs = inputs
        self._threads = threads

    def run(self) -> list[Array]:
        """Run the module once. Torch has one number of threads a process: it is set here and stays."""
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            output: Tensor = self._module(*self._inputs)
        return [output.numpy()]


class TorchRuntime:
    """PyTorch as it comes: no graph, float32, CPU."""

    name = "torch"
    library = "torch"
    graph_level = "eager"
    compute_unit = "cpu"
    dtype = "float32"
    layout = "nchw"
    full = None

    def version(self) -> str:
        """Version of torch."""
        return str(torch.__version__)

    def available(self) -> str | None:
        """Runs everywhere."""
        return None

    def convert(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1
    ) -> TorchSession:
        """Keep the module and its inputs; ``folder`` stays empty."""
        return TorchSession(module.eval(), inputs, threads)
