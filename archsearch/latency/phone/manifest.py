"""``manifest.json`` of a bundle: which file is which unit, network or part, what it is fed with, and how to measure it."""

import hashlib
import json
import random
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from archsearch.errors import InputError
from archsearch.latency.document import explain, read_json
from archsearch.latency.lines import Count, Digest, Frozen
from archsearch.latency.things import Thing, from_data, to_data

SCHEMA_VERSION = 1
MANIFEST, ORDER, MODELS, RESULTS = "manifest.json", "order.txt", "models", "results"
REFERENCE_KEY = "reference"
REFERENCE_EVERY = 3
"""Things between two runs of the reference, where a tool measures one file after another."""

Format = Literal["onnx", "coreml", "executorch"]


class Input(Frozen):
    """An input of a model and the file with its values: ``.npy`` (ONNX), else raw little-endian values (``.bin``)."""

    name: str
    shape: list[Count]
    dtype: Literal["float32", "int64", "int32"]
    file: str


class Item(Frozen):
    """A model of the bundle. Paths are relative to the bundle, with forward slashes."""

    key: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    thing: dict[str, Any]
    """What ``things.to_data`` says of it; ``archsearch.latency.things.from_data`` rebuilds it."""
    file: str | None = None
    """The model; None where it could not be converted."""
    inputs: list[Input] = Field(default_factory=list)
    failed: str | None = None
    """Why it could not be converted."""
    name: str | None = None
    """What the user calls a network."""


class Conditions(Frozen):
    """What all models of a bundle have in common, and what their table will say."""

    format: Format
    library: str
    graph_level: str
    compute_unit: str
    dtype: str
    layout: str
    converter: str
    """Library and version that made the files."""
    threads: Count
    warmup: Annotated[int, Field(ge=0)]
    runs: Count
    seed: int
    """Of weights and inputs."""


class Manifest(Frozen):
    """The bundle. It is written last: where there is none, making the bundle was cut off and can go on."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    bundle: Digest
    """Digest of everything else; results repeat it, so that they cannot be taken for another bundle's."""
    conditions: Conditions
    items: list[Item]
    """The reference first."""

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
            raise InputError(f"{folder}: has no {MANIFEST}: no bundle, or making it was cut off (run latency bundle again).")
        data = read_json(path)
        if not isinstance(data, dict) or data.get("schema") != SCHEMA_VERSION:
            found = repr(data.get("schema")) if isinstance(data, dict) else "none"
            raise InputError(f"{path}: schema: must be {SCHEMA_VERSION}, but got {found}.")
        try:
            manifest = cls.model_validate(data)
        except ValidationError as error:
            raise InputError(f"{path}: {explain(error, cls)}") from error
        whole = cls.of(manifest.conditions, manifest.items)
        if whole.bundle != manifest.bundle:
            raise InputError(f"{path}: bundle: must be {whole.bundle} for what it says, but got {manifest.bundle}: edited by hand?")
        if not manifest.items or manifest.items[0].key != REFERENCE_KEY:
            raise InputError(f"{path}: items[0]: must be the reference.")
        return manifest

    def thing_of(self, item: Item) -> Thing:
        """Rebuild what an item is.

        Raises:
            InputError: This version of archsearch does not know it.
        """
        try:
            return from_data(item.thing)
        except ValueError as error:
            raise InputError(f"{MANIFEST}: {item.key}: {error}") from error

    @property
    def by_key(self) -> dict[str, Item]:
        """Items by their keys."""
        return {item.key: item for item in self.items}

    def order(self) -> list[str]:
        """Keys in the order of measuring where every run is a program of its own: shuffled, the reference between every few."""
        keys = [item.key for item in self.items if item.file and item.key != REFERENCE_KEY]
        random.Random(self.conditions.seed).shuffle(keys)
        groups = [keys[start : start + REFERENCE_EVERY] for start in range(0, len(keys), REFERENCE_EVERY)]
        return [key for group in groups for key in (REFERENCE_KEY, *group)] + [REFERENCE_KEY]


def digest(content: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of ``content`` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def key_of(thing: Thing) -> str:
    """Name of a thing in file names: its kind and a digest."""
    data = to_data(thing)
    (sort,) = data
    kind = data["unit"]["kind"] if sort == "unit" else sort
    return f"{kind}-{digest(data)}"
