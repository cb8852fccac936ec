"""Core AI (.aimodel), Apple's newer format beside Core ML: in float16, for iOS 27 on.

The package coreai-core runs what it writes on Linux as well, so that it can be compared with torch.
Products of float16 matrices are slow there: only small networks are run.
"""

import asyncio
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archsearch.cost.price import price
from archsearch.errors import ArchsearchError, InputError, import_package
from archsearch.export.writing import (
    COREAI_SUFFIX,
    METADATA,
    OUTPUT,
    Exported,
    build,
    check_close,
    check_target,
    difference,
    written_aside,
)
from archsearch.files import in_utf8
from archsearch.runtimes.base import Array
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import ADDED_INPUTS, GUIDANCE, INPUTS, example_inputs, input_names

FUNCTION = "main"  # the one function of a file
# Inputs of which sinusoids are taken, in float32 as in training: float16 would round their angles.
IN_FLOAT32 = (INPUTS[1], ADDED_INPUTS[1], GUIDANCE)
# MACs of linear layers and attention up to which a network is run: a minute and a half.
MOST_MACS = 2e9


def export_unet_coreai(
    config: UNetConfig, path: Path, weights: Path | None = None, force: bool = False
) -> Exported:
    """Write the network as an asset of Core AI at batch 1, inputs and output named as in ONNX.

    Weights, activations, inputs and output are float16, which the neural engine computes in; times,
    time ids and guidance weights are float32, and so are their sinusoids. The canonical config lies
    in the asset's metadata under ``archsearch.config``.

    Args:
        config: The architecture.
        path: Folder to write, ``*.aimodel``.
        weights: A safetensors file of its state dict; None for random weights.
        force: Overwrite what is there.

    Raises:
        InputError: coreai-torch is not installed, the suffix is another, ``path`` is there and
            ``force`` is not given, or ``weights`` do not fit.
        ArchsearchError: It cannot be converted or written, or Core AI computes something else from
            it than torch.
    """
    if path.suffix != COREAI_SUFFIX:
        raise InputError(f"{path}: an asset of Core AI must be called *{COREAI_SUFFIX}.")
    check_target(path, force)
    runtime = _import("coreai.runtime", "coreai-core")
    macs, wanted = price(config).macs_by_kind, None
    with written_aside(path) as folder, in_utf8(folder) as spelled:
        network, inputs = build(config, weights), example_inputs(config)
        if macs.linear + macs.attention <= MOST_MACS:
            with torch.inference_mode():
                wanted = network(*inputs).numpy()
        names = input_names(config)
        inputs = tuple(
            tensor if name in IN_FLOAT32 else tensor.half()
            for name, tensor in zip(names, inputs, strict=True)
        )
        program = convert_coreai(network.half(), inputs, names, [OUTPUT])
        del network  # the program holds it as well
        metadata = runtime.AIModelAssetMetadata()
        metadata.set_custom(METADATA, config.to_json())
        try:
            asset = program.save_asset(spelled / f"model{COREAI_SUFFIX}", metadata)
        except RuntimeError as error:
            reason = error.__cause__ or error
            raise ArchsearchError(f"{path}: cannot be written: {reason}.") from error
        summary = asset.summary()
        told = (
            "not compared: the runtime that comes with Core AI's converter takes minutes for a "
            "network of this size"
        )
        if wanted is not None:
            feed = {
                name: runtime.NDArray(tensor.numpy())
                for name, tensor in zip(names, inputs, strict=True)
            }
            # still aside: what is wrong does not take its place
            largest = difference(_run(asset, feed), wanted)
            check_close(largest, path, "Core AI", half=True)
            told = (
                f"largest difference {largest:.1e} of the largest output of torch in float32, one "
                "random sample (the runtime that comes with the converter)"
            )
        (folder / f"model{COREAI_SUFFIX}").rename(folder / path.name)
    return Exported(
        {
            "inputs": _ends(summary.function_inputs(FUNCTION)),
            "outputs": _ends(summary.function_outputs(FUNCTION)),
            "runs on": "iOS 27, macOS 27 and later; in Swift "
            "`import CoreAI`, `try await AIModel(contentsOf: url)`",
            "written with": f"coreai-torch {version('coreai-torch')}, coreai-core "
            f"{version('coreai-core')}",
            "compared with torch": told,
            "operators": "as Core AI counts them, before it compiles them for a device: what "
            "broadcasts beside what it is made of; norms and attention, functions that `invoke` "
            "calls, once for each shape",
        },
        _lines(path, dict(zip(names, inputs, strict=True))),
        operators={name: n for name, n in summary.operation_distribution if name != "constant"},
    )


def convert_coreai(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> Any:
    """Convert ``module``, in the precision that it has, for inputs of exactly these shapes.

    Args:
        module: What to convert.
        inputs: Of its ``forward``.
        input_names: Names of these.
        output_names: Names of what it returns.

    Returns:
        A ``coreai.authoring.AIProgram``, not yet saved.

    Raises:
        InputError: coreai-torch is not installed.
        ArchsearchError: It holds an operator that Core AI does not have; the message names it.
    """
    coreai = _import("coreai_torch", "coreai-torch")
    with (
        warnings.catch_warnings(action="ignore"),
        torch.no_grad(),
        redirect_stdout(io.StringIO()),  # its progress bars
    ):
        exported = torch.export.export(module.eval(), inputs, strict=False)
        exported = exported.run_decompositions(coreai.get_decomp_table())
        # the other mode writes the stack of every operator into the file, with this machine's paths
        converter = coreai.TorchConverter(mode=coreai.TorchConverter.Mode.RELEASE)
        try:
            converter.add_exported_program(
                exported, input_names=input_names, output_names=output_names
            )
            return converter.to_coreai()
        except Exception as error:  # it raises of every kind
            # what follows its first sentence is advice for those who write converters
            said = str(error).partition("\n")[0].partition(". ")[0].removesuffix(".")
            raise ArchsearchError(f"Core AI's converter refuses the network: {said}.") from error


def _run(asset: Any, feed: dict[str, Any]) -> Array:
    async def once() -> Array:
        async with asset.executable() as model:
            outputs = await model.load_function(FUNCTION)(feed)
            found: Array = outputs[OUTPUT].numpy().copy()
            return found

    # in a thread of its own: where a loop runs already, as in a notebook, asyncio starts no other
    with _silent(), ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, once()).result()


@contextmanager
def _silent() -> Iterator[None]:
    # The runtime is no Python, and logs to the standard error whatever sys.stderr is.
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _ends(described: Sequence[tuple[str, str]]) -> str:
    return "; ".join(f"`{name}` {kind}" for name, kind in described)


def _lines(path: Path, inputs: dict[str, Tensor]) -> str:
    given = "".join(
        f"    {name!r}: NDArray(np.zeros({tuple(tensor.shape)}, np.{str(tensor.dtype)[6:]})),\n"
        for name, tensor in inputs.items()
    )
    return (
        "import asyncio\n\n"
        "import numpy as np\n"
        "from coreai.authoring import AIModelAsset\n"
        "from coreai.runtime import NDArray\n\n"
        f"inputs = {{\n{given}}}\n\n\n"
        "async def predict():\n"
        f"    async with AIModelAsset.load({path.name!r}).executable() as model:\n"
        f"        outputs = await model.load_function({FUNCTION!r})(inputs)\n"
        f"        return outputs[{OUTPUT!r}].numpy().copy()\n\n\n"
        "prediction = asyncio.run(predict())\n"
    )


def _import(module: str, package: str) -> Any:
    with warnings.catch_warnings(action="ignore"):  # of every build of torch, such as 2.13.0+cpu
        return import_package(module, package, "coreai")
