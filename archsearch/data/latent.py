"""What is diffused: pixels, unshuffled pixels, or the latents of an autoencoder."""

from functools import cached_property, lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from archsearch.data.hub import ModelFolder, quiet
from archsearch.data.pictures import to_bytes, to_numbers
from archsearch.errors import InputError, nearest

NEEDED = "the folder or id of a diffusers AutoencoderKL or AutoencoderTiny with 4, 8 or 16 channels"
CLASSES = ("AutoencoderKL", "AutoencoderTiny")
CHANNELS = (4, 8, 16)
_BATCH = 8


class Autoencoder:
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
        if self._class not in CLASSES:
            raise folder.unusable(
                f"its config.json says _class_name '{self._class}'; allowed are "
                f"{', '.join(CLASSES)}"
            )
        blocks = config.get(
            "encoder_block_out_channels"
            if self._class == "AutoencoderTiny"
            else "block_out_channels"
        )
        channels = config.get("latent_channels", 4)
        if channels not in CHANNELS or not isinstance(blocks, list) or not blocks:
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
    def key(self) -> dict[str, Any]:
        """Class and weights, and how the latents are scaled."""
        scaling = {"scale": self._scale.flatten().tolist(), "shift": self._shift.flatten().tolist()}
        return {"name": self._class, "version": self._folder.version()} | scaling

    def encode(self, images: Tensor) -> Tensor:
        """Map uint8 (B, 3, H, W) to float32 latents (B, channels, H / factor, W / factor), on the
        device of the images.
        """
        model = self._model.to(images.device)
        with torch.no_grad():
            encoded = [model.encode(to_numbers(some)) for some in torch.split(images, _BATCH)]
        latents = torch.cat(
            [e.latent_dist.mode() if self._class == "AutoencoderKL" else e.latents for e in encoded]
        )
        return (latents - self._shift.to(latents)) * self._scale.to(latents)

    def decode(self, samples: Tensor) -> Tensor:
        """Map latents (B, channels, h, w) to uint8 (B, 3, h · factor, w · factor), on the CPU."""
        model = self._model.to(samples.device)
        latents = samples.float() / self._scale.to(samples.device) + self._shift.to(samples.device)
        with torch.no_grad():
            return torch.cat(
                [to_bytes(model.decode(some).sample) for some in torch.split(latents, _BATCH)]
            )

    @cached_property
    def _model(self) -> Any:
        """The network, loaded on first use.

        Raises:
            InputError: Its weights are missing or damaged.
        """
        import diffusers
        from diffusers.utils import logging

        path = self._folder.folder()
        with quiet(logging):
            try:
                model, loading = getattr(diffusers, str(self._class)).from_pretrained(
                    str(path),
                    local_files_only=True,
                    use_safetensors=any(path.glob("*.safetensors")),
                    low_cpu_mem_usage=False,
                    torch_dtype=torch.float32,
                    output_loading_info=True,
                )
            except (
                Exception
            ) as error:  # whatever diffusers and safetensors raise on missing and damaged files
                lines = str(error).strip().splitlines()
                raise self._folder.unusable(
                    f"cannot be loaded ({lines[0] if lines else type(error).__name__})"
                ) from error
        # diffusers fills what is missing with random numbers.
        if missing := sorted(
            {*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])}
        ):
            raise self._folder.unusable(
                f"its weights lack {len(missing)} tensors, such as {missing[0]}"
            )
        return model.eval().requires_grad_(False)


class LatentSpace(Protocol):
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
    fixed: bool

    @property
    def key(self) -> dict[str, Any]:
        """What identifies its numbers, as JSON values."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Map uint8 images (B, 3, H, W) to float32 samples (B, channels, H / factor, W / factor),
        of about unit scale.
        """
        ...

    def decode(self, samples: Tensor) -> Tensor:
        """Map samples (B, channels, h, w) back to uint8 images (B, 3, h · factor, w · factor), on
        the CPU.
        """
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
    """Pixels in [-1, 1], each square of 2 × 2 in the channels of one position: 12 channels at half
    the resolution.
    """

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
    """Return the latent space that ``proxy.latent`` names. An autoencoder's weights are loaded when
    they are first needed.

    Raises:
        InputError: There is none of this name, or it is no autoencoder that can be used.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    folder = ModelFolder("proxy.latent", name, NEEDED)
    if "/" not in name and not folder.is_local:
        raise InputError(
            f"proxy.latent: '{name}' is not known.{nearest(name, BUILT_IN)} Allowed are: "
            f"{', '.join(BUILT_IN)}, {NEEDED}."
        )
    return _brought(folder)


@lru_cache(maxsize=4)
def _brought(folder: ModelFolder) -> Autoencoder:
    return Autoencoder(folder)
