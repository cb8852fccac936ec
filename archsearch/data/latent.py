"""What is diffused: pixels, unshuffled pixels, or the latents of an autoencoder."""

from abc import ABC, abstractmethod
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from archsearch.data.hub import ModelFolder, find_model
from archsearch.data.pictures import to_bytes, to_numbers
from archsearch.data.spec import BUILT_IN_LATENTS

_NEEDED = (
    "the folder or id of a diffusers AutoencoderKL or AutoencoderTiny with 4, 8 or 16 channels"
)
_BLOCKS = {
    "AutoencoderKL": "block_out_channels",
    "AutoencoderTiny": "encoder_block_out_channels",
}
_CHANNELS = (4, 8, 16)
_BATCH = 8


class LatentSpace(ABC):
    """From pictures to what is diffused, and back.

    Attributes:
        name: As ``proxy.latent`` names it.
        channels: Channels of a sample.
        factor: Pixels a side of one position of a sample.
        fixed: Whether a picture's sample is best computed once and kept; else it is cheap, and made
            when needed.
    """

    name: str
    channels: int
    factor: int
    fixed = False

    @property
    def key(self) -> dict[str, Any]:
        """What identifies its numbers, as JSON values."""
        return {"name": self.name}

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Map uint8 images (B, 3, H, W) to float32 samples (B, channels, H / factor, W / factor),
        of about unit scale, on the device of the images.
        """

    @abstractmethod
    def decode(self, samples: Tensor) -> Tensor:
        """Map samples (B, channels, h, w) back to uint8 images (B, 3, h · factor, w · factor), on
        the CPU.
        """


class Pixels(LatentSpace):
    """Pixels in [-1, 1], each square of ``factor`` × ``factor`` in the channels of one position."""

    def __init__(self, name: str, factor: int) -> None:
        self.name, self.channels, self.factor = name, 3 * factor**2, factor

    @override
    def encode(self, images: Tensor) -> Tensor:
        return F.pixel_unshuffle(to_numbers(images), self.factor)

    @override
    def decode(self, samples: Tensor) -> Tensor:
        return to_bytes(F.pixel_shuffle(samples, self.factor))


class _Decoder(nn.Module):
    scale: Tensor
    shift: Tensor

    def __init__(self, model: Any, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, samples: Tensor) -> Tensor:
        picture: Tensor = self.model.decode(samples / self.scale + self.shift).sample
        return picture


class Autoencoder(LatentSpace):
    """Latents at about unit scale: ``(z - shift) · scaling``, as the configuration says.

    AutoencoderKL encodes to a distribution; its mode is taken, so that a picture has one latent.
    Nothing is loaded before it is needed: channels and factor are the configuration's.

    Args:
        folder: Where it lies.

    Raises:
        InputError: The configuration is missing, or that of another model, or its channels are not
            4, 8 or 16.
    """

    fixed = True

    def __init__(self, folder: ModelFolder) -> None:
        self._folder = folder
        self.name = folder.name
        config = folder.config()
        self._class = config.get("_class_name")
        if self._class not in _BLOCKS:
            raise folder.unusable(
                f"its config.json says _class_name '{self._class}'; allowed are "
                f"{', '.join(_BLOCKS)}"
            )
        blocks = config.get(_BLOCKS[self._class])
        channels = config.get("latent_channels", 4)
        if channels not in _CHANNELS or not isinstance(blocks, list) or not blocks:
            raise folder.unusable(
                f"its config.json says latent_channels {channels} and blocks {blocks}; allowed "
                "are 4, 8, 16 channels"
            )
        self.channels, self.factor = int(channels), 2 ** (len(blocks) - 1)
        std, mean = config.get("latents_std"), config.get("latents_mean")
        scale = torch.tensor(float(config.get("scaling_factor") or 1.0))
        shift = torch.tensor(float(config.get("shift_factor") or 0.0))
        self._scale = (scale / torch.tensor(std) if std else scale).view(1, -1, 1, 1)
        self._shift = (torch.tensor(mean) if mean else shift).view(1, -1, 1, 1)

    @cached_property
    @override
    def key(self) -> dict[str, Any]:  # computed once: weights are read
        return {
            "name": self._class,
            "version": self._folder.version(),
            "scale": self._scale.flatten().tolist(),
            "shift": self._shift.flatten().tolist(),
        }

    @override
    def encode(self, images: Tensor) -> Tensor:
        model = self._model.to(images.device)
        with torch.no_grad():
            encoded = [model.encode(to_numbers(some)) for some in torch.split(images, _BATCH)]
        latents = torch.cat(
            [e.latent_dist.mode() if self._class == "AutoencoderKL" else e.latents for e in encoded]
        )
        return (latents - self._shift.to(latents)) * self._scale.to(latents)

    @override
    def decode(self, samples: Tensor) -> Tensor:
        decoder = self.decoder.to(samples.device)
        with torch.no_grad():
            return torch.cat(
                [to_bytes(decoder(some)) for some in torch.split(samples.float(), _BATCH)]
            )

    @cached_property
    def decoder(self) -> nn.Module:
        """From samples (B, channels, h, w) to pictures (B, 3, h · factor, w · factor) in about
        [-1, 1].
        """
        return _Decoder(self._model, self._scale, self._shift).eval()

    @cached_property
    def _model(self) -> Any:
        import diffusers

        return self._folder.load(
            diffusers, str(self._class), low_cpu_mem_usage=False, torch_dtype=torch.float32
        )


BUILT_IN = {name: Pixels(name, side) for name, side in zip(BUILT_IN_LATENTS, (1, 2), strict=True)}
PIXELS = BUILT_IN["pixels"]


def latent_space(name: str) -> LatentSpace:
    """Return the latent space that ``proxy.latent`` names. An autoencoder's weights are loaded when
    they are first needed.

    Raises:
        InputError: There is none of this name, or it is no autoencoder that can be used.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    return _brought(find_model("proxy.latent", name, BUILT_IN, _NEEDED))


_brought = lru_cache(maxsize=4)(Autoencoder)  # so that its weights are loaded once
