"""Latency tables: entries, what stands beside them, the file, published figures."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, astuple, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SkipValidation,
    ValidationError,
    model_serializer,
    model_validator,
)

from archsearch.cost.price import price
from archsearch.errors import InputError, nearest
from archsearch.files import write_text
from archsearch.unet import units
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import Plan, plan
from archsearch.unet.units import UNIT_TYPES, Residual, TimeProjection, Unit, unit_fields

Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
TIMES = ("n", "p10", "p50", "p90")

FIELD_TYPES: dict[str, dict[str, type]] = {
    kind: {field.name: get_type_hints(unit, vars(units))[field.name] for field in fields(unit)}
    for kind, unit in UNIT_TYPES.items()
}

OPTIONAL: dict[str, set[str]] = {
    kind: {field.name for field in fields(unit) if field.default is not MISSING}
    for kind, unit in UNIT_TYPES.items()
}
"""Fields that came after the first tables, and mean their default where an entry does not name
them.
"""

MAY_BE_ZERO = {"time_width"}
"""Fields that may be 0 although they have no default."""


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
            allowed = ", ".join((*types_, *TIMES))
            raise ValueError(
                f"{name}: not a field of a {kind} entry; allowed are "
                f"{allowed}.{nearest(name, (*types_, *TIMES))}"
            )
        least = 0 if name in OPTIONAL[kind] | MAY_BE_ZERO else 1
        if type(value) is not types_[name] or (
            isinstance(value, int) and not isinstance(value, bool) and value < least
        ):
            wanted = (
                f"a whole number from {least} on"
                if types_[name] is int
                else f"a {types_[name].__name__}"
            )
            raise ValueError(f"{name}: must be {wanted}, but got {value!r}")
    missing = [name for name in types_ if name not in given and name not in OPTIONAL[kind]]
    if missing:
        raise ValueError(f"{', '.join(missing)}: missing in a {kind} entry")
    unit: Unit = UNIT_TYPES[kind](**given)
    return unit


def describe(unit: Unit) -> str:
    """A unit in one readable word group: ``downsample(channels=64, size=32)``."""
    return (
        f"{unit.kind}({', '.join(f'{k}={v}' for k, v in unit_fields(unit).items() if k != 'kind')})"
    )


class Timed(BaseModel):
    """Measured times in ms: percentiles over ``n`` samples."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    n: Annotated[int, Field(ge=1)]
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


class Entry(Timed):
    """Measured times of one unit. In files the unit's fields lie flat beside them."""

    unit: SkipValidation[Unit]

    @model_validator(mode="before")
    @classmethod
    def _gather_unit(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "unit" in data:
            return data
        times = {name: data[name] for name in TIMES if name in data}
        return times | {
            "unit": parse_unit({name: value for name, value in data.items() if name not in times})
        }

    @model_serializer(mode="plain")
    def _flat(self) -> dict[str, Any]:
        return unit_fields(self.unit) | {name: getattr(self, name) for name in TIMES}


def read_json(path: Path) -> Any:
    """Read a JSON file strictly: no key twice in an object, no NaN, no infinity.

    Raises:
        InputError: It cannot be read, or is no JSON (line and column are named).
    """
    try:
        return json.loads(
            path.read_text(encoding="utf-8"), parse_constant=_refuse, object_pairs_hook=_unique
        )
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: line {error.lineno}, column {error.colno}: not JSON ({error.msg}); cut "
            "short or edited by hand?"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # includes text that is not UTF-8
        raise InputError(f"{path}: {error}") from error


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number that a latency table may hold.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name}: given twice in one object ({found[name]!r} and {value!r}).")
        found[name] = value
    return found


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Say in one line the first thing that is wrong with a ``model``: its path, what was found, and
    the nearest allowed key.
    """
    first = error.errors()[0]
    path = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]
    ).lstrip(".")
    if first["type"] == "extra_forbidden":
        allowed = [
            field.alias or name
            for name, field in _model_at(model, first["loc"][:-1]).model_fields.items()
        ]
        key = str(first["loc"][-1])
        return f"{path}: no such key; allowed are {', '.join(allowed)}.{nearest(key, allowed)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{path}: missing."
    got = "" if first["type"] == "value_error" else f", but got {first['input']!r}"
    return f"{path + ': ' if path else ''}{message}{got}."


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that the keys of ``location`` lead to."""
    for step in location:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if isinstance(step, str) and step in fields:
            annotation = fields[step].annotation
            inner = [
                each
                for each in (annotation, *get_args(annotation))
                if isinstance(each, type) and issubclass(each, BaseModel)
            ]
            model = inner[0] if inner else model
    return model


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]

ROUNDING = 1e-3
"""How far a residual may be from what it follows from."""


class Frozen(BaseModel):
    """Model of a part of a table: nothing unknown in it, nothing of another type."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


class Reference(Frozen):
    """The block that was measured before and after everything else."""

    p50: Milliseconds
    drift: Share
    """(p90 - p10) / p50 of its medians over the session. The entries are free of it: they are
    ratios to the reference.
    """


class Correction(Frozen):
    """What turns a sum of units into the latency of a network: ``scale * sum + offset``."""

    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    offset: Finite = 0.0
    """Milliseconds."""
    fitted_on: list[Digest] = []
    """Digests of the networks it was fitted on; they say nothing about how well it predicts."""

    def apply(self, total: float) -> float:
        """Milliseconds of a network whose units take ``total`` ms together."""
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
        if self.residual is not None and abs(self.residual - follows) > ROUNDING:
            raise ValueError(
                f"residual must be predicted / measured - 1 = {follows:.4f}, but got "
                f"{self.residual}"
            )
        return self

    def predicting(self, predicted: float) -> "Whole":
        """The same network with another prediction."""
        return self.model_copy(
            update={
                "predicted": round(predicted, 6),
                "residual": round(predicted / self.measured - 1, 5),
            }
        )


class PartTime(Timed):
    """A part of the pipeline other than the UNet, measured whole."""

    part: str

    @model_serializer(mode="plain")
    def _name_first(self) -> dict[str, Any]:
        return {"part": self.part} | {name: getattr(self, name) for name in TIMES}


class Failure(BaseModel):
    """A unit that the runtime could not convert or run, and what it said. In files the unit's
    fields lie flat beside it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    unit: SkipValidation[Unit]
    reason: str

    @model_validator(mode="before")
    @classmethod
    def _gather_unit(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "unit" in data:
            return data
        unit = parse_unit({name: value for name, value in data.items() if name != "reason"})
        return {"unit": unit} | ({"reason": data["reason"]} if "reason" in data else {})

    @model_serializer(mode="plain")
    def _flat(self) -> dict[str, Any]:
        return unit_fields(self.unit) | {"reason": self.reason}


@lru_cache(maxsize=65536)
def measured_as(unit: Unit) -> tuple[Unit, ...]:
    """The entries of a table that stand for ``unit``: itself, or a residual block and its
    projection of time apart.
    """
    if isinstance(unit, Residual) and unit.time_width:
        return replace(unit, time_width=0), TimeProjection(unit.time_width, unit.out_channels)
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


SCHEMA_VERSION = 1
SHORT_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
LISTS = ("entries", "failed", "parts", "whole")
"""Keys whose items have a line each in the file."""


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
    """Units that this runtime could not convert or run here: networks that need them cannot be
    predicted.
    """
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
        for field, names in (
            ("parts", [line.part for line in self.parts]),
            ("whole", [line.config for line in self.whole]),
        ):
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
        """Median of a unit in ms, a sum where the table has its parts (see ``measured_as``); None
        where it lacks it.
        """
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
            InputError: The file cannot be read, is no JSON (line and column are named), has another
                schema version, or holds what is not allowed: unknown keys or kinds, times that are
                not positive, two entries for one unit.
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


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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


class PublishedTable(Frozen):
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
        """``<device>.published``, as its file is called."""
        return f"{self.device}.published"

    def latency_ms(self, plan: Plan) -> float:
        """Point of the line for a network of the family.

        Raises:
            InputError: It is of another family; the message says what it would have to be.
        """
        cost = price(plan)
        gmacs = (cost.macs - cost.macs_by_kind.attention) / 1e9
        family, (least, most) = self.family, self.family.gmacs
        outer = plan.stages[0]
        reasons = {
            f"{family.stages} stages": len(plan.stages) == family.stages,
            f"a sample of {family.sample_size}²": plan.input.size == family.sample_size,
            "no transformer blocks in the outermost stage": not any(
                block.transformers for block in (*outer.down, *outer.up)
            ),
            f"{least:g} to {most:g} GMACs of convolutions and linear layers (it has {gmacs:.1f})": least
            <= gmacs
            <= most,
        }
        if broken := [reason for reason, holds in reasons.items() if not holds]:
            raise InputError(
                f"latency table {self.name} has published figures of the {family.name} family "
                f"only: needs {'; '.join(broken)}."
            )
        return self.line.ms_per_gmac * gmacs + self.line.offset_ms

    @classmethod
    def load(cls, path: Path) -> "PublishedTable":
        """Read a published table.

        Raises:
            InputError: It cannot be read, or holds what is not allowed.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            raise InputError(f"{path}: {explain(error, cls)}") from error
