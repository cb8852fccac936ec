"""Networks by name: what is published, and what of it is reconstructed."""

from collections.abc import Callable
from typing import Any

from archsearch.errors import InputError, nearest
from archsearch.unet.config import UNetConfig

SD_BLOCK: dict[str, Any] = {"transformers": 1, "layers": ["sa", "ca", "ff"]}


def sd15() -> UNetConfig:
    """Stable Diffusion 1.5's UNet (``UNet2DConditionModel``), published: 859,520,964 parameters.

    Four stages; self-, cross-attention and feed-forward after every residual block of the first three and in the middle.
    """

    def stage(channels: int, block: dict[str, Any]) -> dict[str, Any]:
        return {"channels": channels, "down": [block] * 2, "up": [block] * 3}

    return UNetConfig.model_validate(
        {
            "stages": [stage(320, SD_BLOCK), stage(640, SD_BLOCK), stage(1280, SD_BLOCK), stage(1280, {})],
            "middle": [SD_BLOCK, {}],
        }
    )


def mobilediffusion_lite() -> UNetConfig:
    """MobileDiffusion-Lite (arXiv 2311.16567): 278 M parameters and 153 GMACs are published.

    Published too: three stages, the residual blocks and the attention of every stage (the paper's table: 11 residual blocks, 12
    self- and 15 cross-attentions), separable convolutions in the innermost stage, keys and values shared in self-attention, Swish,
    ReLU attention, expansion 6, an 8-channel latent. Reconstructed, since not published: the innermost width (864), 8 heads, the
    time embedding (1280), a plain (not gated) feed-forward, also after the cross-attention at 32².
    """
    return UNetConfig.model_validate(
        {
            "in_channels": 8,
            "out_channels": 8,
            "attention": {"kv": "shared", "normalizer": "relu"},
            "feed_forward": {"expansion": 6, "activation": "silu"},
            "stages": [
                {"channels": 320, "down": [{}], "up": [{}] * 2},
                {
                    "channels": 640,
                    "down": [{"transformers": 1, "layers": ["ca", "ff"]}],
                    "up": [{"transformers": 1, "layers": ["ca", "ff"]}] * 2,
                },
                {
                    "channels": 864,
                    "conv": "separable",
                    "down": [{"transformers": 3, "layers": ["sa", "ca", "ff"]}] * 2,
                    "up": [{"transformers": 2, "layers": ["sa", "ca", "ff"]}] * 3,
                },
            ],
        }
    )


PRESETS: dict[str, Callable[[], UNetConfig]] = {"sd15": sd15, "mobilediffusion-lite": mobilediffusion_lite}


def preset(name: str) -> UNetConfig:
    """Return the preset called ``name``.

    Raises:
        InputError: There is none; the message lists those there are.
    """
    if name not in PRESETS:
        raise InputError(f"'{name}' is not a preset; allowed are {', '.join(sorted(PRESETS))}.{nearest(name, PRESETS)}")
    return PRESETS[name]()
