"""Architectures and networks as files: a function a format, and ``export`` that finds it by name.

Nothing is overwritten unasked, and nothing is left half written: every format is written aside and
then takes its place.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
import yaml

from archsearch.errors import ArchsearchError, InputError, check_known
from archsearch.files import write_json, write_text
from archsearch.runtimes.coreml import convert_coreml
from archsearch.runtimes.onnx import export_onnx, open_session
from archsearch.unet.config import UNetConfig
from archsearch.unet.diffusers import to_diffusers
from archsearch.unet.diffusers_weights import to_diffusers_state
from archsearch.unet.model import UNet, example_inputs, input_names
from archsearch.unet.weights import load_weights, save_weights

# The one kind of folder that is an export by its name and may be replaced.
PACKAGE_SUFFIX = ".mlpackage"
# What diffusers calls its files.
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
OUTPUT = "prediction"
TOLERANCE = 1e-3
# An ONNX file holds no more than 2 GiB; weights from here on go into ``<file>.data`` beside it.
ONE_FILE_BYTES = 2_000_000_000


def check_target(path: Path, force: bool, files: Collection[str] = ()) -> None:
    """Refuse to overwrite.

    Args:
        path: What is to be written.
        force: Overwrite what is there.
        files: Where the export is a folder, the names of the files in it: a folder that holds
            anything else is nobody's export.

    Raises:
        InputError: ``path`` is there and ``force`` is not given, or it is a folder that no export
            has written.
    """
    if path.is_dir() and files:
        if others := sorted({item.name for item in path.iterdir()} - set(files)):
            raise InputError(
                f"{path}: is a folder that holds {others[0]}; only a folder of "
                f"{' and '.join(files)} is replaced."
            )
    elif path.is_dir() and path.suffix != PACKAGE_SUFFIX:
        raise InputError(f"{path}: is a folder; give the path of the file to write.")
    if os.path.lexists(path) and not force:
        raise InputError(
            f"{path}: is there already; give another path, or --force to overwrite it."
        )


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a folder beside ``path`` to write in; what is called as ``path`` in it, and all else in
    it, then takes its place.

    Raises:
        ArchsearchError: The folder of ``path`` cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(
            dir=path.parent, prefix=f".{path.name}.", ignore_cleanup_errors=True
        ) as name:
            folder = Path(name)
            yield folder
            # What the main file refers to goes first, so that it never points to nothing.
            for new in sorted(folder.iterdir(), key=lambda item: item.name == path.name):
                old = path.with_name(new.name)
                if os.path.lexists(old) and (new.is_dir() or old.is_dir()):
                    # No rename replaces a folder: it is moved aside first.
                    os.replace(old, folder / f".old.{old.name}")
                os.replace(new, old)
    except OSError as error:
        raise ArchsearchError(f"{path}: cannot be written: {error.strerror or error}.") from error


def build(config: UNetConfig, weights: Path | None, seed: int = 0) -> UNet:
    """Build the network in evaluation mode.

    Args:
        config: The architecture.
        weights: A safetensors file of its state dict, under our names or diffusers'; None for
            random weights.
        seed: Of random weights; torch's own random state is left alone.

    Raises:
        InputError: The file cannot be read, or its tensors are not those of the network; the
            message says which.
    """
    if weights is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return UNet(config).eval()
    given = load_weights(config, weights)
    with torch.device("meta"):  # no memory, no random numbers: every tensor is given
        network = UNet(config).eval()
    network.load_state_dict(given, assign=True)
    return network


def export_config(
    config: UNetConfig,
    path: Path,
    format: Literal["json", "yaml"],
    name: str | None = None,
    force: bool = False,
) -> None:
    """Write ``config``, defaults left out.

    Args:
        config: The architecture.
        path: File to write.
        format: JSON, or YAML headed by a comment.
        name: What the comment calls the architecture; JSON has no comments and leaves it out.
        force: Overwrite what is there.

    Raises:
        InputError: ``path`` is there and ``force`` is not given.
        ArchsearchError: It cannot be written.
    """
    check_target(path, force)
    data = config.to_dict()
    if format == "json":
        return write_text(path, json.dumps(data, indent=1) + "\n")
    called = f"{' '.join(name.split())}: " if name else ""
    head = f"# {called}UNet architecture {config.digest}, defaults left out.\n"
    body = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120)
    return write_text(path, head + body)


def export_unet_onnx(
    config: UNetConfig, path: Path, weights: Path | None = None, force: bool = False
) -> None:
    """Write the network as float32 ONNX for any batch: inputs ``sample``, ``timesteps``,
    ``context``; output ``prediction``.

    A network without cross-attention has no ``context`` input, one with an added embedding also
    ``text_embeds`` and ``time_ids``, one that takes the guidance weight ``guidance``. The canonical
    config lies in the metadata under ``archsearch.config``.

    Args:
        config: The architecture.
        path: File to write.
        weights: A safetensors file of its state dict; None for random weights.
        force: Overwrite what is there.

    Raises:
        InputError: ``path`` is there and ``force`` is not given, or ``weights`` do not fit.
        ArchsearchError: It cannot be written, or ONNX Runtime computes something else from it than
            torch.
    """
    check_target(path, force)
    # Two pictures: where one is traced, the exporter takes it for the only size there is.
    network, inputs = build(config, weights), example_inputs(config, batch=2)
    size = sum(each.numel() * each.element_size() for each in network.parameters())
    data = f"{path.name}.data" if size >= ONE_FILE_BYTES else None
    if data:
        check_target(path.with_name(data), force)
    with written_aside(path) as folder:
        _write_onnx(network, inputs, folder / path.name, data)
        session = open_session(folder / path.name)
        given = dict(zip(input_names(config), inputs, strict=True))
        (got,) = session.run(
            [OUTPUT], {node.name: given[node.name].numpy() for node in session.get_inputs()}
        )
        with torch.inference_mode():
            wanted = network(*inputs).numpy()
        error = float(np.abs(got - wanted).max() / np.abs(wanted).max())
        if not error <= TOLERANCE:
            raise ArchsearchError(
                f"{path}: ONNX Runtime's output differs from torch's by {error:.1e}, allowed "
                f"are {TOLERANCE:.0e}."
            )


def _write_onnx(
    network: UNet, inputs: tuple[torch.Tensor, ...], path: Path, data: str | None
) -> None:
    # Saved again with metadata and, where ``data`` names it, a file of weights.
    import onnx

    with TemporaryDirectory(dir=path.parent) as parts:
        exported = Path(parts) / path.name
        names = input_names(network.config)
        export_onnx(network, inputs, exported, names, [OUTPUT], any_batch=True)
        model = onnx.load(str(exported))
    model.producer_name = "archsearch"
    model.producer_version = ""
    onnx.helper.set_model_props(model, {"archsearch.config": network.config.to_json()})
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=data is not None,
        all_tensors_to_one_file=True,
        location=data,
    )


def export_unet_coreml(
    config: UNetConfig, path: Path, weights: Path | None = None, force: bool = False
) -> None:
    """Write the network as a float16 ML program for iOS 17 on, at batch 1, inputs and output named
    as in ONNX.

    The canonical config lies in the user-defined metadata under ``archsearch.config``. Outputs are
    not checked: only macOS can.

    Args:
        config: The architecture.
        path: Folder to write, ``*.mlpackage``.
        weights: A safetensors file of its state dict; None for random weights.
        force: Overwrite what is there.

    Raises:
        InputError: coremltools is not installed, the suffix is another, ``path`` is there and
            ``force`` is not given, or ``weights`` do not fit.
        ArchsearchError: It cannot be written.
    """
    if path.suffix != PACKAGE_SUFFIX:
        raise InputError(f"{path}: a Core ML package must be called *{PACKAGE_SUFFIX}.")
    check_target(path, force)
    with written_aside(path) as folder:
        inputs = example_inputs(config)
        model = convert_coreml(build(config, weights), inputs, input_names(config), [OUTPUT])
        model.user_defined_metadata["archsearch.config"] = config.to_json()
        model.save(str(folder / path.name))


def export_unet_diffusers(
    config: UNetConfig, path: Path, weights: Path | None = None, force: bool = False
) -> None:
    """Write the network as ``config.json`` and float32 ``diffusion_pytorch_model.safetensors``.

    Args:
        config: The architecture.
        path: Folder to write.
        weights: A safetensors file of its state dict, under our names or diffusers'; None for
            random weights.
        force: Overwrite what is there; a folder only if it holds nothing else than these two files.

    Raises:
        InputError: diffusers' UNet cannot express ``config``, ``path`` is there and ``force`` is
            not given or it holds something else, or ``weights`` do not fit.
        ArchsearchError: It cannot be written.
    """
    check_target(path, force, (CONFIG, WEIGHTS))
    data = to_diffusers(config)
    state = to_diffusers_state(config, build(config, weights).state_dict())
    with written_aside(path) as folder:
        save_weights(state, folder / path.name / WEIGHTS)
        write_json(folder / path.name / CONFIG, data)


@dataclass(frozen=True, slots=True)
class Exporter:
    """A format: the suffixes its files may have (none: a folder), whether it holds weights, and
    what writes it.
    """

    suffixes: tuple[str, ...]
    has_weights: bool
    # Called with config and path, ``force``, and ``weights`` where it has some, else ``name``.
    write: Callable[..., None]

    @property
    def suffix(self) -> str:
        """The one that its files usually have."""
        return self.suffixes[0] if self.suffixes else ""


EXPORTERS: dict[str, Exporter] = {
    "json": Exporter((".json",), False, partial(export_config, format="json")),
    "yaml": Exporter((".yaml", ".yml"), False, partial(export_config, format="yaml")),
    "diffusers": Exporter((), True, export_unet_diffusers),
    "onnx": Exporter((".onnx",), True, export_unet_onnx),
    "coreml": Exporter((PACKAGE_SUFFIX,), True, export_unet_coreml),
}


def export(
    config: UNetConfig,
    format: str,
    path: Path,
    weights: Path | None = None,
    force: bool = False,
    name: str | None = None,
) -> None:
    """Write ``config`` to ``path``.

    Args:
        config: The architecture.
        format: A key of ``EXPORTERS``.
        path: File or folder to write.
        weights: A safetensors file of the network's state dict; None for random weights in formats
            that hold some.
        force: Overwrite what is there.
        name: What the architecture is called, for formats that can say so.

    Raises:
        InputError: There is no such format, ``path`` has another format's suffix, weights are given
            to one that holds none, ``path`` is there and ``force`` is not given, ``weights`` do not
            fit, or an extra is not installed.
        ArchsearchError: It cannot be written.
    """
    check_known(format, EXPORTERS, f"'{format}' is not an export format")
    exporter = EXPORTERS[format]
    if weights is not None and not exporter.has_weights:
        holding = ", ".join(key for key, other in EXPORTERS.items() if other.has_weights)
        raise InputError(
            f"{weights}: format {format} holds no weights; those that do are {holding}."
        )
    if exporter.suffixes and path.suffix not in exporter.suffixes and not path.is_dir():
        raise InputError(
            f"{path}: a file of format {format} must be called *{' or *'.join(exporter.suffixes)}."
        )
    if exporter.has_weights:
        return exporter.write(config, path, force=force, weights=weights)
    return exporter.write(config, path, force=force, name=name)
