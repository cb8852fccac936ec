"""One line of a latency table: a unit and how long it takes."""

from dataclasses import MISSING, fields
from typing import Annotated, Any, Self, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, model_serializer, model_validator

from archsearch.errors import nearest
from archsearch.unet import units
from archsearch.unet.units import UNIT_TYPES, Unit, unit_fields

Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
TIMES = ("n", "p10", "p50", "p90")

FIELD_TYPES: dict[str, dict[str, type]] = {
    kind: {field.name: get_type_hints(unit, vars(units))[field.name] for field in fields(unit)} for kind, unit in UNIT_TYPES.items()
}

OPTIONAL: dict[str, set[str]] = {
    kind: {field.name for field in fields(unit) if field.default is not MISSING} for kind, unit in UNIT_TYPES.items()
}
"""Fields that came after the first tables, and mean their default where an entry does not name them."""

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
            f"kind: {kind!r} is not a kind of unit; allowed are {', '.join(UNIT_TYPES)}.{nearest(str(kind), UNIT_TYPES)}"
        )
    types_ = FIELD_TYPES[kind]
    given = {name: value for name, value in data.items() if name != "kind"}
    for name, value in given.items():
        if name not in types_:
            allowed = ", ".join((*types_, *TIMES))
            raise ValueError(f"{name}: not a field of a {kind} entry; allowed are {allowed}.{nearest(name, (*types_, *TIMES))}")
        least = 0 if name in OPTIONAL[kind] | MAY_BE_ZERO else 1
        if type(value) is not types_[name] or (isinstance(value, int) and not isinstance(value, bool) and value < least):
            wanted = f"a whole number from {least} on" if types_[name] is int else f"a {types_[name].__name__}"
            raise ValueError(f"{name}: must be {wanted}, but got {value!r}")
    missing = [name for name in types_ if name not in given and name not in OPTIONAL[kind]]
    if missing:
        raise ValueError(f"{', '.join(missing)}: missing in a {kind} entry")
    unit: Unit = UNIT_TYPES[kind](**given)
    return unit


def describe(unit: Unit) -> str:
    """A unit in one readable word group: ``downsample(channels=64, size=32)``."""
    return f"{unit.kind}({', '.join(f'{k}={v}' for k, v in unit_fields(unit).items() if k != 'kind')})"


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
            raise ValueError(f"percentiles must not fall, but got p10={self.p10}, p50={self.p50}, p90={self.p90}")
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
        return times | {"unit": parse_unit({name: value for name, value in data.items() if name not in times})}

    @model_serializer(mode="plain")
    def _flat(self) -> dict[str, Any]:
        return unit_fields(self.unit) | {name: getattr(self, name) for name in TIMES}
