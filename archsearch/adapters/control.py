"""Control by a picture: a light encoder, diffusers' ``T2IAdapter`` (Mou et al. 2023), whose
features join the way down of a frozen network.

Two conditions are built in. ``control``: the edges of a picture, which what is drawn is to have.
``inpaint``: a picture of which a part is covered by a mask, and drawn anew.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from archsearch.unet.config import UNetConfig
from archsearch.unet.model import StageBlocks, UNet

CHANNELS = {"control": 1, "inpaint": 4}
"""Of the condition: edges; a mask, and what it leaves of the picture."""
EDGE = 0.2
"""Least slope of an edge, as a share of the step from black to white."""
DIGITS = 2**12


def encoder_for(config: UNetConfig, method: str, factor: int) -> nn.Module:
    """An untrained encoder with a feature map for each stage of a network.

    Args:
        config: The network's.
        method: ``control`` or ``inpaint``.
        factor: Pixels a side of one position of its sample.
    """
    from diffusers.models.adapter import T2IAdapter

    widths = [stage.channels for stage in config.stages]
    encoder: nn.Module = T2IAdapter(
        in_channels=CHANNELS[method], channels=widths, num_res_blocks=1, downscale_factor=factor
    )
    return encoder


class Controlled(nn.Module):
    """A frozen network and an encoder, called like the network. ``see`` says what it is to heed.

    As in diffusers a stage's features are added to the output of its last block on the way down,
    which the skip connection takes too.
    """

    def __init__(self, network: UNet, encoder: nn.Module) -> None:
        super().__init__()
        self.network, self.encoder = network.requires_grad_(False), encoder
        self._features: list[Tensor] = []
        for index, stage in enumerate(network.stages):
            last = cast(StageBlocks, stage).down[-1]
            last.register_forward_hook(lambda *given, i=index: self._add(given[2], i))

    @property
    def config(self) -> UNetConfig:
        """The network's."""
        return self.network.config

    def see(self, condition: Tensor | None) -> None:
        """Heed a condition (B, channels, H, W) in pixels from now on; None: nothing."""
        self._features = [] if condition is None else self.encoder(condition)

    def _add(self, output: Tensor, index: int) -> Tensor:
        if not self._features:
            return output
        feature = self._features[index]
        times = len(output) // len(feature)  # two under guidance
        return output + feature.repeat(times, 1, 1, 1).to(output.dtype)

    @override
    def forward(self, *inputs: Tensor) -> Tensor:
        prediction: Tensor = self.network(*inputs)
        return prediction


def edges(images: Tensor) -> Tensor:
    """Where pictures (B, 3, H, W) in bytes have edges: (B, 1, H, W), 1 or 0. Sobel's slopes, the
    steepest of the channels.
    """
    numbers = images.float() / 255
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=images.device) / 4
    kernels = torch.stack([across, across.T])[:, None].repeat(3, 1, 1, 1)
    padded = F.pad(numbers, (1, 1, 1, 1), mode="replicate")
    slopes = F.conv2d(padded, kernels, groups=3)  # (B, 6, H, W): across and down, of each channel
    steepness = (slopes[:, ::2].square() + slopes[:, 1::2].square()).sqrt()
    return (steepness.amax(1, keepdim=True) > EDGE).float()


def masked(images: Tensor, mask: Tensor) -> Tensor:
    """The condition of inpainting (B, 4, H, W): the mask (B, 1, H, W), 1 where it is drawn anew,
    and the rest of the pictures (B, 3, H, W), given in bytes, in [-1, 1].
    """
    return torch.cat([mask, (images.float() / 127.5 - 1) * (1 - mask)], dim=1)


def boxes(noise: Tensor, size: int) -> Tensor:
    """Masks (B, 1, size, size) for training, a box each, a quarter to three quarters of the side
    long. They are read off digits of the samples' noise (B, …), as guidance weights are.
    """
    shares = torch.frac(noise.flatten(1)[:, :4].abs() * DIGITS)
    lengths = size * (0.25 + 0.5 * shares[:, :2])
    starts = (size - lengths) * shares[:, 2:]
    place = torch.arange(size, device=noise.device)
    inside = (place >= starts[..., None]) & (place < (starts + lengths)[..., None])  # (B, 2, size)
    return (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None].float()


def condition_of(method: str, images: Tensor, noise: Tensor, device: Any) -> Tensor:
    """The condition that pictures (B, 3, H, W) in bytes give in training."""
    images = images.to(device)
    if method == "control":
        return edges(images)
    return masked(images, boxes(noise, images.shape[-1]))
