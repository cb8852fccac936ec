"""How a proxy is trained and scored: everything besides the network, the data and the seed that a score depends on."""

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from archsearch.data.latent import PIXELS

Precision = Literal["auto", "fp32", "bf16"]


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
    warmup: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Share of the budget over which the learning rate rises; it is constant after that."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Largest decay of the weights' moving average; at step n it is at most (1 + n) / (10 + n)."""
    caption_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of captions replaced by the empty one, for guidance."""
    precision: Precision = "auto"
    """auto: bf16 where the processor computes in it, else fp32; resolved once, when a study starts."""
    draws: Annotated[int, Field(ge=16, le=65536)] = 512
    """Fixed (picture, time, noise) triples of the held-out loss."""
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    """Cap on a training's time. A training that it ends says so."""

    def resolved(self, device: torch.device) -> "Recipe":
        """Settle ``precision: auto`` for a device."""
        return self if self.precision != "auto" else self.model_copy(update={"precision": best_precision(device)})


def best_precision(device: torch.device) -> Precision:
    """bf16 where it is native (CUDA from Ampere, CPUs with AMX or AVX512-BF16), else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        capability = torch.backends.cpu.get_cpu_capability() if hasattr(torch.backends.cpu, "get_cpu_capability") else ""
        checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return "bf16" if capability.startswith("AVX512") and any(check and check() for check in checks) else "fp32"
    return "fp32"


def pick_device() -> torch.device:
    """The accelerator torch sees, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
