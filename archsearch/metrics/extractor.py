"""What a network must offer to carry a distance."""

from typing import Any, Protocol

from torch import Tensor


class FeatureExtractor(Protocol):
    """A frozen network from images to features.

    Attributes:
        num_features: Features an image.
        key: What identifies its numbers, as JSON values; ``name`` is for people.
    """

    num_features: int
    key: dict[str, Any]

    def __call__(self, images: Tensor) -> Tensor:
        """Return features of uint8 images (B, 3, H, W): float32 of shape (B, num_features), on the CPU."""
        ...
