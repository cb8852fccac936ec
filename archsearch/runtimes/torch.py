"""Eager PyTorch on the CPU."""

from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import override

from archsearch.runtimes.base import Array, Runtime


class _TorchSession:
    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...], threads: int) -> None:
        self._module, self._inputs, self._threads = module, inputs, threads

    def run(self) -> list[Array]:
        # torch has one number of threads a process: it is set here and stays
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            output: Tensor = self._module(*self._inputs)
        return [output.numpy()]


class TorchRuntime(Runtime):
    """PyTorch as it comes: no graph, float32, CPU."""

    name = "torch"
    library = "torch"
    packages = ("torch",)
    graph_level = "eager"
    layout = "nchw"

    @override
    def convert(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1
    ) -> _TorchSession:
        return _TorchSession(module.eval(), inputs, threads)
