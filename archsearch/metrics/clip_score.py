"""CLIP score with a model that the user brings."""

from collections.abc import Sequence

import torch
from torch import Tensor

from archsearch.data.cache import cached_tensors
from archsearch.metrics.base import Prompts, Reference
from archsearch.metrics.features import some_features
from archsearch.metrics.networks import Networks
from archsearch.metrics.settings import MetricSettings
from archsearch.metrics.text_score import TextMetric

_MOST_REAL = 512


class ClipScore(TextMetric):
    """Mean over the images of 100 · max(cos(image, caption), 0) (Hessel et al. 2021).

    Without their factor 2.5, and without the "A photo depicts" that they put before each caption: the pictures are drawn from the
    caption as it is, and need be no photographs.
    """

    version = 1
    bounds = (0.0, 100.0)

    def __init__(
        self, data: Reference, settings: MetricSettings, networks: Networks | None = None, prompts: Prompts = "seen"
    ) -> None:
        super().__init__("clip_score", prompts)
        networks = networks or Networks(settings)
        self._clip, self._images = networks.clip, networks.clip_images
        self._data = data

    def _fit_of(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        return self._of(self._images(images), captions)

    def _of(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        cosines = (images.double() * self._clip.texts(captions).double()).sum(1)
        return (100 * cosines).clamp_min(0)

    def _real(self) -> Tensor:
        data = self._data
        if not data.captions:
            return torch.empty(0)
        rows = data.held_out[:_MOST_REAL]
        key = {"kind": "clip score of real pictures", "schema": 2, "version": self.version, "data": data.fingerprint}
        key |= {"images": self._images.key, "texts": self._clip.text_key}

        def build() -> dict[str, Tensor]:
            return {"values": self._of(some_features(self._images, data, rows), [data.captions[i] for i in rows.tolist()])}

        return cached_tensors(key, build)["values"]
