"""A UNetConfig as a file to read, keep and edit: canonical JSON or YAML, from which the same network is rebuilt."""

import json
from pathlib import Path
from typing import Literal

import yaml

from archsearch.export.target import check_target
from archsearch.files import write_text
from archsearch.unet.config import UNetConfig


def export_config(
    config: UNetConfig, path: Path, format: Literal["json", "yaml"], name: str | None = None, force: bool = False
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
    write_text(path, to_json(config) if format == "json" else to_yaml(config, name))


def to_json(config: UNetConfig) -> str:
    """Canonical form as indented JSON."""
    return json.dumps(config.to_dict(), indent=1) + "\n"


def to_yaml(config: UNetConfig, name: str | None = None) -> str:
    """Canonical form as YAML, headed by name and digest."""
    called = f"{' '.join(name.split())}: " if name else ""
    head = f"# {called}UNet architecture {config.digest}, defaults left out.\n"
    return head + yaml.safe_dump(config.to_dict(), sort_keys=False, default_flow_style=None, width=120)
