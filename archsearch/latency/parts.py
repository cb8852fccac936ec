"""The parts of a pipeline beside the UNet: text encoders and decoders."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from archsearch.errors import InputError, check_known

if TYPE_CHECKING:
    from torch import Tensor, nn

Role = Literal["text_encoder", "decoder"]

# Tokens of CLIP's vocabulary that are words; the two after them begin and end a text.
CLIP_TOKENS = 49406


@dataclass(frozen=True, slots=True)
class PartSpec:
    """What a part is, how it is made, and what it is fed with.

    Attributes:
        module: Builds it, without values for its weights where the current device is ``meta``.
        input: Token ids of a text encoder, the latent of a decoder; batch 1.
        params: Parameters, counted (a test counts them again).
    """

    role: Role
    module: "Callable[[], nn.Module]"
    input: tuple[int, ...]
    params: int


def _network(builder: str) -> "Callable[[], nn.Module]":
    # A function of ``part_networks``, which needs torch: a study is read without it.

    def build() -> "nn.Module":
        from archsearch.latency import part_networks

        made: nn.Module = getattr(part_networks, builder)()
        return made

    return build


PARTS: dict[str, PartSpec] = {
    # CLIP ViT-L/14's text model, Stable Diffusion 1's: 77 tokens of 768
    "clip-vit-l-14-text": PartSpec("text_encoder", _network("clip_text"), (1, 77), 123_060_480),
    # Stable Diffusion 1's decoder with post_quant_conv: 64² latent, 512² picture
    "sd-vae-decoder": PartSpec("decoder", _network("kl_decoder"), (1, 4, 64, 64), 49_490_199),
    # TAESD, the tiny decoder of the same latents: 64² latent, 512² picture
    "taesd-decoder": PartSpec("decoder", _network("tiny_decoder"), (1, 4, 64, 64), 1_222_531),
}


@dataclass(frozen=True, slots=True)
class Part:
    """A text encoder or decoder that is measured whole, with random weights; one of ``PARTS``."""

    name: str

    def build(self, seed: int = 0) -> "tuple[nn.Module, tuple[Tensor, ...]]":
        """Build it with random weights; torch's own random state is left alone.

        Returns:
            The module in evaluation mode, and what its ``forward`` takes: int64 token ids (1, 77)
            give (1, 77, 768), a float32 latent (1, 4, 64, 64) gives a picture (1, 3, 512, 512).

        Raises:
            InputError: The library that defines it is not installed here.
        """
        import torch

        from archsearch.latency.part_networks import fill

        spec, generator = PARTS[self.name], torch.Generator().manual_seed(seed)
        try:
            # no library's own slow initialisation, no memory for what is not kept
            with torch.device("meta"):
                module = spec.module()
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            raise InputError(
                f"{self.name}: needs {package}, which is not installed here. Install it with: "
                f"pip install {package}"
            ) from error
        fill(module.to_empty(device="cpu"), generator)
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
    check_known(name, PARTS, f"part: {name!r} is unknown")
    return Part(name)
