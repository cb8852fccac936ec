"""CLIP score with a model that the user brings."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from archsearch.data.prepare import Prepared
from archsearch.errors import InputError
from archsearch.metrics.base import Direction, check_batch, require_images
from archsearch.metrics.settings import MetricSettings

FILE_NEEDED = "a transformers CLIPModel with its tokenizer, as a hub id or a local folder"
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own


class ClipScore:
    """Mean over the images of 100 · max(cos(image, caption), 0) (Hessel et al. 2021, without their factor 2.5).

    The pictures are prepared here as ``preprocessor_config.json`` says (bicubic resize, centre crop, normalisation), so
    that no image library is needed.
    """

    name = "clip_score"
    version = 1
    direction: Direction = "maximize"

    def __init__(self, data: Prepared, settings: MetricSettings) -> None:
        if settings.clip is None:
            raise InputError(
                f"metrics.clip: clip_score needs {FILE_NEEDED}; no package carries its weights. "
                "Give it with --set metrics.clip=/path, or use alignment."
            )
        self._model, self._tokenizer, self._size, self._mean, self._std = _load(settings.clip)
        self._total, self._count = 0.0, 0

    def update(self, images: Tensor, captions: Sequence[str]) -> None:
        """Add generated images, uint8 of shape (B, 3, H, W), and their B captions."""
        check_batch(images, captions)
        model = self._model.to(images.device)
        for start in range(0, len(images), 32):
            batch = images[start : start + 32]
            tokens = self._tokenizer(
                list(captions[start : start + 32]),
                padding=True,
                truncation=True,
                max_length=model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            ).to(images.device)
            with torch.inference_mode():
                output = model(
                    input_ids=tokens["input_ids"],
                    attention_mask=tokens["attention_mask"],
                    pixel_values=resize_and_crop(batch, self._size, self._mean, self._std),
                )
            cosine = F.cosine_similarity(output.image_embeds.double(), output.text_embeds.double())
            self._total += float((100 * cosine).clamp_min(0).sum())
            self._count += len(batch)

    def compute(self) -> dict[str, float]:
        """Return ``clip_score``, in 0…100."""
        require_images(self.name, self._count, 1)
        return {self.name: self._total / self._count}

    def reset(self) -> None:
        """Forget the generated images."""
        self._total, self._count = 0.0, 0


def resize_and_crop(images: Tensor, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Resize the shorter side of uint8 (B, 3, H, W) to ``size``, crop the centre, normalise: (B, 3, size, size)."""
    height, width = images.shape[-2:]
    scale = size / min(height, width)
    target = (max(size, round(height * scale)), max(size, round(width * scale)))
    pixels = images.float()
    if target != (height, width):
        pixels = F.interpolate(pixels, size=target, mode="bicubic", antialias=True).round().clamp(0, 255)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    pixels = pixels[..., top : top + size, left : left + size] / 255
    return (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)


def _load(clip: str) -> tuple[Any, Any, int, Sequence[float], Sequence[float]]:
    """Return model, tokenizer, input size, mean and standard deviation."""
    from transformers import AutoTokenizer, CLIPModel

    if clip.startswith(("/", ".", "~")) and not Path(clip).expanduser().is_dir():
        raise InputError(f"metrics.clip: {clip}: no such folder. Needed: {FILE_NEEDED}.")
    name = str(Path(clip).expanduser()) if clip.startswith("~") else clip
    try:
        model: Any = CLIPModel.from_pretrained(name)
        model = model.eval().requires_grad_(False)
        tokenizer = AutoTokenizer.from_pretrained(name)
        config = _preprocessing(name)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"metrics.clip: {clip}: cannot be loaded ({reason}). Needed: {FILE_NEEDED}.") from error
    size = int(model.config.vision_config.image_size)
    return model, tokenizer, size, config.get("image_mean", _MEAN), config.get("image_std", _STD)


def _preprocessing(name: str) -> dict[str, Any]:
    """Return the image processor's settings, from the file of old or of newer transformers; CLIP's own if neither."""
    from transformers.utils.hub import cached_file

    for file, inside in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        path = cached_file(
            name,
            file,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        if path is not None:
            content = json.loads(Path(path).read_text())
            found: dict[str, Any] = content.get(inside, {}) if inside else content
            return found
    return {}
