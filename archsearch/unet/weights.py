"""Weights of a network in safetensors files, under our names or diffusers'."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from archsearch import documents
from archsearch.errors import ArchsearchError, InputError
from archsearch.files import check_regular, in_utf8, write_through
from archsearch.unet.config import UNetConfig
from archsearch.unet.diffusers_weights import (
    MARK,
    diffusers_names,
    from_diffusers_state,
    state_shapes,
)

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
FILES = (
    "weights.safetensors",
    "diffusion_pytorch_model.safetensors",
    f"diffusion_pytorch_model{INDEX_SUFFIX}",
    "diffusion_pytorch_model.fp16.safetensors",
)
"""What files of weights beside a ``config.json`` are called: archsearch's, and diffusers'."""
LISTED = 20


def weights_file(folder: Path) -> Path:
    """The file of weights in the folder of a network.

    Raises:
        InputError: There is none.
    """
    found = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if found is None:
        raise InputError(f"{folder}: has no weights; allowed are {', '.join(FILES)}.")
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or the ``*.safetensors.index.json`` of several that lie beside it.

    Raises:
        InputError: It is not one of these, or cannot be read.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return _read_shards(path)
    if path.suffix != SUFFIX:
        raise InputError(
            f"{path}: only safetensors is read (*{SUFFIX} or *{INDEX_SUFFIX}): other files of "
            "weights can hold code."
        )
    try:
        check_regular(path)
        with in_utf8(path) as spelled:
            tensors: dict[str, Tensor] = load_file(spelled)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from error
    return tensors


def _read_shards(index: Path) -> dict[str, Tensor]:
    files = documents.read(index).data.get("weight_map")
    if not isinstance(files, dict) or not files:
        raise InputError(f"{index}: weight_map must map names of tensors to files.")
    for file in files.values():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(SUFFIX):
            raise InputError(
                f"{index}: weight_map names {file!r}; allowed are *{SUFFIX} files beside it."
            )
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(files.values())):
        tensors |= read_weights(index.with_name(file))
    if absent := [name for name in files if name not in tensors]:
        raise InputError(
            f"{index}: weight_map names tensors that its files do not hold: {_listed(absent)}."
        )
    return tensors


def load_weights(config: UNetConfig, path: Path) -> dict[str, Tensor]:
    """Read the weights of ``config``, under our names or diffusers', as float32 under ours.

    Raises:
        InputError: The file cannot be read, or its tensors are not those of the network; the
            message says which.
    """
    state, wanted = read_weights(path), state_shapes(config)
    theirs = MARK in state
    if theirs:
        try:
            names = diffusers_names(config)
        except InputError as error:
            raise InputError(f"{path}: has diffusers' names, but {error}") from error
        wanted = {names[name]: shape for name, shape in wanted.items()}
    if wrong := _differences(state, wanted):
        raise InputError(
            "\n".join([f"{path}: not the weights of network {config.digest}:", *wrong])
        )
    state = from_diffusers_state(config, state) if theirs else state
    return {name: tensor.to(torch.float32) for name, tensor in state.items()}


def _differences(state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> list[str]:
    common = {name: tensor for name, tensor in state.items() if name in wanted}
    kinds = {
        "missing": [name for name in wanted if name not in state],
        "not in the network": [name for name in state if name not in wanted],
        "of another shape": [
            f"{name} {tuple(tensor.shape)}, the network's is {tuple(wanted[name])}"
            for name, tensor in common.items()
            if tensor.shape != wanted[name]
        ],
        "not of a floating-point type": [
            f"{name} {tensor.dtype}"
            for name, tensor in common.items()
            if not tensor.is_floating_point()
        ],
        "not finite": [
            name for name, tensor in common.items() if not bool(tensor.isfinite().all())
        ],
    }
    return [f"{len(found)} {kind}: {_listed(found)}." for kind, found in kinds.items() if found]


def _listed(names: Sequence[str]) -> str:
    more = f"; and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return "; ".join(names[:LISTED]) + more


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as a safetensors file, whole or not at all.

    Raises:
        ArchsearchError: It cannot be written; an existing file is left as it was.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}

    def write(file: Path) -> None:
        try:
            # diffusers reads no file that does not say whose it is.
            save_file(tensors, file, metadata={"format": "pt"})
        except SafetensorError as error:
            raise ArchsearchError(f"{path}: cannot be written: {error}") from error

    write_through(path, write)
