"""The space in which a network denoises: pixels themselves, pixels unshuffled, or an autoencoder's latents."""

from functools import lru_cache
from typing import Any, Protocol

from torch import Tensor
from torch.nn import functional as F

from archsearch.data.autoencoder import NEEDED, Autoencoder
from archsearch.data.hub import ModelFolder
from archsearch.data.scale import to_bytes, to_numbers
from archsearch.errors import InputError, nearest


class LatentSpace(Protocol):
    """From pictures to what is diffused, and back.

    Attributes:
        name: As ``proxy.latent`` names it.
        channels: Channels of a sample.
        factor: Pixels a side of one position of a sample.
        fixed: Whether a picture's sample is best computed once and kept; else it is cheap, and made when needed.
    """

    name: str
    channels: int
    factor: int
    fixed: bool

    @property
    def key(self) -> dict[str, Any]:
        """What identifies its numbers, as JSON values."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Map uint8 images (B, 3, H, W) to float32 samples (B, channels, H / factor, W / factor), of about unit scale."""
        ...

    def decode(self, samples: Tensor) -> Tensor:
        """Map samples (B, channels, h, w) back to uint8 images (B, 3, h · factor, w · factor), on the CPU."""
        ...


class Pixels:
    """Pixels in [-1, 1]."""

    name, channels, factor, fixed = "pixels", 3, 1, False

    def __init__(self) -> None:
        self.key: dict[str, Any] = {"name": self.name}

    def encode(self, images: Tensor) -> Tensor:
        """Map uint8 (B, 3, H, W) to float32 of the same shape in [-1, 1]."""
        return to_numbers(images)

    def decode(self, samples: Tensor) -> Tensor:
        """Map (B, 3, H, W) in [-1, 1] to uint8; what lies outside is cut off."""
        return to_bytes(samples)


class Unshuffled:
    """Pixels in [-1, 1], each square of 2 × 2 in the channels of one position: 12 channels at half the resolution."""

    name, channels, factor, fixed = "unshuffle", 12, 2, False

    def __init__(self) -> None:
        self.key: dict[str, Any] = {"name": self.name}
        self._pixels = Pixels()

    def encode(self, images: Tensor) -> Tensor:
        """Map uint8 (B, 3, H, W) to float32 (B, 12, H / 2, W / 2)."""
        return F.pixel_unshuffle(self._pixels.encode(images), self.factor)

    def decode(self, samples: Tensor) -> Tensor:
        """Map (B, 12, h, w) to uint8 (B, 3, 2 h, 2 w)."""
        return self._pixels.decode(F.pixel_shuffle(samples, self.factor))


PIXELS = Pixels()
BUILT_IN: dict[str, LatentSpace] = {space.name: space for space in (PIXELS, Unshuffled())}


def latent_space(name: str) -> LatentSpace:
    """Return the latent space that ``proxy.latent`` names. An autoencoder's weights are loaded when they are first needed.

    Raises:
        InputError: There is none of this name, or it is no autoencoder that can be used.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    folder = ModelFolder("proxy.latent", name, NEEDED)
    if "/" not in name and not folder.is_local:
        raise InputError(
            f"proxy.latent: '{name}' is not known.{nearest(name, BUILT_IN)} Allowed are: {', '.join(BUILT_IN)}, {NEEDED}."
        )
    return _brought(folder)


@lru_cache(maxsize=4)
def _brought(folder: ModelFolder) -> Autoencoder:
    return Autoencoder(folder)
