"""The ``deployment`` section of a study: on which devices the candidate will run, and in which pipeline."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Tag, field_validator, model_validator

from archsearch.errors import nearest
from archsearch.latency.parts import PARTS, Role
from archsearch.latency.predict import OnMissing
from archsearch.study.strict import Positive, Strict

DEFAULT_STEPS = 8


class Pipeline(Strict):
    """How the deployed network is used: text encoder, then the UNet as often as there are steps, then the decoder."""

    steps: Positive = DEFAULT_STEPS
    """Steps a picture takes. Left out where ``sampling.steps`` is searched: there every trial has its own."""
    text_encoder: str | None = None
    """Part that encodes the prompt, by name. It counts once also under guidance: the empty prompt's encoding never changes and
    is kept with the weights.
    """
    decoder: str | None = None
    """Part that makes the picture from the latent, by name."""
    guidance: Literal["none", "plain"] = "none"
    """plain: classifier-free guidance by two passes a step, with the prompt and without. none: one pass, as distilled networks
    take.
    """

    @property
    def passes_a_step(self) -> int:
        """Passes of the UNet in one step."""
        return 2 if self.guidance == "plain" else 1

    @property
    def parts(self) -> dict[Role, str]:
        """Names of the parts beside the UNet, by role; none where they are not given."""
        if self.text_encoder is None or self.decoder is None:
            return {}
        return {"text_encoder": self.text_encoder, "decoder": self.decoder}

    @field_validator("text_encoder")
    @classmethod
    def _encodes(cls, name: str | None) -> str | None:
        return _known_part(name, "text_encoder")

    @field_validator("decoder")
    @classmethod
    def _decodes(cls, name: str | None) -> str | None:
        return _known_part(name, "decoder")

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.text_encoder is None) != (self.decoder is None):
            absent = "decoder" if self.decoder is None else "text_encoder"
            raise ValueError(f"{absent} is missing: text_encoder and decoder go together, pipeline_ms needs both")
        return self


def _known_part(name: str | None, role: Role) -> str | None:
    known = [part for part, spec in PARTS.items() if spec.role == role]
    if name is not None and name not in known:
        raise ValueError(f"'{name}' is not a known {role}.{nearest(name, known)} Allowed are: {', '.join(known)}")
    return name


def _form(value: Any) -> str:
    return "dict[str,str]" if isinstance(value, dict) else "list"


Tables = Annotated[Annotated[tuple[str, ...], Tag("list")] | Annotated[dict[str, str], Tag("dict[str,str]")], Discriminator(_form)]


class Deployment(Strict):
    """Where the candidate will run."""

    tables: Tables = ()
    """Latency tables, by name or path: a list, or a mapping from the name of a device to its table. With more than one,
    ``latency_ms`` is the slowest device's.
    """
    reference: str | None = None
    """Architecture (a preset, or a file) that ``latency_ratio`` compares with, device by device."""
    on_missing: OnMissing = "error"
    """What to do about units that a table lacks: refuse the study, or estimate them and mark every figure that rests on them."""
    pipeline: Pipeline | None = None

    @property
    def named_tables(self) -> list[tuple[str | None, str]]:
        """The device each table must be of, where it is named, and the table."""
        if isinstance(self.tables, dict):
            return list(self.tables.items())
        return [(None, name) for name in self.tables]
