"""Latency tables: the entries of units, what stands beside them, the file, published figures."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, astuple, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SkipValidation,
    model_serializer,
    model_validator,
)

from archsearch import documents
from archsearch.cost.price import price
from archsearch.errors import InputError, nearest
from archsearch.files import write_text
from archsearch.unet import units
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import Plan, plan
from archsearch.unet.units import UNIT_TYPES, Residual, TimeProjection, Unit, unit_fields

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Milliseconds = Positive
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
TIMES = ("n", "p10", "p50", "p90")

FIELD_TYPES: dict[str, dict[str, type]] = {
    kind: {field.name: get_type_hints(unit, vars(units))[field.name] for field in fields(unit)}
    for kind, unit in UNIT_TYPES.items()
}
# Fields that came after the first tables, and mean their default where an entry does not name them.
OPTIONAL: dict[str, set[str]] = {
    kind: {field.name for field in fields(unit) if field.default is not MISSING}
    for kind, unit in UNIT_TYPES.items()
}
MAY_BE_ZERO = {"time_width"}  # fields that may be 0 although they have no default


def parse_unit(data: dict[str, Any]) -> Unit:
    """Rebuild a unit from its kind and fields, as ``unit_fields`` gives them.

    Raises:
        ValueError: The kind or a field is unknown or missing, or a value is of another type.
    """
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in UNIT_TYPES:
        raise ValueError(
            f"kind: {kind!r} is not a kind of unit; allowed are "
            f"{', '.join(UNIT_TYPES)}.{nearest(str(kind), UNIT_TYPES)}"
        )
    types_ = FIELD_TYPES[kind]
    given = {name: value for name, value in data.items() if name != "kind"}
    for name, value in given.items():
        if name not in types_:
            allowed = (*types_, *TIMES)
            raise ValueError(
                f"{name}: not a field of a {kind} entry; allowed are "
                f"{', '.join(allowed)}.{nearest(name, allowed)}"
            )
        least = 0 if name in OPTIONAL[kind] | MAY_BE_ZERO else 1
        if type(value) is not types_[name] or (type(value) is int and value < least):
            number = f"whole number from {least} on"
            wanted = number if types_[name] is int else types_[name].__name__
            raise ValueError(f"{name}: must be a {wanted}, but got {value!r}")
    if missing := types_.keys() - given.keys() - OPTIONAL[kind]:
        named = ", ".join(name for name in types_ if name in missing)
        raise ValueError(f"{named}: missing in a {kind} entry")
    unit: Unit = UNIT_TYPES[kind](**given)
    return unit


def describe(unit: Unit) -> str:
    """A unit in one readable word group: ``downsample(channels=64, size=32)``."""
    given = [f"{name}={value}" for name, value in unit_fields(unit).items() if name != "kind"]
    return f"{unit.kind}({', '.join(given)})"


class Frozen(BaseModel):
    """Model of a part of a file: nothing unknown in it, nothing of another type."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


FrozenT = TypeVar("FrozenT", bound=Frozen)


class FromFile(Frozen):
    """What goes by the name of the file it was read from."""

    _file: str | None = PrivateAttr(default=None)

    def of_file(self, path: Path) -> Self:
        """The same, called as the file ``path``."""
        self._file = path.stem
        return self


def parse(document: documents.Document, model: type[FrozenT]) -> FrozenT:
    """Validate a file of the first, and so far only, version of its format.

    Raises:
        InputError: It is of another version, or of none; or one line for each thing that is wrong.
    """
    if (found := document.data.get("schema")) != 1:
        raise InputError(f"{document.path}: schema: must be 1, but got {found!r}.")
    return documents.validate(document, model)


class OfUnit(Frozen):
    """What is said of one unit. In files the unit's fields lie flat beside it."""

    unit: SkipValidation[Unit]

    @model_validator(mode="before")
    @classmethod
    def _gather_unit(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "unit" in data:
            return data
        beside = {name: data[name] for name in cls.model_fields if name in data}
        return beside | {"unit": parse_unit({k: v for k, v in data.items() if k not in beside})}

    @model_serializer(mode="plain")
    def _flat(self) -> dict[str, Any]:
        beside = {name: getattr(self, name) for name in type(self).model_fields if name != "unit"}
        return unit_fields(self.unit) | beside


class Timed(Frozen):
    """Measured times in ms: percentiles over ``n`` samples."""

    n: Count
    p10: Milliseconds
    p50: Milliseconds
    p90: Milliseconds

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.p10 <= self.p50 <= self.p90:
            raise ValueError(
                f"percentiles must not fall, but got p10={self.p10}, p50={self.p50}, p90={self.p90}"
            )
        return self


class Entry(OfUnit, Timed):
    """Measured times of one unit. In files the unit's fields lie flat beside them."""


class Failure(OfUnit):
    """A unit that the runtime could not convert or run, and what it said. In files the unit's
    fields lie flat beside it.
    """

    reason: str


class PartTime(Timed):
    """A part of the pipeline other than the UNet, measured whole."""

    part: str

    @model_serializer(mode="plain")
    def _name_first(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("part", *TIMES)}


Clock = Literal["wall", "processor"]


class Reference(Frozen):
    """The block that was measured before and after everything else."""

    p50: Milliseconds
    drift: Share
    """(p90 - p10) / p50 of its medians over the session. The entries are free of it: they are
    ratios to the reference.
    """
    busy: Share = 1.0
    """Processor time as a share of the wall clock's while it was measured, the median: well below 1
    on a machine with other work, or where the runtime waits. 1 where times are the wall clock's.
    """


Total = TypeVar("Total", float, NDArray[np.float64])


class Correction(Frozen):
    """What turns a sum of units into the latency of a network: ``scale * sum + offset``."""

    scale: Positive = 1.0
    offset: Finite = 0.0
    """Milliseconds."""
    fitted_on: list[Digest] = []
    """Digests of the networks it was fitted on; they say nothing about how well it predicts."""

    def apply(self, total: Total) -> Total:
        """Milliseconds of a network whose units take ``total`` ms together, or of many."""
        return self.scale * total + self.offset


class Whole(Frozen):
    """A whole network, measured and predicted with the table it lies in, in milliseconds."""

    config: Digest
    name: str | None = None
    measured: Milliseconds
    """Median of all samples."""
    predicted: Milliseconds
    residual: Finite | None = None
    """predicted / measured - 1."""
    n: Count | None = None
    p10: Milliseconds | None = None
    p90: Milliseconds | None = None
    repeat: Share | None = None
    """Relative difference of two medians taken at different times, where it was measured twice: the
    noise of measuring.
    """
    full: Milliseconds | None = None
    """Median where the runtime optimises the graph as far as it can, across the borders of units.
    """

    @model_validator(mode="after")
    def _residual_follows(self) -> Self:
        follows = self.predicted / self.measured - 1
        if self.residual is not None and abs(self.residual - follows) > 1e-3:  # it was rounded
            raise ValueError(
                f"residual must be predicted / measured - 1 = {follows:.4f}, but got "
                f"{self.residual}"
            )
        return self

    def predicting(self, predicted: float) -> "Whole":
        """The same network with another prediction."""
        residual = round(predicted / self.measured - 1, 5)
        return self.model_copy(update={"predicted": round(predicted, 6), "residual": residual})


@lru_cache(maxsize=65536)
def measured_as(unit: Unit) -> tuple[Unit, ...]:
    """The entries of a table that stand for ``unit``: itself, or, for a residual block, the block
    without its projection of time and that projection.
    """
    if isinstance(unit, Residual) and unit.time_width:
        return replace(unit, time_width=0), TimeProjection(unit.time_width, unit.inner_channels)
    return (unit,)


def sort_key(unit: Unit) -> tuple[object, ...]:
    """Order of units in tables: by kind as in ``UNIT_TYPES``, then by their fields."""
    return (list(UNIT_TYPES).index(unit.kind), *astuple(unit))


def keys_of(configs: Iterable[UNetConfig | Plan]) -> list[Unit]:
    """Return the different entries that ``configs`` need, sorted. One pass: ``configs`` may be a
    generator over a whole space.
    """
    found: set[Unit] = set()
    for config in configs:
        resolved = config if isinstance(config, Plan) else plan(config)
        found.update(unit for unit, _ in resolved.tally())
    return sorted({part for unit in found for part in measured_as(unit)}, key=sort_key)


class Header(Frozen):
    """Where and how a table was measured. Tables are comparable, and measuring goes on, only where
    all of this agrees.
    """

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
    clock: Clock = "wall"
    """Whose time the milliseconds are: the wall clock's, or the processor's, which the other work
    of a busy machine does not change.
    """


class Times(dict[Unit, float | None]):
    """Medians in ms by unit, put together when first asked for; None where the table lacks it."""

    def __init__(self, entries: Mapping[Unit, Entry]) -> None:
        super().__init__()
        self._entries = entries

    def __missing__(self, unit: Unit) -> float | None:
        entries = self._entries
        found = [entries.get(part) for part in ((unit,) if unit in entries else measured_as(unit))]
        known = [entry.p50 for entry in found if entry]
        self[unit] = sum(known) if len(known) == len(found) else None
        return self[unit]


SHORT_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
LISTS = ("entries", "failed", "parts", "whole")  # keys whose items have a line each in the file


class LatencyTable(Header, FromFile):
    """Times of units in milliseconds at batch 1; look-up by unit takes constant time."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    cooling: str
    unit: Literal["ms"] = "ms"
    reference: Reference
    entries: list[Entry]
    failed: list[Failure] = Field(default_factory=list)
    """Units that this runtime could not convert or run here: networks that need them cannot be
    predicted.
    """
    correction: Correction = Correction()
    parts: list[PartTime] = Field(default_factory=list)
    """What the pipeline takes beside the UNet."""
    whole: list[Whole] = Field(default_factory=list)

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        seen: set[Unit] = set()
        for index, entry in enumerate(self.entries):
            if entry.unit in seen:
                raise ValueError(f"entries[{index}]: a second entry for {describe(entry.unit)}")
            seen.add(entry.unit)
        for index, failure in enumerate(self.failed):
            if failure.unit in seen:
                raise ValueError(f"failed[{index}]: there is an entry for {describe(failure.unit)}")
        parts, whole = [each.part for each in self.parts], [each.config for each in self.whole]
        for field, names in (("parts", parts), ("whole", whole)):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{field}: {twice[0]} twice")
        return self

    @cached_property
    def by_unit(self) -> Mapping[Unit, Entry]:
        """Entries by unit."""
        return {entry.unit: entry for entry in self.entries}

    @cached_property
    def times(self) -> Times:
        """Medians in ms by unit, a sum where the table has its parts (see ``measured_as``); None
        where it lacks one.
        """
        return Times(self.by_unit)

    def lacks(self, units: Iterable[Unit]) -> list[Unit]:
        """The entries, each once, that are missing for ``units``."""
        absent = (part for unit in units if self.times[unit] is None for part in measured_as(unit))
        return list(dict.fromkeys(part for part in absent if part not in self.by_unit))

    @property
    def name(self) -> str:
        """As the file that ``load_table`` read it from is called; else
        ``<device>-<runtime>-<dtype>``.
        """
        dtype = SHORT_DTYPES.get(self.dtype, self.dtype)
        return self._file or f"{self.device}-{self.runtime.split()[0]}-{dtype}"

    def replace(self, **changes: Any) -> "LatencyTable":
        """Return a table with some fields changed, validated again."""
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        return LatencyTable.model_validate(kept | changes)

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """Read a measured table.

        Raises:
            InputError: The file cannot be read, is no JSON (the line is named), has another schema
                version, or holds what is not allowed: unknown keys or kinds, times that are not
                positive, two entries for one unit.
        """
        return parse(documents.read(path), cls)

    def to_text(self) -> str:
        """Canonical JSON: header first, then one entry, failure, part and whole network a line."""
        dumped = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        order = ["schema", *(name for name in dumped if name not in ("schema", *LISTS)), *LISTS]
        texts = []
        for name in order:
            text = _json(dumped[name])
            if name in LISTS and dumped[name]:
                text = "[\n" + ",\n".join(f"  {_json(item)}" for item in dumped[name]) + "\n ]"
            texts.append(f" {_json(name)}: {text}")
        return "{\n" + ",\n".join(texts) + "\n}\n"

    def save(self, path: Path) -> None:
        """Write the table atomically.

        Raises:
            ArchsearchError: The file cannot be written.
        """
        write_text(path, self.to_text())


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


class PublishedNetwork(Frozen):
    """A network and its published latency."""

    name: str
    gmacs: Positive
    """As published: convolutions and linear layers."""
    measured: Milliseconds


class PublishedPart(Frozen):
    """A part of the pipeline and its published latency."""

    part: str
    p50: Milliseconds
    """As published; which percentile, or whether a mean, is not said."""


class Line(Frozen):
    """Milliseconds by GMACs of convolutions and linear layers."""

    ms_per_gmac: Positive
    offset_ms: Finite


class Family(Frozen):
    """The networks that the line may be used for."""

    name: str
    sample_size: Count
    stages: Count
    gmacs: tuple[Positive, Positive] = Field(strict=False)
    """Least and most GMACs of convolutions and linear layers."""


class PublishedTable(FromFile):
    """Published figures of one device."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    provenance: Literal["published"]
    device: str
    soc: str
    os: str
    runtime: str
    unit: Literal["ms"] = "ms"
    source: str
    note: str = ""
    whole: list[PublishedNetwork] = Field(min_length=2)
    line: Line
    family: Family
    parts: list[PublishedPart] = Field(default_factory=list)

    @model_validator(mode="after")
    def _line_goes_through(self) -> Self:
        for network in self.whole:
            there = self.line.ms_per_gmac * network.gmacs + self.line.offset_ms
            if abs(there / network.measured - 1) > 0.01:
                raise ValueError(
                    f"line: gives {network.name} {there:.1f} ms, but {network.measured} ms were "
                    "published"
                )
        return self

    @property
    def name(self) -> str:
        """As the file that ``load_table`` read it from is called; else ``<device>.published``."""
        return self._file or f"{self.device}.published"

    def latency_ms(self, plan: Plan) -> float:
        """Point of the line for a network of the family.

        Raises:
            InputError: It is of another family; the message says what it would have to be.
        """
        cost = price(plan)
        gmacs = (cost.macs - cost.macs_by_kind.attention) / 1e9
        family, (least, most), outer = self.family, self.family.gmacs, plan.stages[0]
        has_blocks = any(block.transformers for block in (*outer.down, *outer.up))
        needs = [
            (f"{family.stages} stages", len(plan.stages) == family.stages),
            (f"a sample of {family.sample_size}²", plan.input.size == family.sample_size),
            ("no transformer blocks in the outermost stage", not has_blocks),
            (
                f"{least:g} to {most:g} GMACs of convolutions and linear layers (it has "
                f"{gmacs:.1f})",
                least <= gmacs <= most,
            ),
        ]
        if broken := [need for need, holds in needs if not holds]:
            raise InputError(
                f"latency table {self.name} has published figures of the {family.name} family "
                f"only: needs {'; '.join(broken)}."
            )
        return self.line.ms_per_gmac * gmacs + self.line.offset_ms
