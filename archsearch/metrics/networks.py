"""The frozen networks of an evaluation: each is loaded once, and sees a batch once, however many metrics ask."""

import hashlib
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from archsearch.data.text import MiniLM, TextEncoder
from archsearch.errors import InputError
from archsearch.metrics.clip import Clip
from archsearch.metrics.effnet import EfficientNetLite0
from archsearch.metrics.extractor import FeatureExtractor
from archsearch.metrics.inception import Inception
from archsearch.metrics.settings import MetricSettings

NetworkName = Literal["effnet", "inception", "clip", "text"]


class Networks:
    """What the metrics of one evaluation share. Give each batch to all of them before the next: only the last is remembered."""

    def __init__(self, settings: MetricSettings) -> None:
        self._settings = settings

    def load(self, setting: Literal["inception", "clip"] | None) -> None:
        """Load the network that a key of the settings names, if any.

        Raises:
            InputError: It cannot be used.
        """
        if setting is not None:
            getattr(self, setting)

    def key(self, name: NetworkName) -> dict[str, Any]:
        """What identifies the numbers of a network, as JSON values; a file of the user's is read for it, wherever it lies.

        Raises:
            InputError: The settings name no such file, or it cannot be used.
        """
        if name == "clip":
            return {"images": self.clip.key, "texts": self.clip.text_key}
        if name == "text":
            return {"name": self.text.name, "version": self.text.version}
        return self.effnet.key if name == "effnet" else self.inception.key

    @cached_property
    def effnet(self) -> FeatureExtractor:
        """EfficientNet-Lite0's features, from a package."""
        return Remembering(EfficientNetLite0())

    @cached_property
    def inception(self) -> FeatureExtractor:
        """Features of the Inception file that the settings name.

        Raises:
            InputError: They name none, or it cannot be used.
        """
        if self._settings.inception is None:
            raise InputError("metrics.inception: is not given.")
        return Remembering(Inception(self._settings.inception))

    @cached_property
    def clip(self) -> Clip:
        """The CLIP that the settings name.

        Raises:
            InputError: They name none, or it cannot be used.
        """
        if self._settings.clip is None:
            raise InputError("metrics.clip: is not given.")
        return Clip(self._settings.clip)

    @cached_property
    def clip_images(self) -> FeatureExtractor:
        """Image embeddings of that CLIP."""
        return Remembering(self.clip)

    @cached_property
    def text(self) -> TextEncoder:
        """MiniLM's sentence vectors, from a package."""
        return MiniLM()


class Remembering:
    """A feature extractor that answers the last batch from memory, told by its content."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        self._extractor = extractor
        self.num_features = extractor.num_features
        self.key: dict[str, Any] = extractor.key
        self._last: tuple[str, Tensor] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Return features of uint8 images (B, 3, H, W): float32 of shape (B, num_features), on the CPU."""
        content = images.detach().cpu().contiguous().numpy()
        digest = hashlib.blake2b(repr(content.shape).encode() + content.tobytes()).hexdigest()
        if self._last is None or self._last[0] != digest:
            self._last = (digest, self._extractor(images))
        return self._last[1]
