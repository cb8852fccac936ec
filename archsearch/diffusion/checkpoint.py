"""A training on disk: one safetensors file, tensors and a JSON state in its header, so that both are replaced at once."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from archsearch.errors import InputError
from archsearch.files import write_bytes

SCHEMA = "1"


def save_checkpoint(path: Path, identity: dict[str, Any], state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: File to write or replace.
        identity: What must be the same for a training to go on from it, as JSON values.
        state: The rest, as JSON values.
        tensors: Named tensors, on any device.

    Raises:
        ArchsearchError: The file cannot be written.
    """
    metadata = {"schema": SCHEMA, "identity": json.dumps(identity, sort_keys=True), "state": json.dumps(state)}
    write_bytes(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata))


def load_checkpoint(path: Path, identity: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what ``save_checkpoint`` wrote: state and tensors.

    Raises:
        InputError: The file is damaged, or of another training; the message says what differs.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if metadata.get("schema") != SCHEMA:
            raise InputError(f"{path}: is no checkpoint of schema {SCHEMA}, but of {metadata.get('schema')}.")
        kept, state = json.loads(metadata["identity"]), json.loads(metadata["state"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a checkpoint: {error}. Remove it to begin anew.") from error
    differing = [
        f"{name} ({kept.get(name)} there, {identity.get(name)} here)"
        for name in sorted(kept.keys() | identity.keys())
        if kept.get(name) != identity.get(name)
    ]
    if differing:
        raise InputError(f"{path}: is the checkpoint of another training; these differ: {'; '.join(differing)}.")
    return state, tensors
