"""How a proxy is trained and scored: everything besides the network, the data and the seed that a score depends on."""

from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from archsearch.data.latent import PIXELS
from archsearch.diffusion.device import Precision, best_precision
from archsearch.diffusion.schedule import Prediction, Times


class Recipe(BaseModel):
    """A training recipe. The budget is samples seen; seconds only cap it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    latent: str = PIXELS.name
    """What is diffused: pixels, unshuffle (each square of 2 × 2 pixels in the channels of one position), or the latents of an
    AutoencoderKL or AutoencoderTiny of diffusers, by folder or id."""
    init: Literal["scratch"] = "scratch"
    """What the training starts from."""
    samples: Annotated[int, Field(ge=1)] = 6000
    """Pictures seen, with repetition."""
    batch: Annotated[int, Field(ge=1, le=4096)] = 16
    """Pictures a step."""
    accumulate: Annotated[int, Field(ge=1, le=4096)] = 1
    """Parts in which a batch is computed, for what does not fit into memory at once; the gradient is that of the whole batch."""
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
    """How the times of a batch are drawn: spread over the schedule from one offset (Kingma et al. 2021), or each by itself."""
    min_snr: Annotated[float, Field(gt=0)] | None = None
    """Weight the training loss by min(SNR, this) (Hang et al. 2023 use 5); none leaves every time its own weight. Under v the times
    of nearly pure noise, where sampling begins, then count little or, the very last, nothing."""
    caption_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of captions replaced by the empty one, for guidance."""
    precision: Precision = "auto"
    """auto: bf16 where the processor computes in it, fp16 on older GPUs, else fp32; resolved once, when a study starts."""
    compile: bool = False
    """Whether torch compiles the network first: minutes that pay where the same network is trained for long."""
    channels_last: bool | Literal["auto"] = "auto"
    """Layout of pictures in memory; auto: channels last on CPU and CUDA."""
    draws: Annotated[int, Field(ge=16, le=65536)] = 512
    """Fixed (picture, time, noise) triples of the held-out loss."""
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    """Cap on a training's time. A training that it ends says so."""

    @model_validator(mode="after")
    def _parts_have_pictures(self) -> Self:
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate ({self.accumulate}) is more than the pictures of a batch ({self.batch})")
        return self

    @property
    def steps(self) -> int:
        """Steps of the budget."""
        return self.steps_for(self.samples)

    def steps_for(self, samples: int) -> int:
        """Steps that see at least so many pictures."""
        return max(1, -(-samples // self.batch))

    def resolved(self, device: torch.device) -> "Recipe":
        """Settle ``precision: auto`` for a device."""
        return self if self.precision != "auto" else self.model_copy(update={"precision": best_precision(device)})
