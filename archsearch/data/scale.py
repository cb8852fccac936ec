"""Between pictures as bytes and pictures as numbers in [-1, 1]."""

import torch
from torch import Tensor


def to_numbers(images: Tensor) -> Tensor:
    """Map uint8 images to float32 in [-1, 1], of the same shape."""
    return images.float() / 127.5 - 1


def to_bytes(samples: Tensor) -> Tensor:
    """Map numbers in [-1, 1] to uint8 on the CPU; what lies outside is cut off."""
    return ((samples.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
