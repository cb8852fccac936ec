"""Core ML, for iOS 17 or 18 on: in float16, with weights in int8, or with weights out of small
palettes.

Written anywhere, run on macOS and iOS only: what is looked at here is the file.
"""

import contextlib
import io
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Literal, get_args

from archsearch.errors import InputError, check_known, import_package
from archsearch.export.writing import (
    COREML_SUFFIX,
    METADATA,
    OUTPUT,
    Exported,
    build,
    check_target,
    written_aside,
)
from archsearch.files import in_utf8
from archsearch.runtimes.coreml import TARGETS, convert_coreml
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import example_inputs, input_names

Compression = Literal["float16", "int8", "palettised"]
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)
PALETTE_BITS = 6  # as in Apple's own port of Stable Diffusion (apple/ml-stable-diffusion)
WORDS: dict[Compression, str] = {
    "float16": "float16",
    "int8": "int8, one step an output channel, symmetric about zero, where a tensor has more than "
    "2,048; activations are float16",
    "palettised": f"{PALETTE_BITS} bits each, out of {2**PALETTE_BITS} float16 values a tensor "
    "(k-means), where it has more than 2,048; activations are float16",
}


def export_unet_coreml(
    config: UNetConfig,
    path: Path,
    weights: Path | None = None,
    force: bool = False,
    compression: Compression = "float16",
    ios: int = TARGETS[0],
) -> Exported:
    """Write the network as an ML program at batch 1, inputs and output named as in ONNX.

    The canonical config lies in the user-defined metadata under ``archsearch.config``. Outputs are
    not checked: only macOS can.

    Args:
        config: The architecture.
        path: Folder to write, ``*.mlpackage``.
        weights: A safetensors file of its state dict; None for random weights.
        force: Overwrite what is there.
        compression: How weights are held; activations are float16 in any case.
        ios: The first iOS that is to run it, 17 or 18. Programs for 18 have an operator for
            attention as a whole.

    Raises:
        InputError: coremltools is not installed, suffix or iOS is another, ``path`` is there and
            ``force`` is not given, or ``weights`` do not fit.
        ArchsearchError: It cannot be written.
    """
    if path.suffix != COREML_SUFFIX:
        raise InputError(f"{path}: a Core ML package must be called *{COREML_SUFFIX}.")
    check_known(str(ios), map(str, TARGETS), f"--ios: {ios} is not a target")
    check_target(path, force)
    with written_aside(path) as folder, in_utf8(folder) as spelled:
        inputs = example_inputs(config)
        network = build(config, weights)
        model = convert_coreml(network, inputs, input_names(config), [OUTPUT], ios)
        model = _compressed(model, compression)
        model.user_defined_metadata[METADATA] = config.to_json()
        package = spelled / f"model{COREML_SUFFIX}"
        model.save(str(package))
        package.rename(folder / path.name)
        spec = model.get_spec()
    return Exported(
        {
            "inputs": _ends(spec.description.input),
            "outputs": _ends(spec.description.output),
            "runs on": f"iOS {ios}, macOS {ios - 3} and later",
            "weights are held as": WORDS[compression],
            "compared with torch": "not compared: Core ML runs on macOS and iOS only",
        },
        "import CoreML\n\n"
        f'let package = URL(fileURLWithPath: "{path.name}")\n'
        "let model = try MLModel(contentsOf: MLModel.compileModel(at: package))\n",
        "swift",
        _operators(spec),
    )


def _compressed(model: Any, compression: Compression) -> Any:
    if compression == "float16":
        return model
    tools = import_package("coremltools.optimize.coreml", "coremltools", "coreml")
    if compression == "int8":
        each, compress = tools.OpLinearQuantizerConfig(), tools.linear_quantize_weights
    else:
        each = tools.OpPalettizerConfig(mode="kmeans", nbits=PALETTE_BITS)
        compress = tools.palettize_weights
    with (
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stderr(io.StringIO()),  # its progress bars
    ):
        return compress(model, tools.OptimizationConfig(global_config=each))


def _ends(features: Any) -> str:
    told = []
    for feature in features:
        array = feature.type.multiArrayType
        kind = array.ArrayDataType.Name(array.dataType).lower()
        told.append(f"`{feature.name}` {kind} ({', '.join(map(str, array.shape))})")
    return "; ".join(told)


def _operators(spec: Any) -> dict[str, int]:
    return dict(
        Counter(
            operation.type
            for function in spec.mlProgram.functions.values()
            for block in function.block_specializations.values()
            for operation in block.operations
            if operation.type != "const"
        )
    )
