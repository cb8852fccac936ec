"""Do image and caption agree, without CLIP weights: two linear projections learned on the data itself."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from archsearch.data.cache import cached_tensors
from archsearch.data.prepare import Prepared
from archsearch.data.text import MiniLM
from archsearch.metrics.base import Direction, check_batch, require_images
from archsearch.metrics.effnet import EfficientNetLite0
from archsearch.metrics.features import real_features
from archsearch.metrics.settings import MetricSettings

_DIM, _EPOCHS, _BATCH, _SEED = 256, 25, 256, 0
_LEARNING_RATE, _WEIGHT_DECAY, _TEMPERATURE, _DROPOUT = 1e-3, 1e-2, 0.15, 0.5


class Alignment:
    """Mean cosine between generated images and their captions under a small contrastive model.

    Linear projections over frozen EfficientNet-Lite0 features and MiniLM sentence vectors, trained on the train
    pictures with a symmetric contrastive loss, and cached. A relative score for one set of data: read it beside
    ``alignment_mismatched`` (captions moved on by one image, so feed them in no sorted order: a score no better than
    this means that the captions had no effect) and ``alignment_recall_at_{1,5,10}`` (image → text on the held-out
    pictures: how far the score can be trusted at all). Never a training signal for what it scores.
    """

    name = "alignment"
    version = 1
    direction: Direction = "maximize"

    def __init__(self, data: Prepared, settings: MetricSettings) -> None:
        self._extractor = EfficientNetLite0()
        self._encoder = MiniLM()
        key = {"kind": "alignment", "version": self.version, "data": data.fingerprint}
        key |= {"extractor": self._extractor.key, "encoder": [self._encoder.name, self._encoder.version]}
        self._weights = cached_tensors(key, lambda: self._fit(data))
        self._images: list[Tensor] = []
        self._texts: list[Tensor] = []

    def update(self, images: Tensor, captions: Sequence[str]) -> None:
        """Add generated images, uint8 of shape (B, 3, H, W), and their B captions."""
        check_batch(images, captions)
        if len(images):
            self._images.append(project(self._weights, "image", self._extractor(images)))
            self._texts.append(project(self._weights, "text", self._encoder.pooled(captions)))

    def compute(self) -> dict[str, float]:
        """Return ``alignment``, ``alignment_mismatched`` and ``alignment_recall_at_1``, ``_5``, ``_10``."""
        require_images(self.name, sum(map(len, self._images)), 1)
        images, texts = torch.cat(self._images), torch.cat(self._texts)  # (N, 256) each, unit norm
        result = {
            self.name: float((images * texts).sum(1).mean()),
            f"{self.name}_mismatched": float((images * texts.roll(1, 0)).sum(1).mean()),
        }
        return result | {f"{self.name}_recall_at_{k}": float(self._weights[f"recall_at_{k}"]) for k in (1, 5, 10)}

    def reset(self) -> None:
        """Forget the generated images."""
        self._images.clear()
        self._texts.clear()

    def _fit(self, data: Prepared) -> dict[str, Tensor]:
        features = real_features(self._extractor, data)
        texts = self._encoder.pooled(data.captions)
        weights = train_projections(features[data.train], texts[data.train])
        images = project(weights, "image", features[data.held_out])
        ranks = retrieval_ranks(images @ project(weights, "text", texts[data.held_out]).T)
        return weights | {f"recall_at_{k}": (ranks < k).double().mean() for k in (1, 5, 10)}


def project(weights: dict[str, Tensor], side: str, vectors: Tensor) -> Tensor:
    """Standardise and project features of shape (N, d) into the common space: (N, 256), unit norm."""
    standard = (vectors - weights[f"{side}_mean"]) / weights[f"{side}_std"]
    return F.normalize(standard @ weights[f"{side}_weight"], dim=-1)


def retrieval_ranks(similarity: Tensor) -> Tensor:
    """Return the rank, from 0, of the right caption for each image, given similarities of shape (N images, N texts)."""
    return (similarity > similarity.diagonal()[:, None]).sum(1)


def train_projections(images: Tensor, texts: Tensor) -> dict[str, Tensor]:
    """Fit both projections with the symmetric contrastive loss of CLIP (Radford et al. 2021) at a fixed temperature.

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
                image = project(weights, "image", images[rows] * kept + weights["image_mean"] * (1 - kept))
                logits = image @ project(weights, "text", texts[rows]).T / _TEMPERATURE  # (B, B)
                target = torch.arange(batch)
                loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return {name: tensor.detach() for name, tensor in weights.items()}
