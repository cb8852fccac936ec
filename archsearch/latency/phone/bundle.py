"""Bundles to measure on phones: manifest, models, scripts."""

import hashlib
import inspect
import json
import os
import random
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from archsearch import documents
from archsearch.errors import ArchsearchError, InputError
from archsearch.files import write_json, write_text
from archsearch.latency import stopwatch
from archsearch.latency.paired import REFERENCE_UNIT
from archsearch.latency.table import Count, Digest, Frozen, parse
from archsearch.latency.workload import Workload, build, from_data, name_of, to_data
from archsearch.runtimes.base import Array, RuntimeFacts, facts
from archsearch.runtimes.coreml import convert_coreml
from archsearch.runtimes.executorch import lower_to_xnnpack
from archsearch.runtimes.onnx import export_onnx, input_names
from archsearch.runtimes.registry import get_runtime

MANIFEST, ORDER, MODELS = "manifest.json", "order.txt", "models"
REFERENCE_KEY = "reference"
# Models between two runs of the reference, where a tool measures one file after another.
REFERENCE_EVERY = 3

Format = Literal["onnx", "coreml", "executorch"]


class Input(Frozen):
    """An input of a model and the file with its values: ``.npy`` (ONNX), else raw little-endian
    values (``.bin``).
    """

    name: str
    shape: list[Count]
    dtype: Literal["float32", "int64", "int32"]
    file: str


class Item(Frozen):
    """A model of the bundle. Paths are relative to the bundle, with forward slashes."""

    key: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    thing: dict[str, Any]  # the workload: ``archsearch.latency.workload.from_data`` rebuilds it
    file: str | None = None  # the model; None where it could not be converted
    inputs: list[Input] = Field(default_factory=list)
    failed: str | None = None  # why it could not be converted
    name: str | None = None  # what the user calls a network


class Conditions(Frozen):
    """What all models of a bundle have in common, and what their table will say."""

    format: Format
    library: str
    graph_level: str
    compute_unit: str
    dtype: str
    layout: str
    converter: str  # library and version that made the files
    threads: Count
    warmup: Annotated[int, Field(ge=0)]
    runs: Count
    seed: int  # of weights and inputs


class Manifest(Frozen):
    """The bundle. It is written last: where there is none, making the bundle was cut off and can go
    on.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    # Digest of everything else; results repeat it, so that they cannot be taken for another
    # bundle's.
    bundle: Digest
    conditions: Conditions
    items: list[Item]  # the reference first

    @classmethod
    def of(cls, conditions: Conditions, items: list[Item]) -> "Manifest":
        """Put a manifest together."""
        content = [conditions.model_dump(), [item.model_dump() for item in items]]
        return cls(bundle=digest(content), conditions=conditions, items=items)

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read the manifest of the bundle in ``folder``.

        Raises:
            InputError: There is none, or it is not valid, or it was changed after it was written.
        """
        path = folder / MANIFEST
        if folder.is_dir() and not path.exists():
            raise InputError(
                f"{folder}: has no {MANIFEST}: no bundle, or making it was cut off (run latency "
                "bundle again)."
            )
        manifest = parse(documents.read(path), cls)
        whole = cls.of(manifest.conditions, manifest.items)
        if whole.bundle != manifest.bundle:
            raise InputError(
                f"{path}: bundle: must be {whole.bundle} for what it says, but got "
                f"{manifest.bundle}: edited by hand?"
            )
        if not manifest.items or manifest.items[0].key != REFERENCE_KEY:
            raise InputError(f"{path}: items[0]: must be the reference.")
        return manifest

    def workload_of(self, item: Item) -> Workload:
        """Rebuild what an item is.

        Raises:
            InputError: This version of archsearch does not know it.
        """
        try:
            return from_data(item.thing)
        except (ValueError, InputError) as error:
            raise InputError(f"{MANIFEST}: {item.key}: {error}") from error

    @property
    def by_key(self) -> dict[str, Item]:
        """Items by their keys."""
        return {item.key: item for item in self.items}

    def order(self) -> list[str]:
        """Keys in the order of measuring where every run is a program of its own: shuffled, the
        reference between every few.
        """
        keys = [item.key for item in self.items if item.file and item.key != REFERENCE_KEY]
        random.Random(self.conditions.seed).shuffle(keys)
        order = []
        for start in range(0, len(keys), REFERENCE_EVERY):
            order += [REFERENCE_KEY, *keys[start : start + REFERENCE_EVERY]]
        return [*order, REFERENCE_KEY]


def digest(content: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of ``content`` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def key_of(workload: Workload) -> str:
    """Name of a workload in file names: its kind and a digest."""
    data = to_data(workload)
    (sort,) = data
    kind = data["unit"]["kind"] if sort == "unit" else sort
    return f"{kind}-{digest(data)}"


# Writes a workload with weights of a seed into a folder. Returns the model's file name and its
# inputs, relative to the folder.
Converter = Callable[[Workload, int, Path], tuple[str, list[Input]]]


def _to_onnx(workload: Workload, seed: int, folder: Path) -> tuple[str, list[Input]]:
    # Write ``model.onnx``; inputs as ``input_<i>.npy`` and, as ONNX Runtime's own tools want them,
    # ``test_data_set_0/*.pb``.
    import onnx

    module, inputs = build(workload, seed)
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


def _to_coreml(workload: Workload, seed: int, folder: Path) -> tuple[str, list[Input]]:
    # Write ``model.mlpackage`` and its inputs as raw float32 or int32.
    module, inputs = build(workload, seed)
    names = input_names(len(inputs))
    model = convert_coreml(module, inputs, names, ["output"])
    features = {
        feature.name: feature.type.multiArrayType for feature in model.get_spec().description.input
    }
    found = []
    for index, (name, tensor) in enumerate(zip(names, inputs, strict=True)):
        if name not in features:
            continue
        array = tensor.contiguous().numpy()
        if array.dtype == np.int64:
            if features[name].dataType != features[name].INT32:
                raise ArchsearchError(
                    f"{name}: holds whole numbers, but Core ML's input became floating point."
                )
            array = array.astype(np.int32)
        found.append(_raw(name, array, folder, index))
    model.save(str(folder / "model.mlpackage"))
    return "model.mlpackage", found


def to_executorch(workload: Workload, seed: int, folder: Path) -> tuple[str, list[Input]]:
    """Write ``model.pte`` and its inputs as raw values.

    Raises:
        InputError: ExecuTorch is not installed in this Python.
    """
    module, inputs = build(workload, seed)
    program, _ = lower_to_xnnpack(module, inputs)
    program.save(str(folder / "model.pte"))
    names = input_names(len(inputs))
    return "model.pte", [
        _raw(name, tensor.contiguous().numpy(), folder, index)
        for index, (name, tensor) in enumerate(zip(names, inputs, strict=True))
    ]


def _raw(name: str, array: Array, folder: Path, index: int) -> Input:
    little = array.astype(array.dtype.newbyteorder("<"))
    (folder / f"input_{index}.bin").write_bytes(little.tobytes())
    return _input(name, array, f"input_{index}.bin")


def _input(name: str, array: Array, file: str) -> Input:
    return Input.model_validate(
        {"name": name, "shape": list(array.shape), "dtype": array.dtype.name, "file": file}
    )


CONVERTERS: dict[Format, Converter] = {
    "onnx": _to_onnx,
    "coreml": _to_coreml,
    "executorch": to_executorch,
}
# The runtime whose models these are.
RUNTIME_OF: dict[Format, str] = {
    "onnx": "onnxruntime",
    "coreml": "coreml",
    "executorch": "executorch",
}


# The conditions, written before the first model: what a bundle that was cut off goes on with.
PLAN = ".plan.json"
SCRIPTS: dict[Format, list[str]] = {
    "onnx": ["run_onnx.py", "run_onnx_android.sh"],
    "executorch": ["run_executorch_android.sh"],
    "coreml": ["bench_coreml.swift"],
}
Progress = Callable[[int, int], None]  # called with what is done and the total


def conditions_of(
    format: Format,
    threads: int,
    warmup: int,
    runs: int,
    seed: int,
    found: RuntimeFacts | None = None,
) -> Conditions:
    """What a bundle says of itself: facts of the runtime whose format it is, ``found`` where
    another Python has it.

    Raises:
        InputError: The library that converts is not installed.
    """
    found = found or facts(get_runtime(RUNTIME_OF[format]))
    return Conditions(
        format=format,
        library=found.library,
        graph_level=found.graph_level,
        compute_unit=found.compute_unit,
        dtype=found.dtype,
        layout=found.layout,
        converter=f"{found.library} {found.version}",
        threads=threads,
        warmup=warmup,
        runs=runs,
        seed=seed,
    )


def write_bundle(
    workloads: Sequence[tuple[str | None, Workload]],
    conditions: Conditions,
    folder: Path,
    progress: Progress | None = None,
    convert: Converter | None = None,
) -> Manifest:
    """Write a bundle, or go on where making it was cut off: models that are there already are kept.

    Args:
        workloads: What is to be measured, and what the user calls it; each once. The reference
            block comes by itself.
        conditions: How all of it is converted and measured.
        folder: Where to; made if it is not there.
        progress: Told after each model.
        convert: What converts; default: this Python.

    Raises:
        InputError: ``folder`` holds something else, or a bundle made under other conditions.
        ArchsearchError: Nothing could be converted, or a file cannot be written.
    """
    _claim(folder, conditions)
    for left in folder.rglob(".making-*"):  # of a run that was killed; no device is to get it
        shutil.rmtree(left, ignore_errors=True)
    convert = convert or CONVERTERS[conditions.format]
    (folder / MANIFEST).unlink(missing_ok=True)  # it is not whole any more
    wanted: dict[str, tuple[str | None, Workload]] = {REFERENCE_KEY: ("reference", REFERENCE_UNIT)}
    wanted |= {key_of(workload): (name, workload) for name, workload in workloads}
    items = []
    for number, (key, (name, workload)) in enumerate(wanted.items(), start=1):
        item = _made(folder / MODELS / key, workload, conditions.seed, convert)
        items.append(item.model_copy(update={"name": name}))
        if key == REFERENCE_KEY and item.failed:
            raise ArchsearchError(
                f"{folder}: the reference block cannot be converted: {item.failed}"
            )
        if progress:
            progress(number, len(wanted))
    manifest = Manifest.of(conditions, items)
    _write_scripts(manifest, folder)
    dumped = manifest.model_dump(mode="json", by_alias=True, exclude_none=True)
    write_json(folder / MANIFEST, dumped)
    return manifest


def _claim(folder: Path, conditions: Conditions) -> None:
    plan, now = folder / PLAN, conditions.model_dump()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder for the bundle.")
    if plan.exists():
        found = documents.read(plan).data
        if differing := [name for name in now if found.get(name) != now[name]]:
            named = ", ".join(
                f"{name} ({found.get(name)!r} there, {now[name]!r} now)" for name in differing
            )
            raise InputError(
                f"{folder}: holds a bundle made with another {named}; give another folder."
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{folder}: holds something else than a bundle; give an empty or a new folder."
        )
    write_json(plan, now)


def _made(target: Path, workload: Workload, seed: int, convert: Converter) -> Item:
    # Convert a workload into a folder aside, which then takes the place of ``target``, so that half
    # a model is never seen; or take what is there.
    about, at = target / "item.json", f"{MODELS}/{target.name}"
    try:
        return Item.model_validate_json(about.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        shutil.rmtree(target, ignore_errors=True)
    item = Item(key=target.name, thing=to_data(workload))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as aside:
            made = Path(aside) / target.name
            made.mkdir()
            file, inputs = convert(workload, seed, made)
            inputs = [each.model_copy(update={"file": f"{at}/{each.file}"}) for each in inputs]
            item = item.model_copy(update={"file": f"{at}/{file}", "inputs": inputs})
            write_json(made / about.name, item.model_dump(mode="json", exclude_none=True))
            os.replace(made, target)
        return item
    except InputError:
        raise  # the environment lacks something: nothing else will convert either
    except OSError as error:
        raise ArchsearchError(f"{target}: cannot be written: {error.strerror or error}.") from error
    except Exception as error:  # converters raise whatever they like
        reason = " ".join(f"{name_of(workload)}: {error}".split())[:500]
        return item.model_copy(update={"file": None, "inputs": [], "failed": reason})


def _write_scripts(manifest: Manifest, folder: Path) -> None:
    items, order, conditions = manifest.by_key, "", manifest.conditions
    for number, key in enumerate(manifest.order(), start=1):
        inputs = ",".join(each.file for each in items[key].inputs)
        order += f"{number:05d} {key} {items[key].file} {inputs}\n"
    write_text(folder / ORDER, order)
    if conditions.format == "onnx":
        write_text(folder / "stopwatch.py", inspect.getsource(stopwatch))
    values = {
        "@BUNDLE@": manifest.bundle,
        "@MODELS@": str(len(items)),
        "@THREADS@": str(conditions.threads),
        "@WARMUP@": str(conditions.warmup),
        "@RUNS@": str(conditions.runs),
    }
    readme = f"README_{conditions.format}.md"
    for name in (readme, *SCRIPTS[conditions.format]):
        text = (files("archsearch.latency.phone") / "device" / name).read_text(encoding="utf-8")
        for field, value in values.items():
            text = text.replace(field, value)
        target = folder / ("README.md" if name == readme else name)
        write_text(target, text)
        if target.suffix == ".sh":
            target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
