"""Core ML: converts anywhere, runs on macOS only."""

import contextlib
import io
import logging
import platform
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from archsearch.errors import InputError, import_package
from archsearch.runtimes.base import Array, Runtime, input_names, named_inputs

TARGETS = (17, 18)  # versions of iOS that a program can be made for, the default first


def _coremltools() -> Any:
    # It warns of every torch version that it was not tested with.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    return import_package("coremltools", extra="coreml")


def convert_coreml(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    ios: int = TARGETS[0],
) -> Any:
    """Convert ``module`` to an ML program (float16), for inputs of exactly these shapes.

    Args:
        module: What to convert.
        inputs: Of its ``forward``.
        input_names: Names of these.
        output_names: Names of what it returns.
        ios: The first iOS that is to run it, one of ``TARGETS``.

    Returns:
        A ``coremltools.models.MLModel``, not yet saved.

    Raises:
        InputError: coremltools is not installed.
    """
    ct = _coremltools()
    # token ids stay whole numbers, for float16 cannot hold them; the converter chooses for others
    types = [None if tensor.is_floating_point() else np.int32 for tensor in inputs]
    with (
        warnings.catch_warnings(action="ignore"),
        torch.inference_mode(),
        contextlib.redirect_stderr(io.StringIO()),  # its progress bars
    ):
        traced = torch.jit.trace(module.eval(), inputs, check_trace=False)  # type: ignore[no-untyped-call]
        return ct.convert(
            traced,
            convert_to="mlprogram",
            inputs=[
                ct.TensorType(name=name, shape=tuple(tensor.shape), dtype=dtype)
                for name, tensor, dtype in zip(input_names, inputs, types, strict=True)
            ],
            outputs=[ct.TensorType(name=name) for name in output_names],
            minimum_deployment_target=getattr(ct.target, f"iOS{ios}"),
            skip_model_load=True,
        )


# A saved package; compiled and loaded at the first run, which only macOS can do.
class _CoremlSession:
    def __init__(self, path: Path, inputs: tuple[Tensor, ...]) -> None:
        self.path = path
        self._feed = named_inputs(
            tuple(tensor if tensor.is_floating_point() else tensor.int() for tensor in inputs)
        )
        self._model: Any = None

    def run(self) -> list[Array]:
        if self._model is None:
            if reason := CoremlRuntime().available():
                raise InputError(f"{self.path}: {reason}")
            self._model = _coremltools().models.MLModel(str(self.path))
        outputs: dict[str, Array] = self._model.predict(self._feed)
        return list(outputs.values())


class CoremlRuntime(Runtime):
    """Core ML ML programs: float16, the system chooses among CPU, GPU and Neural Engine."""

    name = "coreml"
    library = "coreml"
    graph_level = "mlprogram-ios17"
    compute_unit = "all"
    dtype = "float16"

    @override
    def version(self) -> str:
        # on macOS with the system's, which brings the runtime
        version, system = str(_coremltools().__version__), platform.mac_ver()[0]
        return f"{version} on macOS {system}" if system else version

    @override
    def available(self) -> str | None:
        if platform.system() != "Darwin":
            return (
                f"coreml runs on macOS only, and this is {platform.system()}; here it "
                "converts and saves."
            )
        return super().available()

    @override
    def convert(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1
    ) -> _CoremlSession:
        # the system decides about threads: ``threads`` says nothing here
        path = folder / "module.mlpackage"
        convert_coreml(module, inputs, input_names(len(inputs)), ["output"]).save(str(path))
        return _CoremlSession(path, inputs)
