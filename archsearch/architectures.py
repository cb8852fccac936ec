"""ARCH on the command line: a preset's name or a UNetConfig file."""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from archsearch import documents
from archsearch.errors import InputError, nearest
from archsearch.unet.config import UNetConfig
from archsearch.unet.presets import PRESETS, preset


@dataclass(frozen=True)
class Architecture:
    """A configuration and the name it goes by."""

    name: str
    config: UNetConfig


def load_architecture(name: str, near: Path | None = None) -> Architecture:
    """Load a preset by name or a UNetConfig from a .json or .yaml file (relative to ``near``'s folder, or the working one).

    Raises:
        InputError: There is no such preset or file, or the file is not a UNetConfig.
    """
    if name in PRESETS:
        return Architecture(name, preset(name))
    path = Path(name)
    if near and not path.is_absolute() and (near.parent / path).is_file():
        path = near.parent / path
    if path.suffix not in (".json", ".yaml", ".yml") or not path.is_file():
        raise InputError(
            f"'{name}' is neither a preset ({', '.join(sorted(PRESETS))}) nor a .json or .yaml file that exists."
            f"{nearest(name, PRESETS)}"
        )
    return Architecture(path.stem, read_config(path))


def read_config(path: Path) -> UNetConfig:
    """Read a UNetConfig file.

    Raises:
        InputError: Unreadable, or not a UNetConfig; one line for each problem.
    """
    document = documents.read(path)
    if "_class_name" in document.data:
        raise InputError(
            f"{path}: is a diffusers config ({document.data['_class_name']}); this version reads UNetConfig files only."
        )
    if "schema" not in document.data:
        raise InputError(f"{path}: schema: is missing; a UNetConfig file begins with schema: 1.")
    try:
        return UNetConfig.model_validate_json(json.dumps(document.data))
    except ValidationError as error:
        raise InputError("\n".join(documents.explain(document, UNetConfig, error))) from error
