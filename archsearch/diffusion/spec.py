"""What a study says of training (its recipe) and of drawing pictures, and what a training leaves,
without anything that computes: a study is read without torch.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from archsearch.data.spec import BUILT_IN_LATENTS

CHECKPOINT = "checkpoint.safetensors"
"""The file that a training goes on from."""
DIVERGED = "diverged"
"""Outcome of a training whose loss is no number any more."""

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Prediction = Literal["v", "epsilon"]
Times = Literal["even", "independent"]


class Recipe(BaseModel):
    """A training recipe. The budget is samples seen; seconds only cap it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    latent: str = BUILT_IN_LATENTS[0]
    """What is diffused: pixels, unshuffle (each square of 2 × 2 pixels in the channels of one
    position), or the latents of an AutoencoderKL or AutoencoderTiny of diffusers, by folder or id.
    """
    init: Literal["scratch", "parent"] = "scratch"
    """What the training starts from: random weights, or what an edit of a trained parent leaves."""
    parent: str | None = None
    """With ``init: parent``: one that comes with archsearch, by name, the file that ``archsearch
    parent train`` wrote, or the folder of a trained network, also of diffusers.
    """
    distill: Annotated[float, Field(ge=0, le=1)] = 0.0
    """With ``init: parent``: share of the loss that is the distance to the parent's prediction; the
    rest is the distance to the truth."""
    samples: Annotated[int, Field(ge=0)] = 6000
    """Pictures seen, with repetition. 0, with ``init: parent``, scores what is inherited as it is.
    """
    batch: Annotated[int, Field(ge=1, le=4096)] = 16
    """Pictures a step."""
    accumulate: Annotated[int, Field(ge=1, le=4096)] = 1
    """Parts in which a batch is computed, for what does not fit into memory at once; the gradient
    is that of the whole batch.
    """
    warmup: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Share of the budget over which the learning rate rises; it is constant after that."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Largest decay of the weights' moving average; at step n it is at most (1 + n) / (10 + n)."""
    prediction: Prediction = "v"
    """What the network predicts: v, or the noise (epsilon)."""
    times: Times = "even"
    """How the times of a batch are drawn: spread over the schedule from one offset (Kingma et al.
    2021), or each by itself.
    """
    min_snr: Annotated[float, Field(gt=0)] | None = None
    """Weight the training loss by min(SNR, this) (Hang et al. 2023 use 5); none leaves every time
    its own weight. Under v the times of nearly pure noise, where sampling begins, then count little
    or, the very last, nothing."""
    caption_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of captions replaced by the empty one, for guidance."""
    precision: Precision = "auto"
    """auto: bf16 where the processor computes in it, fp16 on older GPUs, else fp32; resolved once,
    when a study starts.
    """
    compile: bool = False
    """Whether torch compiles the network first: minutes that pay where the same network is trained
    for long.
    """
    channels_last: bool | Literal["auto"] = "auto"
    """Layout of pictures in memory; auto: channels last on CPU and CUDA."""
    draws: Annotated[int, Field(ge=16, le=65536)] = 512
    """Fixed (picture, time, noise) triples of the held-out loss."""
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    """Cap on a training's time. A training that it ends says so."""

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Self:
        if self.accumulate > self.batch:
            raise ValueError(
                f"accumulate ({self.accumulate}) is more than the pictures of a batch "
                f"({self.batch})"
            )
        if self.init == "parent" and self.parent is None:
            raise ValueError("parent is missing: init: parent needs the parent to start from")
        for name in ("parent", "distill"):
            if self.init == "scratch" and getattr(self, name):
                raise ValueError(f"{name} belongs to init: parent, but init is scratch")
        if self.samples == 0 and self.init == "scratch":
            raise ValueError("samples is 0, but from scratch there is nothing to score untrained")
        return self

    def of_key(self) -> dict[str, Any]:
        """What a score depends on, as JSON values: without the keys of parents where none is."""
        left_out = {"parent", "distill"} if self.init == "scratch" else {"parent"}
        return self.model_dump(mode="json", exclude=left_out)

    def steps_for(self, samples: int) -> int:
        """Steps that see at least so many pictures."""
        return -(-samples // self.batch)


Steps = Annotated[int, Field(ge=1, le=1000)]


def _form(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "int"


class Sampling(BaseModel):
    """How pictures are drawn."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    steps: Annotated[
        Annotated[Steps, Tag("int")]
        | Annotated[tuple[Steps, ...], Tag("list"), Field(min_length=1)],
        Discriminator(_form),
    ] = 20
    """DDIM steps, each two forward passes under guidance. A list is searched: every trial takes one
    of its numbers.
    """
    guidance: float = Field(default=3.0, ge=1, le=30)
    """Classifier-free guidance; 1 is none, and saves the second pass."""

    @field_validator("steps")
    @classmethod
    def _different(cls, steps: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(steps, tuple) and len(set(steps)) < len(steps):
            raise ValueError(f"must differ, but got {list(steps)}")
        return steps

    @property
    def searched(self) -> tuple[int, ...]:
        """The numbers of steps that a trial may take, where they are searched; else empty."""
        return self.steps if isinstance(self.steps, tuple) else ()

    def at(self, steps: int | None) -> "Sampling":
        """The same with the number of steps a trial has chosen; None where there is nothing to
        choose.
        """
        return self if steps is None else self.model_copy(update={"steps": steps})
