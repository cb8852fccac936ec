"""What the scores of image and caption share: one value a picture, their mean, its interval, what real pictures get."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from archsearch.metrics.base import Direction, Prompts, check_batch, require_images
from archsearch.metrics.bootstrap import mean_resamples, with_interval


class TextMetric(ABC):
    """Mean over the images of how well each fits its caption.

    The same class scores two sets of pictures under two names: those sampled from seen captions, and under ``NAME_recombined``
    those sampled from recombinations of known colours or styles and known objects, which no picture shows. For seen captions
    ``NAME_floor`` is what the held-out pictures get with their own captions, and ``NAME_floor_sd`` the standard deviation
    of the mean of as many of them as there are images. Recombinations have no real pictures, and no floor.
    """

    name: str
    version: int
    direction: Direction = "maximize"
    bounds = (-torch.inf, torch.inf)

    def __init__(self, name: str, prompts: Prompts) -> None:
        self.name = name if prompts == "seen" else f"{name}_{prompts}"
        self._prompts = prompts
        self._values: list[Tensor] = []

    def update(self, images: Tensor, captions: Sequence[str]) -> None:
        """Add generated images, uint8 of shape (B, 3, H, W), and their B captions."""
        check_batch(images, captions)
        if len(images):
            self._values.append(self._fit_of(images, captions).double())

    def compute(self) -> dict[str, float]:
        """Return the mean, its interval (``_low``, ``_high``), and for seen captions the floor (``_floor``, ``_floor_sd``)."""
        require_images(self.name, sum(map(len, self._values)), 1)
        values = torch.cat(self._values)
        result = with_interval(self.name, float(values.mean()), mean_resamples(values), *self.bounds)
        real = self._real() if self._prompts == "seen" else torch.empty(0)
        if len(real) > 1:
            result[f"{self.name}_floor"] = float(real.double().mean())
            result[f"{self.name}_floor_sd"] = float(real.double().std()) / len(values) ** 0.5
        return result

    def reset(self) -> None:
        """Forget the generated images."""
        self._values.clear()

    @abstractmethod
    def _fit_of(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Return how well each image (B, 3, H, W) fits its caption: (B,)."""

    @abstractmethod
    def _real(self) -> Tensor:
        """Return the same of held-out pictures and their own captions: (n,), empty where the data have no captions."""
