"""What a runtime is: it converts a module, with example inputs, into a session that does nothing
but inference.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from archsearch.errors import InputError, import_package

# Layout of activations where the runtime decides, operator by operator.
CHOSEN = "chosen by the runtime"

Array = NDArray[Any]


class Session(Protocol):
    """A converted module, loaded, with its example inputs in place."""

    def run(self) -> list[Array]:
        """Run inference once on the example inputs; the outputs are valid until the next call.

        Raises:
            InputError: This machine can convert for the runtime but not run it.
        """


class Runtime(ABC):
    """A way to run a network, with the settings that decide how fast it is. All of these settings
    go into latency tables.

    A runtime of another package need not derive from this class: an object with these attributes
    and methods will do (``docs/plugins.md``).

    Attributes:
        name: Its key in ``RUNTIMES``.
        library: What latency tables call it, together with ``version()``: the library, which
            several runtimes may share.
        packages: What it imports besides torch. The first has the version.
        extra: The extra of archsearch that installs ``packages``; None where they need an
            environment of their own.
        graph_level: How far the runtime rewrites the graph.
        compute_unit: What computes: ``cpu``, or what the runtime is free to choose from.
        dtype: Precision of weights and activations.
        layout: Layout of activations: ``nchw``, ``nhwc``, or ``CHOSEN``.
        full: The same runtime with the graph optimised as far as it goes; None where
            ``graph_level`` is already all there is. Units are measured by the runtime itself, so
            that they add up; this one tells what a whole network can reach.
    """

    name: str
    library: str
    packages: tuple[str, ...] = ()
    extra: str | None = None
    graph_level: str
    compute_unit: str = "cpu"
    dtype: str = "float32"
    layout: str = CHOSEN
    full: "Runtime | None" = None

    def version(self) -> str:
        """Version of the library.

        Raises:
            InputError: The library is not installed.
        """
        return str(import_package(self.packages[0], extra=self.extra).__version__)

    def available(self) -> str | None:
        """None if converted modules run on this machine, otherwise why not, in one sentence."""
        try:
            self.version()
            for package in self.packages:
                import_package(package, extra=self.extra)
        except InputError as error:
            return str(error)
        return None

    @abstractmethod
    def convert(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1
    ) -> Session:
        """Convert ``module`` for inputs of exactly these shapes.

        Args:
            module: In evaluation mode, returning one tensor.
            inputs: Positional arguments of ``forward``.
            folder: Where files of the converted module go; must outlive the session.
            threads: Number of threads inference may use.

        Raises:
            InputError: The library is not installed.
            ArchsearchError: The runtime cannot convert the module.
        """


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What a latency table says of the runtime it was measured with."""

    name: str
    library: str
    version: str
    graph_level: str
    compute_unit: str
    dtype: str
    layout: str
    has_full: bool = False  # whether the graph can be optimised further, see ``Runtime.full``


def facts(runtime: Runtime) -> RuntimeFacts:
    """Read the facts of ``runtime``.

    Raises:
        InputError: Its library is not installed.
    """
    return RuntimeFacts(
        name=runtime.name,
        library=runtime.library,
        version=runtime.version(),
        graph_level=runtime.graph_level,
        compute_unit=runtime.compute_unit,
        dtype=runtime.dtype,
        layout=runtime.layout,
        has_full=runtime.full is not None,
    )


def input_names(count: int) -> list[str]:
    """Names of a converted module's inputs."""
    return [f"input_{index}" for index in range(count)]


def named_inputs(inputs: tuple[Tensor, ...]) -> dict[str, Array]:
    """The example inputs as contiguous arrays, by the names of ``input_names``."""
    arrays = [np.ascontiguousarray(tensor.numpy()) for tensor in inputs]
    return dict(zip(input_names(len(inputs)), arrays, strict=True))
