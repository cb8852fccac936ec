"""Latency tables: what every unit of a space was measured to take on one device, with one runtime.

Files are ``latency_tables/<device>-<runtime>-<dtype>.json``: a header, then one entry a line.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from archsearch.errors import InputError
from archsearch.files import write_text
from archsearch.latency.document import explain, read_json
from archsearch.latency.entry import Entry, describe
from archsearch.latency.keys import measured_as
from archsearch.latency.lines import Correction, Count, Failure, Frozen, PartTime, Reference, Whole
from archsearch.unet.units import Unit

SCHEMA_VERSION = 1
SHORT_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
LISTS = ("entries", "failed", "parts", "whole")
"""Keys whose items have a line each in the file."""


class Header(Frozen):
    """Where and how a table was measured. Tables are comparable, and measuring goes on, only where all of this agrees."""

    device: Annotated[str, Field(pattern=r"^[\w.+-]+$")]
    """As scores and files are called after it: letters, digits, ``.``, ``+``, ``-`` and ``_``."""
    soc: Annotated[str, Field(min_length=1)]
    os: Annotated[str, Field(min_length=1)]
    runtime: Annotated[str, Field(pattern=r"^\S+ \S")]
    """Name and version."""
    graph_level: str
    compute_unit: str
    dtype: str
    threads: Count
    layout: str = "nchw"
    """How feature maps lie in memory, or that the runtime chooses."""
    warmup: Annotated[int, Field(ge=0)]
    runs: Count


class Times(dict[Unit, float | None]):
    """Medians in ms by unit, None where the table lacks it."""

    def __init__(self, entries: Mapping[Unit, Entry]) -> None:
        super().__init__()
        self._entries = entries

    def __missing__(self, unit: Unit) -> float | None:
        entries = self._entries
        found = [entries.get(part) for part in ((unit,) if unit in entries else measured_as(unit))]
        known = [entry.p50 for entry in found if entry]
        self[unit] = sum(known) if len(known) == len(found) else None
        return self[unit]


class LatencyTable(Header):
    """Times of units in milliseconds at batch 1; look-up by unit takes constant time."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    cooling: str
    unit: Literal["ms"] = "ms"
    reference: Reference
    entries: list[Entry]
    failed: list[Failure] = Field(default_factory=list)
    """Units that this runtime could not convert or run here: networks that need them cannot be predicted."""
    correction: Correction = Correction()
    parts: list[PartTime] = Field(default_factory=list)
    """What the pipeline takes beside the UNet."""
    whole: list[Whole] = Field(default_factory=list)

    _by_unit: dict[Unit, Entry] = PrivateAttr(default_factory=dict)
    _times: "Times" = PrivateAttr()

    @model_validator(mode="after")
    def _index(self) -> Self:
        by_unit: dict[Unit, Entry] = {}
        for index, entry in enumerate(self.entries):
            if entry.unit in by_unit:
                raise ValueError(f"entries[{index}]: a second entry for {describe(entry.unit)}")
            by_unit[entry.unit] = entry
        for index, failure in enumerate(self.failed):
            if failure.unit in by_unit:
                raise ValueError(f"failed[{index}]: there is an entry for {describe(failure.unit)}")
        for field, names in (("parts", [line.part for line in self.parts]), ("whole", [line.config for line in self.whole])):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{field}: {twice[0]} twice")
        self._by_unit, self._times = by_unit, Times(by_unit)
        return self

    @property
    def by_unit(self) -> Mapping[Unit, Entry]:
        """Entries by unit."""
        return self._by_unit

    @property
    def times(self) -> "Times":
        """Medians by unit, for looking up many: each is put together once."""
        return self._times

    def ms_of(self, unit: Unit) -> float | None:
        """Median of a unit in ms, a sum where the table has its parts (see ``measured_as``); None where it lacks it."""
        return self._times[unit]

    def lacks(self, units: Iterable[Unit]) -> list[Unit]:
        """The entries, each once, that are missing for ``units``."""
        absent = (part for unit in units if self.ms_of(unit) is None for part in measured_as(unit))
        return list(dict.fromkeys(part for part in absent if part not in self._by_unit))

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
        data = read_json(path)
        if not isinstance(data, dict) or data.get("schema") != SCHEMA_VERSION:
            found = repr(data.get("schema")) if isinstance(data, dict) else "none"
            raise InputError(f"{path}: schema: must be {SCHEMA_VERSION}, but got {found}.")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InputError(f"{path}: {explain(error, cls)}") from error

    def to_text(self) -> str:
        """Canonical JSON: header first, then one entry, failure, part and whole network a line."""
        dumped = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        order = ["schema", *(name for name in dumped if name not in ("schema", *LISTS)), *LISTS]
        lines = [f" {json.dumps(name)}: {_value(dumped[name], name in LISTS)}" for name in order]
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
