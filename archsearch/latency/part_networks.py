"""The networks that are the parts of a pipeline beside the UNet (``parts.py`` lists them)."""

import math
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn


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


def clip_text() -> nn.Module:
    """CLIP ViT-L/14's text model, as in the ``config.json`` of openai/clip-vit-large-patch14.

    Attention is ``eager``: products and softmax written out, which every converter takes.
    """
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


def kl_decoder() -> nn.Module:
    """Stable Diffusion 1's decoder, as in ``vae/config.json`` of CompVis/stable-diffusion-v1-4."""
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


def tiny_decoder() -> nn.Module:
    """TAESD's decoder, as in the ``config.json`` of madebyollin/taesd, which are the defaults of
    diffusers' ``AutoencoderTiny``.
    """
    diffusers: Any = import_module("diffusers")
    decoder: nn.Module = diffusers.AutoencoderTiny(
        latent_channels=4,
        decoder_block_out_channels=(64, 64, 64, 64),
        num_decoder_blocks=(3, 3, 3, 1),
        act_fn="relu",
        upsampling_scaling_factor=2,
    ).decoder
    return decoder


def fill(module: nn.Module, generator: torch.Generator) -> None:
    """Give a module weights of variance 1 / inputs, biases 0, norms the identity: activations
    neither vanish nor overflow.
    """
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
