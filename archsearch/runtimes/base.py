"""What a runtime is: converts a module with its example inputs into a session that does nothing but
inference.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self

from numpy.typing import NDArray
from torch import Tensor, nn

from archsearch.errors import InputError

CHOSEN = "chosen by the runtime"
"""Layout of activations where the runtime decides, operator by operator."""

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
    """A way to run a network, with the settings that decide how fast it is. All of them go into
    latency tables.
    """

    @property
    def name(self) -> str:
        """Its key in ``RUNTIMES``."""
        ...

    @property
    def library(self) -> str:
        """What latency tables call it, with ``version``: the library, which several runtimes may
        share.
        """
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

    @property
    def layout(self) -> str:
        """Layout of activations: ``nchw``, ``nhwc``, or ``CHOSEN``."""
        ...

    @property
    def full(self) -> Self | None:
        """The same runtime with the graph optimised as far as it goes; None where ``graph_level``
        is already all there is.

        Units are measured by the runtime itself, so that they add up; this one tells what a whole
        network can reach.
        """
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
        """
        ...


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
    has_full: bool = False
    """Whether the graph can be optimised further, see ``Runtime.full``."""

    def check_full(self, wanted: int) -> None:
        """Refuse to measure networks with the graph optimised in full where there is only one
        level.

        Raises:
            InputError: ``wanted`` is not 0, and there is one level only.
        """
        if wanted and not self.has_full:
            raise InputError(
                f"--full: runtime {self.name} has one graph level only, '{self.graph_level}'."
            )


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


def import_package(module: str, package: str) -> Any:
    """Import a library that lives in an environment of its own.

    Args:
        module: What to import.
        package: What pip calls it.

    Raises:
        InputError: It is not installed in this Python, or something that it imports is not.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"{package} cannot be imported here ({error}). It is kept out of archsearch's own "
            "environment: install it in another "
            f"one (pip install {package}, beside torch, numpy and pydantic) and name that one's "
            "Python: --runtime-python PYTHON."
        ) from error
