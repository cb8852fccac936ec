"""A published latency table: whole networks that others measured, and the line through them.

It has no entries, so nothing it says of another network is more than an estimate, and of a network of another family it says
nothing: the line through MobileDiffusion's two networks gives Stable Diffusion 1.5 a third of what that takes on the same phone.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from archsearch.cost.price import price
from archsearch.errors import InputError
from archsearch.latency.document import explain, read_json
from archsearch.latency.entry import Milliseconds
from archsearch.latency.lines import Count, Finite, Frozen
from archsearch.unet.plan import Plan

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
                raise ValueError(f"line: gives {network.name} {there:.1f} ms, but {network.measured} ms were published")
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
            "no transformer blocks in the outermost stage": not any(block.transformers for block in (*outer.down, *outer.up)),
            f"{least:g} to {most:g} GMACs of convolutions and linear layers (it has {gmacs:.1f})": least <= gmacs <= most,
        }
        if broken := [reason for reason, holds in reasons.items() if not holds]:
            raise InputError(
                f"latency table {self.name} has published figures of the {family.name} family only: needs {'; '.join(broken)}."
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
