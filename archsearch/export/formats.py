"""Architectures and networks as files: a function a format, and ``export`` that finds it by name
and writes a card beside.

Nothing is overwritten unasked, and nothing is left half written: every format is written aside and
then takes its place.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import yaml

from archsearch.catalog import Architecture
from archsearch.diffusion.trained import Conditions
from archsearch.errors import InputError, check_known
from archsearch.export.card import CARD, STAGES, About, beside, write_card
from archsearch.export.coreai import export_unet_coreai
from archsearch.export.coreml import export_unet_coreml
from archsearch.export.executorch import export_unet_executorch
from archsearch.export.onnx import Pictures, export_unet_onnx, export_unet_onnx_int8
from archsearch.export.pipeline import export_pipeline
from archsearch.export.writing import (
    COREAI_SUFFIX,
    COREML_SUFFIX,
    Exported,
    build,
    check_target,
    written_aside,
)
from archsearch.files import write_json, write_text
from archsearch.runtimes.coreml import TARGETS
from archsearch.unet.config import UNetConfig
from archsearch.unet.diffusers import to_diffusers
from archsearch.unet.diffusers_weights import to_diffusers_state
from archsearch.unet.weights import save_weights

# What diffusers calls its files.
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


def export_config(
    config: UNetConfig,
    path: Path,
    format: Literal["json", "yaml"],
    name: str | None = None,
    force: bool = False,
) -> Exported:
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
    exported = Exported(
        {"holds": "the whole architecture at deployment scale, no weights"},
        f"import archsearch\n\nnetwork = archsearch.build(archsearch.arch({path.name!r}))\n",
    )
    if format == "json":
        write_text(path, json.dumps(data, indent=1) + "\n")
        return exported
    called = f"{' '.join(name.split())}: " if name else ""
    head = f"# {called}UNet architecture {config.digest}, defaults left out.\n"
    body = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120)
    write_text(path, head + body)
    return exported


def export_unet_diffusers(
    config: UNetConfig, path: Path, weights: Path | None = None, force: bool = False
) -> Exported:
    """Write the network as ``config.json`` and float32 ``diffusion_pytorch_model.safetensors``.

    Args:
        config: The architecture.
        path: Folder to write.
        weights: A safetensors file of its state dict, under our names or diffusers'; None for
            random weights.
        force: Overwrite what is there; a folder only if it holds nothing else than these two
            files and a card.

    Raises:
        InputError: diffusers' UNet cannot express ``config``, ``path`` is there and ``force`` is
            not given or it holds something else, or ``weights`` do not fit.
        ArchsearchError: It cannot be written.
    """
    check_target(path, force, (CONFIG, WEIGHTS, CARD, STAGES))
    data = to_diffusers(config)
    state = to_diffusers_state(config, build(config, weights).state_dict())
    with written_aside(path) as folder:
        save_weights(state, folder / path.name / WEIGHTS)
        write_json(folder / path.name / CONFIG, data)
    name = data["_class_name"]
    return Exported(
        {"holds": f"the settings of diffusers' `{name}`, and its weights in float32"},
        f"from diffusers import {name}\n\nnetwork = {name}.from_pretrained({path.name!r})\n",
    )


@dataclass(frozen=True, slots=True)
class Exporter:
    """A format.

    Attributes:
        title: What a card calls it.
        suffixes: That its files may have; none: it is a folder.
        write: What writes it, called with config, path, ``force`` and what is in ``takes``.
        takes: Which of ``weights``, ``name``, ``pictures``, ``python``, ``conditions`` and ``ios``
            it wants to know, see :func:`export`.
    """

    title: str
    suffixes: tuple[str, ...]
    write: Callable[..., Exported]
    takes: tuple[str, ...] = ("weights",)

    @property
    def has_weights(self) -> bool:
        """Whether it holds weights."""
        return "weights" in self.takes

    @property
    def suffix(self) -> str:
        """The one that its files usually have."""
        return self.suffixes[0] if self.suffixes else ""


_JSON = partial(export_config, format="json")
_YAML = partial(export_config, format="yaml")
_INT8 = partial(export_unet_coreml, compression="int8")
_PIPELINE_INT8 = partial(export_pipeline, int8=True)
_PALETTES = partial(export_unet_coreml, compression="palettised")
_PACKAGE, _IOS = (COREML_SUFFIX,), ("weights", "ios")
EXPORTERS: dict[str, Exporter] = {
    "json": Exporter("its architecture as JSON", (".json",), _JSON, ("name",)),
    "yaml": Exporter("its architecture as YAML", (".yaml", ".yml"), _YAML, ("name",)),
    "diffusers": Exporter("as diffusers loads it", (), export_unet_diffusers),
    "onnx": Exporter("as ONNX in float32", (".onnx",), export_unet_onnx),
    "onnx-int8": Exporter(
        "as ONNX in int8", (".onnx",), export_unet_onnx_int8, ("weights", "pictures")
    ),
    "coreml": Exporter("for Core ML in float16", _PACKAGE, export_unet_coreml, _IOS),
    "coreml-int8": Exporter("for Core ML with weights in int8", _PACKAGE, _INT8, _IOS),
    "coreml-palettised": Exporter(
        "for Core ML with weights in palettes", _PACKAGE, _PALETTES, _IOS
    ),
    "coreai": Exporter("for Core AI in float16", (COREAI_SUFFIX,), export_unet_coreai),
    "executorch": Exporter(
        "for ExecuTorch in float32", (".pte",), export_unet_executorch, ("weights", "python")
    ),
    "pipeline": Exporter(
        "with all that draws a picture from a prompt, as ONNX in float32",
        (),
        export_pipeline,
        ("weights", "conditions"),
    ),
    "pipeline-int8": Exporter(
        "with all that draws a picture from a prompt, as ONNX, the UNet in int8",
        (),
        _PIPELINE_INT8,
        ("weights", "conditions", "pictures"),
    ),
}


def export(
    config: UNetConfig,
    format: str,
    path: Path,
    weights: Path | None = None,
    force: bool = False,
    name: str | None = None,
    about: About | None = None,
    pictures: Pictures | None = None,
    python: Path | None = None,
    conditions: Conditions | None = None,
    ios: int | None = None,
) -> Path:
    """Write ``config`` to ``path``, and a card beside it: ``<file>.card.md``, or ``card.md`` in it
    where it is a folder.

    Args:
        config: The architecture.
        format: A key of ``EXPORTERS``.
        path: File or folder to write.
        weights: A safetensors file of the network's state dict; None for random weights in formats
            that hold some.
        force: Overwrite what is there.
        name: What the architecture is called; by default by its digest.
        about: What the card is to say of the network beside its architecture.
        pictures: What trained weights are calibrated on, for formats in int8.
        python: A Python with the packages of formats that want an environment of their own.
        conditions: What the network was trained under, for a pipeline.
        ios: The first iOS that is to run it, for formats of Core ML: 17, by default, or 18.

    Returns:
        The card.

    Raises:
        InputError: There is no such format, ``path`` has another format's suffix, weights are given
            to one that holds none, or an iOS to one that is not Core ML's, ``path`` is there and
            ``force`` is not given, ``weights`` do not fit, or an extra is not installed.
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
    if ios is not None and "ios" not in exporter.takes:
        of = ", ".join(key for key, other in EXPORTERS.items() if "ios" in other.takes)
        raise InputError(f"--ios: {ios} is given, but only {of} take it, not {format}.")
    places = beside(path, folder=not exporter.suffixes)
    if exporter.suffixes:
        for place in places:
            check_target(place, force)
    known: dict[str, object] = {
        "weights": weights,
        "name": name,
        "pictures": pictures,
        "python": python,
        "conditions": conditions,
        "ios": TARGETS[0] if ios is None else ios,
    }
    exported = exporter.write(
        config, path, force=force, **{key: known[key] for key in exporter.takes}
    )
    found = Architecture(name or config.digest, config)
    random = exporter.has_weights and weights is None
    write_card(found, exporter.title, path, places, exported, about or About(), random)
    return places[0]
