"""The parts of a text-to-image pipeline beside the UNet: text encoders and image decoders, from their published configurations.

They are measured whole: a pipeline takes text encoder + steps × UNet + decoder. Weights are random, so nothing is fetched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from archsearch.errors import InputError, nearest
from archsearch.latency.part_modules import clip_text, kl_decoder, tiny_decoder

Role = Literal["text_encoder", "decoder"]
Shape = tuple[int, ...]

CLIP_TOKENS = 49406
"""Tokens of CLIP's vocabulary that are words; the two after them begin and end a text."""


@dataclass(frozen=True, slots=True)
class PartSpec:
    """What a part is, how it is made, and what it is fed with."""

    role: Role
    module: Callable[[], nn.Module]
    """Builds it, without values for its weights where the current device is ``meta``."""
    input: Shape
    """Token ids of a text encoder, the latent of a decoder; batch 1."""
    params: int
    """Parameters, counted (a test counts them again)."""
    about: str


PARTS: dict[str, PartSpec] = {
    "clip-vit-l-14-text": PartSpec(
        "text_encoder", clip_text, (1, 77), 123_060_480, "CLIP ViT-L/14's text model, Stable Diffusion 1's: 77 tokens of 768"
    ),
    "sd-vae-decoder": PartSpec(
        "decoder",
        kl_decoder,
        (1, 4, 64, 64),
        49_490_199,
        "Stable Diffusion 1's decoder with post_quant_conv: 64² latent, 512² picture",
    ),
    "taesd-decoder": PartSpec(
        "decoder", tiny_decoder, (1, 4, 64, 64), 1_222_531, "TAESD, the tiny decoder of the same latents: 64² latent, 512² picture"
    ),
}
"""Parts by name."""


@dataclass(frozen=True, slots=True)
class Part:
    """A text encoder or decoder that is measured whole, with random weights.

    Raises:
        ValueError: ``name`` is none of ``PARTS``.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in PARTS:
            raise ValueError(f"part: {self.name!r} is unknown; allowed are {', '.join(PARTS)}.{nearest(str(self.name), PARTS)}")

    @property
    def role(self) -> Role:
        """Where in the pipeline it stands."""
        return PARTS[self.name].role

    def build(self, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """Build it with random weights; torch's own random state is left alone.

        Returns:
            The module in evaluation mode, and what its ``forward`` takes: int64 token ids (1, 77) give (1, 77, 768), a float32
            latent (1, 4, 64, 64) gives a picture (1, 3, 512, 512).

        Raises:
            InputError: The library that defines it is not installed here.
        """
        spec, generator = PARTS[self.name], torch.Generator().manual_seed(seed)
        try:
            with torch.device("meta"):  # no library's own slow initialisation, no memory for what is not kept
                module = spec.module()
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            raise InputError(
                f"{self.name}: needs {package}, which is not installed here. Install it with: pip install {package}"
            ) from error
        _fill(module.to_empty(device="cpu"), generator)
        if spec.role == "text_encoder":
            words = torch.randint(CLIP_TOKENS, spec.input, generator=generator)
            words[:, 0], words[:, -1] = CLIP_TOKENS, CLIP_TOKENS + 1
            return module.eval(), (words,)
        return module.eval(), (torch.randn(spec.input, generator=generator),)


def get_part(name: str) -> Part:
    """Return the part called ``name``.

    Raises:
        InputError: There is none; the message lists those there are.
    """
    try:
        return Part(name)
    except ValueError as error:
        raise InputError(str(error)) from error


def _fill(module: nn.Module, generator: torch.Generator) -> None:
    """Give weights variance 1 / inputs and biases 0, norms are the identity: activations neither vanish nor overflow."""
    with torch.no_grad():
        for owner in module.modules():
            for name, parameter in owner.named_parameters(recurse=False):
                if name == "bias":
                    parameter.zero_()
                elif parameter.ndim == 1:
                    parameter.fill_(1.0)
                elif isinstance(owner, nn.Embedding):
                    parameter.uniform_(-1, 1, generator=generator)
                else:
                    bound = (3 / parameter[0].numel()) ** 0.5
                    parameter.uniform_(-bound, bound, generator=generator)
