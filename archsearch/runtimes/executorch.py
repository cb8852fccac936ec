"""ExecuTorch with XNNPACK, in float32. Needs an environment of its own: package executorch."""

import warnings
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from archsearch.errors import import_package
from archsearch.runtimes.base import Array, Runtime


class Delegation(NamedTuple):
    """What of a program XNNPACK computes.

    Attributes:
        delegated: Subgraphs that it takes, each a piece of the program.
        outside: How many operators of each kind run between them, in portable kernels.
    """

    delegated: int
    outside: dict[str, int]


class ExecutorchSession:
    """A program, loaded; ``delegation`` says what of it XNNPACK computes."""

    def __init__(
        self, path: Path, inputs: tuple[Tensor, ...], threads: int, delegation: Delegation
    ) -> None:
        self.delegation = delegation
        library = _import("extension.pybindings.portable_lib")
        # a process has one thread pool, which is sized from the machine unless it is told otherwise
        # before a program is loaded
        library._unsafe_reset_threadpool(threads)
        self._program = _import("runtime").Runtime.get().load_program(str(path))
        self._method = self._program.load_method("forward")
        self._inputs = list(inputs)

    def run(self) -> list[Array]:
        """Run inference once on the example inputs."""
        return [output.numpy() for output in self._method.execute(self._inputs)]


class ExecutorchRuntime(Runtime):
    """ExecuTorch, the graph lowered to XNNPACK as far as its partitioner takes it.

    XNNPACK computes convolutions, linear layers, products, softmax and most elementwise operations;
    group and layer norms, the sinusoids and resizing run in ExecuTorch's portable kernels. These
    are written for every processor, not for speed, and a table shows it.
    """

    name = "executorch"
    library = "executorch"
    graph_level = "xnnpack"

    @override
    def version(self) -> str:
        _import("runtime")
        return metadata.version("executorch")

    @override
    def convert(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1
    ) -> ExecutorchSession:
        path = folder / "module.pte"
        program, delegation = lower_to_xnnpack(module, inputs)
        program.save(str(path))
        return ExecutorchSession(path, inputs, threads, delegation)


def lower_to_xnnpack(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, Delegation]:
    """Lower ``module`` for inputs of exactly these shapes.

    Returns:
        An ``ExecutorchProgramManager``, whose ``save(path)`` writes the .pte file, and what of it
        is delegated.

    Raises:
        InputError: executorch is not installed here.
    """
    exir = _import("exir")
    xnnpack = _import("backends.xnnpack.partition.xnnpack_partitioner")
    configs = _import("backends.xnnpack.utils.configs")
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        exported = torch.export.export(module.eval(), inputs, strict=False)
        lowered = exir.to_edge_transform_and_lower(
            exported,
            # without it, copies that change nothing stand before each product of attention, and
            # each ends a subgraph
            transform_passes=configs.get_transform_passes(),
            partitioner=[xnnpack.XnnpackPartitioner()],
        )
        delegation = _delegation(lowered.exported_program().graph_module.graph)
        return lowered.to_executorch(), delegation


def _delegation(graph: Any) -> Delegation:
    # A call of a delegate is one node; what only takes an output apart computes nothing.
    names = Counter(
        getattr(node.target, "__name__", str(node.target))
        for node in graph.nodes
        if node.op == "call_function"
    )
    delegated = names.pop("executorch_call_delegate", 0)
    names.pop("getitem", None)
    return Delegation(delegated, dict(names))


def _import(module: str) -> Any:
    return import_package(f"executorch.{module}", "executorch")
