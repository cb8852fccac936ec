"""ExecuTorch (.pte) with XNNPACK, float32."""

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archsearch.export.writing import (
    Exported,
    build,
    check_close,
    check_target,
    difference,
    written_aside,
)
from archsearch.files import in_utf8
from archsearch.latency.process import Process
from archsearch.latency.stopwatch import MeasureSettings
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import example_inputs, input_names


def export_unet_executorch(
    config: UNetConfig,
    path: Path,
    weights: Path | None = None,
    force: bool = False,
    python: Path | None = None,
) -> Exported:
    """Write the network as an ExecuTorch program, lowered to XNNPACK as far as that takes it, at
    batch 1; its inputs are those of the torch module, in order.

    It is converted, and run once for comparison, in a process of its own, with the Python that has
    executorch.

    Args:
        config: The architecture.
        path: File to write, ``*.pte``.
        weights: A safetensors file of its state dict; None for random weights.
        force: Overwrite what is there.
        python: A Python with executorch. Default: this one.

    Raises:
        InputError: That Python has no executorch, ``path`` is there and ``force`` is not given, or
            ``weights`` do not fit.
        ArchsearchError: It cannot be converted or written, or ExecuTorch computes something else
            from it than torch.
    """
    check_target(path, force)
    with (
        Process("executorch", MeasureSettings(), python) as process,
        written_aside(path) as folder,
        in_utf8(folder) as spelled,
    ):
        network, inputs = build(config, weights), example_inputs(config)
        with torch.inference_mode():
            wanted = network(*inputs).numpy()
        with TemporaryDirectory(dir=spelled) as name:
            parts = Path(name)
            _save(parts / "state.npz", network.state_dict())
            _save(parts / "inputs.npz", dict(zip(input_names(config), inputs, strict=True)))
            del network  # the other process holds it as well
            found = process.export(config, parts)
            got = np.load(parts / "0.npy", allow_pickle=False)
            os.replace(parts / found["file"], folder / path.name)
        # still aside: what is wrong does not take its place
        error = difference(got, wanted)
        check_close(error, path, "ExecuTorch")
    outside = found["outside"]
    shapes = "; ".join(
        f"`{name}` float32 ({', '.join(map(str, tensor.shape))})"
        for name, tensor in zip(input_names(config), inputs, strict=True)
    )
    given = ", ".join(f"torch.zeros({', '.join(map(str, each.shape))})" for each in inputs)
    return Exported(
        {
            "inputs": shapes,
            "outputs": f"float32 ({', '.join(map(str, wanted.shape))})",
            "compared with torch": f"largest difference {error:.1e} of the largest output, one "
            f"random sample (ExecuTorch {process.facts.version}, XNNPACK, on the CPU)",
            "delegated subgraphs": f"{found['delegated']}: so many pieces XNNPACK computes; "
            f"between them {sum(outside.values())} operators run in ExecuTorch's portable kernels",
        },
        "import torch\nfrom executorch.runtime import Runtime\n\n"
        f"method = Runtime.get().load_program({path.name!r}).load_method('forward')\n"
        f"(prediction,) = method.execute([{given}])\n",
        outside=outside,
    )


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    # Not as safetensors: what reads it has numpy, and need not have more.
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    np.savez(path, **arrays)
