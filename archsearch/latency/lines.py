"""What stands in a latency table beside its entries: reference, correction, whole networks, parts of the pipeline, failures."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, model_serializer, model_validator

from archsearch.latency.entry import TIMES, Milliseconds, Timed, parse_unit
from archsearch.unet.units import Unit, unit_fields

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]

ROUNDING = 1e-3
"""How far a residual may be from what it follows from."""


class Frozen(BaseModel):
    """Model of a part of a table: nothing unknown in it, nothing of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True, use_attribute_docstrings=True)


class Reference(Frozen):
    """The block that was measured before and after everything else."""

    p50: Milliseconds
    drift: Share
    """(p90 - p10) / p50 of its medians over the session. The entries are free of it: they are ratios to the reference."""


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
    """Relative difference of two medians taken at different times, where it was measured twice: the noise of measuring."""
    full: Milliseconds | None = None
    """Median where the runtime optimises the graph as far as it can, across the borders of units."""

    @model_validator(mode="after")
    def _residual_follows(self) -> Self:
        follows = self.predicted / self.measured - 1
        if self.residual is not None and abs(self.residual - follows) > ROUNDING:
            raise ValueError(f"residual must be predicted / measured - 1 = {follows:.4f}, but got {self.residual}")
        return self

    def predicting(self, predicted: float) -> "Whole":
        """The same network with another prediction."""
        return self.model_copy(update={"predicted": round(predicted, 6), "residual": round(predicted / self.measured - 1, 5)})


class PartTime(Timed):
    """A part of the pipeline other than the UNet, measured whole."""

    part: str

    @model_serializer(mode="plain")
    def _name_first(self) -> dict[str, Any]:
        return {"part": self.part} | {name: getattr(self, name) for name in TIMES}


class Failure(BaseModel):
    """A unit that the runtime could not convert or run, and what it said. In files the unit's fields lie flat beside it."""

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
