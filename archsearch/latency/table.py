"""Latency tables: what every unit of a space was measured to take on one device, with one runtime.

Files are ``latency_tables/<device>-<runtime>-<dtype>.json``: a header, then one entry a line.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from archsearch.errors import InputError, nearest
from archsearch.files import write_text
from archsearch.latency.entry import Entry, Milliseconds, describe
from archsearch.unet.units import Unit

SCHEMA_VERSION = 1
SHORT_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True, use_attribute_docstrings=True)


class Reference(_Frozen):
    """The block that was measured before and after everything else."""

    p50: Milliseconds
    drift: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """(p90 - p10) / p50 of its medians over the session. The entries are free of it: they are ratios to the reference."""


class Correction(_Frozen):
    """What turns a sum of units into the latency of a network: ``scale * sum + offset``."""

    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    offset: Finite = 0.0
    """Milliseconds."""
    fitted_on: list[Digest] = []
    """Digests of the networks it was fitted on; they say nothing about how well it predicts."""


class Whole(_Frozen):
    """A whole network, measured and predicted with the table it lies in, in milliseconds."""

    config: Digest
    name: str | None = None
    measured: Milliseconds
    predicted: Milliseconds


class Header(_Frozen):
    """Where and how a table was measured. Tables are comparable, and measuring goes on, only where all of this agrees."""

    device: str
    soc: str
    os: str
    runtime: Annotated[str, Field(pattern=r"^\S+ \S")]
    """Name and version."""
    graph_level: str
    compute_unit: str
    dtype: str
    threads: Count
    warmup: Annotated[int, Field(ge=0)]
    runs: Count


class LatencyTable(Header):
    """Times of units in milliseconds at batch 1; look-up by unit takes constant time."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    cooling: str
    unit: Literal["ms"] = "ms"
    reference: Reference
    entries: list[Entry]
    correction: Correction = Correction()
    whole: list[Whole] = []

    _by_unit: dict[Unit, Entry] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _index(self) -> Self:
        by_unit: dict[Unit, Entry] = {}
        for index, entry in enumerate(self.entries):
            if entry.unit in by_unit:
                raise ValueError(f"entries[{index}]: a second entry for {describe(entry.unit)}")
            by_unit[entry.unit] = entry
        self._by_unit = by_unit
        return self

    @property
    def by_unit(self) -> Mapping[Unit, Entry]:
        """Entries by unit."""
        return self._by_unit

    @property
    def name(self) -> str:
        """``<device>-<runtime>-<dtype>``, as its file is called."""
        return f"{self.device}-{self.runtime.split()[0]}-{SHORT_DTYPES.get(self.dtype, self.dtype)}"

    def replace(self, **changes: Any) -> "LatencyTable":
        """Return a table with some fields changed, validated again."""
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        return LatencyTable.model_validate(kept | changes)

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """Read a table.

        Raises:
            InputError: The file cannot be read, is no JSON (line and column are named), has another schema version, or holds
                what is not allowed: unknown keys or kinds, times that are not positive, two entries for one unit.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}: line {error.lineno}, column {error.colno}: not JSON ({error.msg}); cut short or edited by hand?"
            ) from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
        except ValueError as error:  # includes text that is not UTF-8
            raise InputError(f"{path}: {error}") from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA_VERSION:
            found = repr(data.get("schema")) if isinstance(data, dict) else "none"
            raise InputError(f"{path}: schema: must be {SCHEMA_VERSION}, but got {found}.")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InputError(f"{path}: {explain(error)}") from error

    def to_text(self) -> str:
        """Canonical JSON: header first, then one entry and one whole network a line."""
        dumped = self.model_dump(mode="json", by_alias=True)
        order = ["schema", *(name for name in dumped if name not in ("schema", "entries", "whole")), "entries", "whole"]
        lines = [f" {json.dumps(name)}: {_value(dumped[name], name in ('entries', 'whole'))}" for name in order]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def save(self, path: Path) -> None:
        """Write the table atomically.

        Raises:
            ArchsearchError: The file cannot be written.
        """
        write_text(path, self.to_text())


def _value(value: Any, a_line_each: bool) -> str:
    if a_line_each and value:
        return "[\n" + ",\n".join(f"  {_value(item, False)}" for item in value) + "\n ]"
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number that a latency table may hold.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name}: given twice in one object ({found[name]!r} and {value!r}).")
        found[name] = value
    return found


def explain(error: ValidationError) -> str:
    """Say in one line the first thing that is wrong: its path, what was found, and the nearest allowed key."""
    first = error.errors()[0]
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]).lstrip(".")
    if first["type"] == "extra_forbidden":
        allowed = [field.alias or name for name, field in _model_at(first["loc"]).model_fields.items()]
        key = str(first["loc"][-1])
        return f"{path}: no such key; allowed are {', '.join(allowed)}.{nearest(key, allowed)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{path}: missing."
    got = "" if first["type"] == "value_error" else f", but got {first['input']!r}"
    return f"{path + ': ' if path else ''}{message}{got}."


def _model_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    models: dict[int | str, type[BaseModel]] = {"reference": Reference, "correction": Correction, "whole": Whole, "entries": Entry}
    return models.get(location[0], LatencyTable) if len(location) > 1 else LatencyTable
