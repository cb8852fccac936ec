"""How well pictures fit their captions."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from archsearch.data.cache import cached_tensors
from archsearch.errors import InputError
from archsearch.metrics.base import (
    Direction,
    Prompts,
    Reference,
    check_batch,
    mean_resamples,
    real_features,
    require_images,
    some_features,
    with_interval,
)
from archsearch.metrics.networks import MetricSettings, Networks


class TextMetric(ABC):
    """Mean over the images of how well each fits its caption.

    The same class scores two sets of pictures under two names: those sampled from seen captions,
    and under ``NAME_recombined`` those sampled from recombinations of known colours or styles and
    known objects, which no picture shows. For seen captions ``NAME_floor`` is what the held-out
    pictures get with their own captions, and ``NAME_floor_sd`` the standard deviation of the mean
    of as many of them as there are images. Recombinations have no real pictures, and no floor.
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
        """Return the mean, its interval (``_low``, ``_high``), and for seen captions the floor
        (``_floor``, ``_floor_sd``).
        """
        require_images(self.name, sum(map(len, self._values)), 1)
        values = torch.cat(self._values)
        result = with_interval(
            self.name, float(values.mean()), mean_resamples(values), *self.bounds
        )
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
        """Return the same of held-out pictures and their own captions: (n,), empty where the data
        have no captions.
        """


_FEWEST = 2  # pictures on each side of the split
_DIM, _EPOCHS, _BATCH, _SEED = 256, 25, 256, 0
_LEARNING_RATE, _WEIGHT_DECAY, _TEMPERATURE, _DROPOUT = 1e-3, 1e-2, 0.15, 0.5


class Alignment(TextMetric):
    """Mean cosine between generated images and their captions under a small contrastive model.

    Linear projections over frozen EfficientNet-Lite0 features and MiniLM sentence vectors, trained
    on the train pictures with a symmetric contrastive loss, and cached. A relative score for one
    set of data: read it beside ``alignment_mismatched`` (captions moved on by one image, so feed
    them in no sorted order: a score no better than this means that the captions had no effect) and
    ``alignment_recall_at_{1,5,10}`` (image → text on the held-out pictures: how far the score can
    be trusted at all). Never a training signal for what it scores.
    """

    version = 1
    bounds = (-1.0, 1.0)

    def __init__(
        self,
        data: Reference,
        settings: MetricSettings,
        networks: Networks | None = None,
        prompts: Prompts = "seen",
    ) -> None:
        super().__init__("alignment", prompts)
        networks = networks or Networks(settings)
        self._extractor, self._encoder = networks.effnet, networks.text
        if not data.captions:
            raise InputError(
                f"{self.name} needs captions of the real pictures to learn from, and these have "
                "none."
            )
        fitted = data.train[~torch.isin(data.train, data.held_out)]
        if min(len(fitted), len(data.held_out)) < _FEWEST:
            raise InputError(
                f"{self.name} needs at least {_FEWEST} real pictures to learn from and "
                f"{_FEWEST} held out, "
                f"but got {len(fitted)} and {len(data.held_out)}."
            )
        key = {"kind": "alignment", "schema": 2, "version": self.version, "data": data.fingerprint}
        key |= {
            "extractor": self._extractor.key,
            "encoder": [self._encoder.name, self._encoder.version],
        }
        self._weights = cached_tensors(key, lambda: self._fit(data, fitted))
        self._images: list[Tensor] = []
        self._texts: list[Tensor] = []

    def compute(self) -> dict[str, float]:
        """Return what every text score has, and ``_mismatched`` and ``_recall_at_1``, ``_5``,
        ``_10``.
        """
        result = super().compute()
        images, texts = torch.cat(self._images), torch.cat(self._texts)  # (N, 256) each, unit norm
        result[f"{self.name}_mismatched"] = float((images * texts.roll(1, 0)).sum(1).mean())
        return result | {
            f"{self.name}_recall_at_{k}": float(self._weights[f"recall_at_{k}"]) for k in (1, 5, 10)
        }

    def reset(self) -> None:
        """Forget the generated images."""
        super().reset()
        self._images.clear()
        self._texts.clear()

    def _fit_of(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        self._images.append(project(self._weights, "image", self._extractor(images)))
        self._texts.append(project(self._weights, "text", self._encoder.pooled(captions)))
        return (self._images[-1] * self._texts[-1]).sum(1)

    def _real(self) -> Tensor:
        return self._weights["held_out"]

    def _fit(self, data: Reference, fitted: Tensor) -> dict[str, Tensor]:
        features = real_features(self._extractor, data)
        texts = self._encoder.pooled(data.captions)
        weights = train_projections(features[fitted], texts[fitted])
        images = project(weights, "image", features[data.held_out])
        similarity = images @ project(weights, "text", texts[data.held_out]).T
        ranks = retrieval_ranks(similarity)
        weights["held_out"] = similarity.diagonal().clone()
        return weights | {f"recall_at_{k}": (ranks < k).double().mean() for k in (1, 5, 10)}


def project(weights: dict[str, Tensor], side: str, vectors: Tensor) -> Tensor:
    """Standardise and project features of shape (N, d) into the common space: (N, 256), unit norm."""
    standard = (vectors - weights[f"{side}_mean"]) / weights[f"{side}_std"]
    return F.normalize(standard @ weights[f"{side}_weight"], dim=-1)


def retrieval_ranks(similarity: Tensor) -> Tensor:
    """Return the rank, from 0, of the right caption for each image, given similarities of shape (N
    images, N texts).
    """
    return (similarity > similarity.diagonal()[:, None]).sum(1)


def train_projections(images: Tensor, texts: Tensor) -> dict[str, Tensor]:
    """Fit both projections with the symmetric contrastive loss of CLIP (Radford et al. 2021) at a
    fixed temperature.

    The random numbers are the function's own: the same features give the same projections.

    Args:
        images: Image features of shape (N, d_image), N ≥ 2.
        texts: Sentence vectors of shape (N, d_text), row by row the captions of the images.

    Returns:
        For each side its ``mean`` and ``std`` of shape (d,) and its ``weight`` of shape (d, 256).
    """
    generator = torch.Generator().manual_seed(_SEED)
    weights: dict[str, Tensor] = {}
    for side, vectors in (("image", images), ("text", texts)):
        weights[f"{side}_mean"] = vectors.mean(0)
        weights[f"{side}_std"] = vectors.std(0).clamp_min(1e-3)
        initial = torch.randn(vectors.shape[1], _DIM, generator=generator) / vectors.shape[1] ** 0.5
        weights[f"{side}_weight"] = initial.requires_grad_()
    learned = [weights["image_weight"], weights["text_weight"]]
    optimizer = torch.optim.AdamW(learned, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    batch = min(_BATCH, len(images))
    steps = _EPOCHS * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.enable_grad():
        for _ in range(_EPOCHS):
            order = torch.randperm(len(images), generator=generator)
            for rows in torch.split(order, batch):
                if len(rows) < batch:
                    continue  # a smaller batch is an easier task; its pictures come elsewhere in the next epoch
                kept = (torch.rand(batch, images.shape[1], generator=generator) > _DROPOUT).float()
                image = project(
                    weights, "image", images[rows] * kept + weights["image_mean"] * (1 - kept)
                )
                logits = image @ project(weights, "text", texts[rows]).T / _TEMPERATURE  # (B, B)
                target = torch.arange(batch)
                loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return {name: tensor.detach() for name, tensor in weights.items()}


_MOST_REAL = 512


class ClipScore(TextMetric):
    """Mean over the images of 100 · max(cos(image, caption), 0) (Hessel et al. 2021).

    Without their factor 2.5, and without the "A photo depicts" that they put before each caption:
    the pictures are drawn from the caption as it is, and need be no photographs.
    """

    version = 1
    bounds = (0.0, 100.0)

    def __init__(
        self,
        data: Reference,
        settings: MetricSettings,
        networks: Networks | None = None,
        prompts: Prompts = "seen",
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
        key = {
            "kind": "clip score of real pictures",
            "schema": 2,
            "version": self.version,
            "data": data.fingerprint,
        }
        key |= {"images": self._images.key, "texts": self._clip.text_key}

        def build() -> dict[str, Tensor]:
            return {
                "values": self._of(
                    some_features(self._images, data, rows),
                    [data.captions[i] for i in rows.tolist()],
                )
            }

        return cached_tensors(key, build)["values"]
