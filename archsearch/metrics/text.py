"""How well pictures fit their captions."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from archsearch.data.cache import cached_tensors
from archsearch.errors import InputError
from archsearch.metrics.base import Reference, StreamedMetric, mean_resamples, real_features
from archsearch.metrics.networks import Networks
from archsearch.metrics.spec import Direction, MetricSettings, Prompts


class TextMetric(StreamedMetric):
    """Mean over the images of how well each fits its caption.

    The same class scores two sets of pictures under two names: those sampled from seen captions,
    and under ``NAME_recombined`` those sampled from recombinations of known colours or styles and
    known objects, which no picture shows. For seen captions ``NAME_floor`` is what the held-out
    pictures get with their own captions, and ``NAME_floor_sd`` the standard deviation of the mean
    of as many of them as there are images. Recombinations have no real pictures, and no floor.
    """

    direction: Direction = "maximize"

    def __init__(self, name: str, prompts: Prompts) -> None:
        super().__init__()
        self.name = name if prompts == "seen" else f"{name}_{prompts}"
        self._prompts = prompts

    @abstractmethod
    def _fit_of(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Return how well each image (B, 3, H, W) fits its caption: (B,)."""

    @abstractmethod
    def _real(self) -> Tensor:
        """Return the same of held-out pictures and their own captions: (n,), empty where the data
        have no captions.
        """

    def _keep(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        return self._fit_of(images, captions).double()

    def _score(self, values: Tensor) -> tuple[float, Tensor]:
        return float(values.mean()), mean_resamples(values)

    def _floor(self, count: int) -> tuple[float, float] | None:
        real = self._real().double() if self._prompts == "seen" else torch.empty(0)
        return (float(real.mean()), float(real.std()) / count**0.5) if len(real) > 1 else None


_FEWEST = 2  # pictures on each side of the split
_RECALLS = (1, 5, 10)
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
        self, data: Reference, settings: MetricSettings, networks: Networks, prompts: Prompts
    ) -> None:
        super().__init__("alignment", prompts)
        self._extractor, self._encoder = networks.effnet, networks.text
        if not data.captions:
            raise InputError(
                f"{self.name} needs captions of the real pictures to learn from, and these have "
                "none."
            )
        fitted = data.train[~torch.isin(data.train, data.held_out)]
        if min(len(fitted), len(data.held_out)) < _FEWEST:
            raise InputError(
                f"{self.name} needs at least {_FEWEST} real pictures to learn from and {_FEWEST} "
                f"held out, but got {len(fitted)} and {len(data.held_out)}."
            )
        key = {
            "kind": "alignment",
            "schema": 2,
            "version": self.version,
            "data": data.fingerprint,
            "extractor": self._extractor.key,
            "encoder": [self._encoder.name, self._encoder.version],
        }
        self._weights = cached_tensors(key, lambda: self._fit(data, fitted))
        self._pairs: list[Tensor] = []  # (2, B, 256) each: images and texts, unit norm

    @override
    def compute(self) -> dict[str, float]:
        result = super().compute()
        images, texts = torch.cat(self._pairs, 1)
        result[f"{self.name}_mismatched"] = float((images * texts.roll(1, 0)).sum(1).mean())
        for k in _RECALLS:
            result[f"{self.name}_recall_at_{k}"] = float(self._weights[f"recall_at_{k}"])
        return result

    @override
    def reset(self) -> None:
        super().reset()
        self._pairs.clear()

    def _fit_of(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        image = project(self._weights, "image", self._extractor(images))
        text = project(self._weights, "text", self._encoder.pooled(captions))
        self._pairs.append(torch.stack([image, text]))
        return (image * text).sum(1)

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
        return weights | {f"recall_at_{k}": (ranks < k).double().mean() for k in _RECALLS}


def project(weights: dict[str, Tensor], side: str, vectors: Tensor) -> Tensor:
    """Standardise features of shape (N, d) and project them into the common space: (N, 256), unit
    norm.
    """
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
                    # A smaller batch is an easier task. Its pictures are elsewhere in the order of
                    # the next epoch.
                    continue
                kept = (torch.rand(batch, images.shape[1], generator=generator) > _DROPOUT).float()
                dropped = images[rows] * kept + weights["image_mean"] * (1 - kept)
                image = project(weights, "image", dropped)
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
        self, data: Reference, settings: MetricSettings, networks: Networks, prompts: Prompts
    ) -> None:
        super().__init__("clip_score", prompts)
        self._data, self._clip = data, networks.clip

    def _fit_of(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        return self._cosines(self._clip(images), captions)

    def _cosines(self, embedded: Tensor, captions: Sequence[str]) -> Tensor:
        cosines = (embedded.double() * self._clip.texts(captions).double()).sum(1)
        return (100 * cosines).clamp_min(0)

    def _real(self) -> Tensor:
        data, clip = self._data, self._clip
        if not data.captions:
            return torch.empty(0)
        rows = data.held_out[:_MOST_REAL]
        captions = [data.captions[i] for i in rows.tolist()]
        key = {
            "kind": "clip score of real pictures",
            "schema": 2,
            "version": self.version,
            "data": data.fingerprint,
            "images": clip.key,
            "texts": clip.text_key,
        }
        return cached_tensors(
            key, lambda: {"values": self._cosines(real_features(clip, data, rows), captions)}
        )["values"]
