"""The whole network as ONNX, checked against torch before it takes its place."""

from pathlib import Path

import numpy as np
import torch

from archsearch.errors import ArchsearchError
from archsearch.export.target import check_target, written_aside
from archsearch.export.weights import build
from archsearch.runtimes.onnx_runtime import export_onnx, open_session
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import INPUTS, example_inputs

OUTPUT = "prediction"
TOLERANCE = 1e-3
ONE_FILE_BYTES = 2_000_000_000
"""An ONNX file holds no more than 2 GiB; weights from here on go into ``<file>.data`` beside it."""


def export_unet_onnx(config: UNetConfig, path: Path, weights: Path | None = None, force: bool = False) -> None:
    """Write the network as float32 ONNX at batch 1: inputs ``sample``, ``timesteps``, ``context``; output ``prediction``.

    A network without cross-attention has no ``context`` input, one with an added embedding also ``text_embeds`` and ``time_ids``.
    The canonical config lies in the metadata under ``archsearch.config``.

    Args:
        config: The architecture.
        path: File to write.
        weights: A safetensors file of its state dict; None for random weights.
        force: Overwrite what is there.

    Raises:
        InputError: ``path`` is there and ``force`` is not given, or ``weights`` do not fit.
        ArchsearchError: It cannot be written, or ONNX Runtime computes something else from it than torch.
    """
    check_target(path, force)
    network = build(config, weights)
    if _bytes(network) >= ONE_FILE_BYTES:
        check_target(path.with_name(f"{path.name}.data"), force)
    inputs = example_inputs(config)
    with written_aside(path) as folder:
        _write(network, inputs, folder, path.name, config)
        session = open_session(folder / path.name)
        given = dict(zip(INPUTS, inputs, strict=False))
        (got,) = session.run([OUTPUT], {node.name: given[node.name].numpy() for node in session.get_inputs()})
        with torch.inference_mode():
            wanted = network(*inputs).numpy()
        error = float(np.abs(got - wanted).max() / np.abs(wanted).max())
        if not error <= TOLERANCE:
            raise ArchsearchError(
                f"{path}: ONNX Runtime's output differs from torch's by {error:.1e}, allowed are {TOLERANCE:.0e}."
            )


def _write(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], folder: Path, name: str, config: UNetConfig) -> None:
    """Export, then save again with metadata and, where one file cannot hold the weights, one file of them."""
    import onnx

    parts = folder / "parts"
    parts.mkdir()
    export_onnx(network, inputs, parts / name, INPUTS[: len(inputs)], [OUTPUT])
    model = onnx.load(str(parts / name))
    for file in parts.iterdir():
        file.unlink()
    parts.rmdir()
    model.producer_name = "archsearch"
    model.producer_version = ""
    onnx.helper.set_model_props(model, {"archsearch.config": config.to_json()})
    large = _bytes(network) >= ONE_FILE_BYTES
    onnx.save_model(
        model,
        str(folder / name),
        save_as_external_data=large,
        all_tensors_to_one_file=True,
        location=f"{name}.data" if large else None,
    )


def _bytes(network: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
