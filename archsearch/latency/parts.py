"""The parts of a pipeline beside the UNet: text encoders and decoders."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn

from archsearch.errors import InputError, check_known


# A CLIP text model up to its last hidden state, which is what a UNet attends to; the pooled output
# is left out.
#
# The causal mask is a constant made here: transformers' own making of it depends on its version and
# is not meant for tracing.
class _ClipText(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        model = getattr(model, "text_model", model)  # transformers 4 wraps it once more
        self.embeddings, self.encoder, self.final_layer_norm = (
            model.embeddings,
            model.encoder,
            model.final_layer_norm,
        )

    def forward(self, tokens: Tensor) -> Tensor:
        # Map int64 token ids (B, S) to hidden states (B, S, width).
        length = tokens.shape[1]
        positions = torch.arange(length)[None]
        mask = torch.full((length, length), -math.inf).triu(1)[None, None]  # (1, 1, S, S)
        hidden = self.embeddings(input_ids=tokens, position_ids=positions)
        encoded = self.encoder(inputs_embeds=hidden, attention_mask=mask, return_dict=True)
        y: Tensor = self.final_layer_norm(encoded.last_hidden_state)
        return y


# Latents come divided by the scaling factor already.
class _KlDecoder(nn.Module):
    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = autoencoder.post_quant_conv, autoencoder.decoder

    def forward(self, latent: Tensor) -> Tensor:
        # Map a latent (B, 4, H, W) to a picture (B, 3, 8H, 8W).
        y: Tensor = self.decoder(self.post_quant_conv(latent))
        return y


def _clip_text() -> nn.Module:
    # CLIP ViT-L/14's text model, as in the ``config.json`` of openai/clip-vit-large-patch14.
    #
    # Attention is ``eager``: products and softmax written out, which every converter takes.
    transformers: Any = import_module("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        projection_dim=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
        attn_implementation="eager",
    )
    return _ClipText(transformers.CLIPTextModel(config))


def _kl_decoder() -> nn.Module:
    # Stable Diffusion 1's decoder, as in ``vae/config.json`` of CompVis/stable-diffusion-v1-4.
    diffusers: Any = import_module("diffusers")
    return _KlDecoder(
        diffusers.AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            act_fn="silu",
            latent_channels=4,
            norm_num_groups=32,
            sample_size=512,
        )
    )


def _tiny_decoder() -> nn.Module:
    # TAESD's decoder, as in the ``config.json`` of madebyollin/taesd, which are diffusers' defaults
    # of ``AutoencoderTiny``.
    diffusers: Any = import_module("diffusers")
    decoder: nn.Module = diffusers.AutoencoderTiny(
        latent_channels=4,
        decoder_block_out_channels=(64, 64, 64, 64),
        num_decoder_blocks=(3, 3, 3, 1),
        act_fn="relu",
        upsampling_scaling_factor=2,
    ).decoder
    return decoder


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
    module: Callable[[], nn.Module]
    input: tuple[int, ...]
    params: int


PARTS: dict[str, PartSpec] = {
    # CLIP ViT-L/14's text model, Stable Diffusion 1's: 77 tokens of 768
    "clip-vit-l-14-text": PartSpec("text_encoder", _clip_text, (1, 77), 123_060_480),
    # Stable Diffusion 1's decoder with post_quant_conv: 64² latent, 512² picture
    "sd-vae-decoder": PartSpec("decoder", _kl_decoder, (1, 4, 64, 64), 49_490_199),
    # TAESD, the tiny decoder of the same latents: 64² latent, 512² picture
    "taesd-decoder": PartSpec("decoder", _tiny_decoder, (1, 4, 64, 64), 1_222_531),
}


@dataclass(frozen=True, slots=True)
class Part:
    """A text encoder or decoder that is measured whole, with random weights; one of ``PARTS``."""

    name: str

    def build(self, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """Build it with random weights; torch's own random state is left alone.

        Returns:
            The module in evaluation mode, and what its ``forward`` takes: int64 token ids (1, 77)
            give (1, 77, 768), a float32 latent (1, 4, 64, 64) gives a picture (1, 3, 512, 512).

        Raises:
            InputError: The library that defines it is not installed here.
        """
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
    check_known(name, PARTS, f"part: {name!r} is unknown")
    return Part(name)


def _fill(module: nn.Module, generator: torch.Generator) -> None:
    # Weights of variance 1 / inputs, biases 0, norms the identity: activations neither vanish nor
    # overflow.
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
