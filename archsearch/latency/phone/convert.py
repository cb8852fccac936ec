"""One model of a bundle: converted, with the inputs it is fed with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from archsearch.errors import ArchsearchError
from archsearch.latency.phone.manifest import Format, Input
from archsearch.latency.things import Thing, build
from archsearch.runtimes.base import Array
from archsearch.runtimes.coreml import convert_coreml
from archsearch.runtimes.executorch import lower_to_xnnpack
from archsearch.runtimes.onnx_runtime import export_onnx, input_names

Converter = Callable[[Thing, int, Path], tuple[str, list[Input]]]
"""Writes a thing with weights of a seed into a folder. Returns the model's file name and its inputs, relative to the folder."""


def to_onnx(thing: Thing, seed: int, folder: Path) -> tuple[str, list[Input]]:
    """Write ``model.onnx``; inputs as ``input_<i>.npy`` and, as ONNX Runtime's own tools want them, ``test_data_set_0/*.pb``."""
    import onnx

    module, inputs = build(thing, seed)
    names = input_names(len(inputs))
    export_onnx(module, inputs, folder / "model.onnx", names, ["output"])
    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    given = dict(zip(names, inputs, strict=True))
    (folder / "test_data_set_0").mkdir()
    found = []
    for index, node in enumerate(graph.input):  # without what the graph does not use
        array = given[node.name].contiguous().numpy()
        np.save(folder / f"input_{index}.npy", array, allow_pickle=False)
        tensor = onnx.numpy_helper.from_array(array, node.name)
        (folder / "test_data_set_0" / f"input_{index}.pb").write_bytes(tensor.SerializeToString())
        found.append(_input(node.name, array, f"input_{index}.npy"))
    return "model.onnx", found


def to_coreml(thing: Thing, seed: int, folder: Path) -> tuple[str, list[Input]]:
    """Write ``model.mlpackage`` and its inputs as raw float32 or int32.

    Raises:
        InputError: coremltools is not installed.
        ArchsearchError: Whole numbers would become float16, which does not hold token ids.
    """
    module, inputs = build(thing, seed)
    names = input_names(len(inputs))
    model = convert_coreml(module, inputs, names, ["output"])
    features = {feature.name: feature.type.multiArrayType for feature in model.get_spec().description.input}
    found = []
    for index, (name, tensor) in enumerate(zip(names, inputs, strict=True)):
        if name not in features:
            continue
        array = tensor.contiguous().numpy()
        if array.dtype == np.int64:
            if features[name].dataType != features[name].INT32:
                raise ArchsearchError(f"{name}: holds whole numbers, but Core ML's input became floating point.")
            array = array.astype(np.int32)
        found.append(_raw(name, array, folder, index))
    model.save(str(folder / "model.mlpackage"))
    return "model.mlpackage", found


def to_executorch(thing: Thing, seed: int, folder: Path) -> tuple[str, list[Input]]:
    """Write ``model.pte`` and its inputs as raw values.

    Raises:
        InputError: ExecuTorch is not installed in this Python.
    """
    module, inputs = build(thing, seed)
    lower_to_xnnpack(module, inputs).save(str(folder / "model.pte"))
    pairs = enumerate(zip(input_names(len(inputs)), inputs, strict=True))
    return "model.pte", [_raw(name, tensor.contiguous().numpy(), folder, index) for index, (name, tensor) in pairs]


def _raw(name: str, array: Array, folder: Path, index: int) -> Input:
    little = array.astype(array.dtype.newbyteorder("<"))
    (folder / f"input_{index}.bin").write_bytes(little.tobytes())
    return _input(name, array, f"input_{index}.bin")


def _input(name: str, array: Array, file: str) -> Input:
    return Input.model_validate({"name": name, "shape": list(array.shape), "dtype": array.dtype.name, "file": file})


CONVERTERS: dict[Format, Converter] = {"onnx": to_onnx, "coreml": to_coreml, "executorch": to_executorch}
RUNTIME_OF: dict[Format, str] = {"onnx": "onnxruntime", "coreml": "coreml", "executorch": "executorch"}
"""The runtime whose models these are."""
