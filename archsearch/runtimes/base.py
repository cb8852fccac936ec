"""What a runtime is: converts a module with its example inputs into a session that does nothing but inference."""

from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[Any]


class Session(Protocol):
    """A converted module, loaded, with its example inputs in place."""

    def run(self) -> list[Array]:
        """Run inference once on the example inputs; the outputs are valid until the next call.

        Raises:
            InputError: This machine can convert for the runtime but not run it.
        """
        ...


class Runtime(Protocol):
    """A way to run a network, with the settings that decide how fast it is. All of them go into latency tables."""

    @property
    def name(self) -> str:
        """Its key in ``RUNTIMES``."""
        ...

    @property
    def graph_level(self) -> str:
        """How far the runtime rewrites the graph."""
        ...

    @property
    def compute_unit(self) -> str:
        """What computes: ``cpu``, or what the runtime is free to choose from."""
        ...

    @property
    def dtype(self) -> str:
        """Precision of weights and activations."""
        ...

    def version(self) -> str:
        """Version of the library.

        Raises:
            InputError: The library is not installed.
        """
        ...

    def available(self) -> str | None:
        """None if converted modules run on this machine, otherwise why not."""
        ...

    def convert(self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1) -> Session:
        """Convert ``module`` for inputs of exactly these shapes.

        Args:
            module: In evaluation mode, returning one tensor.
            inputs: Positional arguments of ``forward``.
            folder: Where files of the converted module go; must outlive the session.
            threads: Number of threads inference may use.

        Raises:
            InputError: The library is not installed.
        """
        ...
