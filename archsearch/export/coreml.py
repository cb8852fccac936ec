"""The whole network as a Core ML package: written anywhere, run on macOS and iOS."""

from pathlib import Path

from archsearch.errors import InputError
from archsearch.export.onnx import OUTPUT
from archsearch.export.target import PACKAGE_SUFFIX, check_target, written_aside
from archsearch.export.weights import build
from archsearch.runtimes.coreml import convert_coreml
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import INPUTS, example_inputs


def export_unet_coreml(config: UNetConfig, path: Path, weights: Path | None = None, force: bool = False) -> None:
    """Write the network as a float16 ML program for iOS 17 on, at batch 1, inputs and output named as in ONNX.

    The canonical config lies in the user-defined metadata under ``archsearch.config``. Outputs are not checked: only macOS can.

    Args:
        config: The architecture.
        path: Folder to write, ``*.mlpackage``.
        weights: A safetensors file of its state dict; None for random weights.
        force: Overwrite what is there.

    Raises:
        InputError: coremltools is not installed, the suffix is another, ``path`` is there and ``force`` is not given, or
            ``weights`` do not fit.
        ArchsearchError: It cannot be written.
    """
    if path.suffix != PACKAGE_SUFFIX:
        raise InputError(f"{path}: a Core ML package must be called *{PACKAGE_SUFFIX}.")
    check_target(path, force)
    with written_aside(path) as folder:
        inputs = example_inputs(config)
        model = convert_coreml(build(config, weights), inputs, INPUTS[: len(inputs)], [OUTPUT])
        model.user_defined_metadata["archsearch.config"] = config.to_json()
        model.save(str(folder / path.name))
