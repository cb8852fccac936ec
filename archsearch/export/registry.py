"""Export formats by name. A new one is a file beside this and a line here; the contract test then covers it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from archsearch.errors import InputError, nearest
from archsearch.export.coreml import export_unet_coreml
from archsearch.export.diffusers import export_unet_diffusers
from archsearch.export.files import export_config
from archsearch.export.onnx import export_unet_onnx
from archsearch.unet.config import UNetConfig

Write = Callable[[UNetConfig, Path, Path | None, bool, str | None], None]


@dataclass(frozen=True, slots=True)
class Exporter:
    """A format: the suffix its files usually have (none: a folder), whether it holds weights, and what writes it."""

    suffix: str
    has_weights: bool
    write: Write
    """Called with config, path, weights, force and name."""


EXPORTERS: dict[str, Exporter] = {
    "json": Exporter(".json", False, lambda config, path, _, force, name: export_config(config, path, "json", name, force)),
    "yaml": Exporter(".yaml", False, lambda config, path, _, force, name: export_config(config, path, "yaml", name, force)),
    "diffusers": Exporter("", True, lambda config, path, weights, force, _: export_unet_diffusers(config, path, weights, force)),
    "onnx": Exporter(".onnx", True, lambda config, path, weights, force, _: export_unet_onnx(config, path, weights, force)),
    "coreml": Exporter(
        ".mlpackage", True, lambda config, path, weights, force, _: export_unet_coreml(config, path, weights, force)
    ),
}


def export(
    config: UNetConfig, format: str, path: Path, weights: Path | None = None, force: bool = False, name: str | None = None
) -> None:
    """Write ``config`` to ``path``.

    Args:
        config: The architecture.
        format: A key of ``EXPORTERS``.
        path: File or folder to write.
        weights: A safetensors file of the network's state dict; None for random weights in formats that hold some.
        force: Overwrite what is there.
        name: What the architecture is called, for formats that can say so.

    Raises:
        InputError: There is no such format, it holds no weights though some are given, ``path`` is there and ``force`` is not
            given, ``weights`` do not fit, or an extra is not installed.
        ArchsearchError: It cannot be written.
    """
    if format not in EXPORTERS:
        raise InputError(f"'{format}' is not an export format; allowed are {', '.join(EXPORTERS)}.{nearest(format, EXPORTERS)}")
    exporter = EXPORTERS[format]
    if weights is not None and not exporter.has_weights:
        holding = ", ".join(key for key, other in EXPORTERS.items() if other.has_weights)
        raise InputError(f"{weights}: format {format} holds no weights; those that do are {holding}.")
    exporter.write(config, path, weights, force, name)
