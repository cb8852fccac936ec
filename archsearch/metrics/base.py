"""The one interface of all quality metrics."""

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor

from archsearch.errors import ArchsearchError, InputError

Direction = Literal["minimize", "maximize"]


class Metric(Protocol):
    """Scores generated images, fed batch by batch.

    Attributes:
        name: Key of the main value in :meth:`compute`'s result.
        version: Raised whenever the same images would get another number; part of a score's key.
        direction: Which way is better.
    """

    name: str
    version: int
    direction: Direction

    def update(self, images: Tensor, captions: Sequence[str]) -> None:
        """Add generated images, uint8 of shape (B, 3, H, W), and the B captions they were generated from."""
        ...

    def compute(self) -> dict[str, float]:
        """Return the main value under the metric's name, and its companions under names that begin with it.

        Raises:
            ArchsearchError: Too few images were added.
        """
        ...

    def reset(self) -> None:
        """Forget all generated images; what belongs to the real ones stays."""
        ...


def check_batch(images: Tensor, captions: Sequence[str]) -> None:
    """Refuse a batch that is not uint8 (B, 3, H, W) with B captions: a float image would be scored as noise.

    Raises:
        InputError: Type, shape or number is another.
    """
    if str(images.dtype) != "torch.uint8" or images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"images must be uint8 of shape (B, 3, H, W), but got {images.dtype} {tuple(images.shape)}.")
    if len(images) != len(captions):
        raise InputError(f"each image needs its caption, but got {len(images)} images and {len(captions)} captions.")


def require_images(name: str, count: int, minimum: int) -> None:
    """Refuse to compute ``name`` from fewer than ``minimum`` images.

    Raises:
        ArchsearchError: There are fewer.
    """
    if count < minimum:
        raise ArchsearchError(f"{name} needs at least {minimum} images, but got {count}.")
