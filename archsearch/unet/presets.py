"""Networks by name: what is published, and what of it is reconstructed."""

from collections.abc import Callable
from typing import Any

from archsearch.errors import check_known
from archsearch.unet.config import UNetConfig

SD_LAYERS = ["sa", "ca", "ff"]


def _block(layers: list[str] | None = None, count: int = 1) -> dict[str, Any]:
    return {"transformers": count, "layers": layers} if layers else {}


def _stage(channels: int, down: int, up: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"channels": channels, "down": [block] * down, "up": [block] * up}


def sd15() -> UNetConfig:
    """Stable Diffusion 1.5's UNet (``UNet2DConditionModel``), published: 859,520,964 parameters.

    Four stages; self-, cross-attention and feed-forward after every residual block of the first
    three and in the middle. All of it is published, as the repository's ``unet/config.json``.
    """
    block = _block(SD_LAYERS)
    return UNetConfig.model_validate(
        {
            "stages": [
                *(_stage(channels, 2, 3, block) for channels in (320, 640, 1280)),
                _stage(1280, 2, 3, {}),
            ],
            "middle": [block, {}],
        }
    )


def sdxl() -> UNetConfig:
    """Stable Diffusion XL's UNet (arXiv 2307.01952), published: 2,567,463,684 parameters.

    Three stages at 128²; none, two and ten transformer blocks; heads of 64 channels; linear
    projections; 2048-wide context; the pooled text embedding and six time ids added to the time
    embedding (2816 wide). All of it is published, as the repository's ``unet/config.json``.
    """
    return UNetConfig.model_validate(
        {
            "sample_size": 128,
            "context_dim": 2048,
            "added": {"text_dim": 1280},
            "projection": "linear",
            "attention": {"head_dim": 64},
            "stages": [
                _stage(320, 2, 3, {}),
                _stage(640, 2, 3, _block(SD_LAYERS, 2)),
                _stage(1280, 2, 3, _block(SD_LAYERS, 10)),
            ],
            "middle": [_block(SD_LAYERS, 10), {}],
        }
    )


def bk_sdm_base() -> UNetConfig:
    """BK-SDM-Base's UNet (arXiv 2305.15798), published: 579,384,964 parameters.

    Stable Diffusion 1.x with one residual and one transformer block fewer in every stage, down and
    up. All of it is published, as the repository's ``unet/config.json``.
    """
    block = _block(SD_LAYERS)
    return UNetConfig.model_validate(
        {
            "stages": [
                *(_stage(channels, 1, 2, block) for channels in (320, 640, 1280)),
                _stage(1280, 1, 2, {}),
            ],
            "middle": [block, {}],
        }
    )


def _mobilediffusion(inner: dict[str, Any], middle: list[dict[str, Any]]) -> UNetConfig:
    # Everything but the innermost stage and the middle.
    ca = _block(["ca", "ff"])
    return UNetConfig.model_validate(
        {
            "in_channels": 8,
            "out_channels": 8,
            "attention": {"kv": "shared", "normalizer": "relu"},
            "feed_forward": {"expansion": 6, "activation": "silu"},
            "stages": [_stage(320, 1, 2, {}), _stage(640, 1, 2, ca), inner | {"conv": "separable"}],
            "middle": middle,
        }
    )


def mobilediffusion() -> UNetConfig:
    """MobileDiffusion (arXiv 2311.16567), reconstructed: 386 M parameters and 182 GMACs are
    published, not its table row.

    Published: three stages of which the outer two are 320 and 640 wide, 12 residual blocks, no
    attention at 64², cross-attention alone at 32², more transformer blocks in the middle of the
    network, separable convolutions in the innermost stage, keys and values shared in
    self-attention, Swish, ReLU attention, expansion 6, an 8-channel latent. Reconstructed: what
    ``mobilediffusion-lite`` leaves open, as there (8 heads, time embedding 1280, feed-forward plain
    and also at 32²); the innermost stage, 896 wide, with the two blocks down and three up that
    Stable Diffusion and the Lite network have; one block in the middle, the twelfth; three
    transformer blocks after each of these six. Evidence: the two sizes differ by 108 M parameters
    and 29 GMACs, 269 MACs a parameter, so that the difference lies at 16² (256 a parameter); of
    middles with up to 4 transformer blocks, 2 to 4 after the others, and widths from 864 to 1088,
    this one has the same number everywhere and comes nearest: 386.0 M parameters and 182.4 GMACs of
    convolutions and linear layers.
    """
    block = _block(SD_LAYERS, 3)
    return _mobilediffusion(_stage(896, 2, 3, block), middle=[block])


def mobilediffusion_lite() -> UNetConfig:
    """MobileDiffusion-Lite (arXiv 2311.16567): 278 M parameters and 153 GMACs are published.

    Published too: three stages, the residual blocks and the attention of every stage (the paper's
    table: 11 residual blocks, 12 self- and 15 cross-attentions), separable convolutions in the
    innermost stage, keys and values shared in self-attention, Swish, ReLU attention, expansion 6,
    an 8-channel latent. Reconstructed, since not published: the innermost width (864), 8 heads, the
    time embedding (1280), a plain (not gated) feed-forward, also after the cross-attention at 32².
    Evidence: a feed-forward after self-attention alone, gated, in an inner stage of 1024 channels
    gives 302 M parameters for 153 GMACs; with it the choice here gives 276.8 M and 155.8, both
    within 2 %.
    """
    down, up = _block(SD_LAYERS, 3), _block(SD_LAYERS, 2)
    return _mobilediffusion({"channels": 864, "down": [down] * 2, "up": [up] * 3}, middle=[])


def dreamlite() -> UNetConfig:
    """DreamLite's UNet (arXiv 2603.28713), reconstructed: 0.39 B parameters are published.

    Published: pictures of 1024², a UNet pruned from SDXL's, and diffusers' ``DreamLiteUNetModel``,
    whose defaults make 427,077,084 parameters and 829 GMACs at 128² and are taken here: three
    stages, 320, 640 and 1280 wide, two residual blocks down and three up in each; a transformer
    block after every one but those up in the first stage, in the first two stages with the norm of
    self-attention in its place; one in the middle; inverted separable convolutions; 64 heads of
    queries and one of keys and values, both normalised; a gated feed-forward of 6 times the width;
    a 2048-wide context. Reconstructed: that the trained network has them. It is smaller, and
    what it has less of is not among what is known here; nor is the embedding of its picture's size,
    which its pipeline feeds it and the defaults leave out.
    """
    outer, inner = _block(["norm", "ca", "ff"]), _block(SD_LAYERS)
    return UNetConfig.model_validate(
        {
            "sample_size": 128,
            "context_dim": 2048,
            "conv": "inverted",
            "attention": {"heads": 64, "kv_heads": 1, "qk_norm": "rms"},
            "feed_forward": {"expansion": 12},
            "stages": [
                {"channels": 320, "down": [outer] * 2, "up": [{}] * 3},
                _stage(640, 2, 3, outer),
                _stage(1280, 2, 3, inner),
            ],
            "middle": [inner, {}],
        }
    )


PRESETS: dict[str, Callable[[], UNetConfig]] = {
    "sd15": sd15,
    "sdxl": sdxl,
    "bk-sdm-base": bk_sdm_base,
    "mobilediffusion": mobilediffusion,
    "mobilediffusion-lite": mobilediffusion_lite,
    "dreamlite": dreamlite,
}


def preset(name: str) -> UNetConfig:
    """Return the preset called ``name``.

    Raises:
        InputError: There is none; the message lists those there are.
    """
    check_known(name, sorted(PRESETS), f"'{name}' is not a preset")
    return PRESETS[name]()
