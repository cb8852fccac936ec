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

from archsearch.errors import InputError, require_extra
from archsearch.runtimes.base import CHOSEN, Array


def _coremltools() -> Any:
    """Import coremltools, quietly.

    Raises:
        InputError: It is not installed.
    """
    logging.getLogger("coremltools").setLevel(
        logging.ERROR
    )  # it warns of every torch version it was not tested with
    try:
        import coremltools
    except ImportError as error:
        raise require_extra("coremltools", "coreml") from error
    return coremltools


def convert_coreml(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> Any:
    """Convert ``module`` to an ML program (float16, from iOS 17 on), for inputs of exactly these
    shapes.

    Returns:
        A ``coremltools.models.MLModel``, not yet saved.

    Raises:
        InputError: coremltools is not installed.
    """
    ct = _coremltools()
    with (
        warnings.catch_warnings(),
        torch.inference_mode(),
        contextlib.redirect_stderr(io.StringIO()),
    ):  # its progress bars
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module.eval(), inputs, check_trace=False)  # type: ignore[no-untyped-call]
        return ct.convert(
            traced,
            convert_to="mlprogram",
            inputs=[
                ct.TensorType(name=name, shape=tuple(tensor.shape), dtype=_element(tensor))
                for name, tensor in zip(input_names, inputs, strict=True)
            ],
            outputs=[ct.TensorType(name=name) for name in output_names],
            minimum_deployment_target=ct.target.iOS17,
            skip_model_load=True,
        )


def _element(tensor: Tensor) -> type[np.generic] | None:
    """Type of an input: whole numbers as they are, since float16 cannot hold token ids; the
    converter's choice for others.
    """
    return None if tensor.is_floating_point() else np.int32


class CoremlSession:
    """A saved package; compiled and loaded at the first run, which only macOS can do."""

    def __init__(self, path: Path, inputs: tuple[Tensor, ...]) -> None:
        self.path = path
        given = [tensor if tensor.is_floating_point() else tensor.int() for tensor in inputs]
        self._feed = {f"input_{index}": tensor.numpy() for index, tensor in enumerate(given)}
        self._model: Any = None

    def run(self) -> list[Array]:
        """Predict once.

        Raises:
            InputError: Not on macOS.
        """
        if self._model is None:
            reason = CoremlRuntime().available()
            if reason:
                raise InputError(f"{self.path}: {reason}")
            self._model = _coremltools().models.MLModel(str(self.path))
        outputs: dict[str, Array] = self._model.predict(self._feed)
        return list(outputs.values())


class CoremlRuntime:
    """Core ML ML programs: float16, the system chooses among CPU, GPU and Neural Engine."""

    name = "coreml"
    library = "coreml"
    graph_level = "mlprogram-ios17"
    compute_unit = "all"
    dtype = "float16"
    layout = CHOSEN
    full = None

    def version(self) -> str:
        """Version of coremltools, on macOS with the system's, which brings the runtime.

        Raises:
            InputError: coremltools is not installed.
        """
        version = str(_coremltools().__version__)
        system = platform.mac_ver()[0]
        return f"{version} on macOS {system}" if system else version

    def available(self) -> str | None:
        """Why models cannot run here: another system than macOS, or no coremltools."""
        if platform.system() != "Darwin":
            return (
                f"coreml runs on macOS only, and this is {platform.system()}; here it "
                "converts and saves."
            )
        try:
            _coremltools()
        except InputError as error:
            return str(error)
        return None

    def convert(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1
    ) -> CoremlSession:
        """Convert and save to ``folder/module.mlpackage``. The system decides about threads:
        ``threads`` says nothing here.
        """
        model = convert_coreml(
            module, inputs, [f"input_{index}" for index in range(len(inputs))], ["output"]
        )
        path = folder / "module.mlpackage"
        model.save(str(path))
        return CoremlSession(path, inputs)
