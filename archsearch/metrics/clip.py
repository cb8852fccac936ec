"""A CLIP that the user brings: embeddings of pictures and captions in one space."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from archsearch.errors import InputError

FILE_NEEDED = "a transformers CLIPModel with its tokenizer, as a hub id or a local folder"
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
_BATCH = 32


class Clip:
    """Any ``CLIPModel`` of transformers, in fp32. Called with pictures it is a feature extractor.

    The pictures are prepared here as ``preprocessor_config.json`` says (bicubic resize, centre crop, normalisation), so
    that no image library is needed.
    """

    def __init__(self, clip: str) -> None:
        """Load the model and its tokenizer.

        Args:
            clip: A hub id or a local folder.

        Raises:
            InputError: There is no such folder, or it cannot be loaded.
        """
        self._model, self._tokenizer, self._size, self._mean, self._std = _load(clip)
        self.num_features = int(self._model.config.projection_dim)
        self.key: dict[str, Any] = {
            "name": "clip",
            "sha256": _digest(self._model),
            "input": [self._size, list(self._mean), list(self._std)],
            "preprocessing": 1,
        }

    def __call__(self, images: Tensor) -> Tensor:
        """Return embeddings of uint8 images (B, 3, H, W): float32 of shape (B, num_features), unit norm, on the CPU."""
        model = self._model.to(images.device)
        batches = [torch.empty(0, self.num_features)]
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for batch in torch.split(images, _BATCH):
                pixels = resize_and_crop(batch, self._size, self._mean, self._std)
                embedded = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
                batches.append(F.normalize(embedded.float(), dim=-1).cpu())
        return torch.cat(batches).clone()  # outside inference mode: an ordinary tensor

    def texts(self, captions: Sequence[str]) -> Tensor:
        """Return embeddings of N captions, cut to the model's length: float32 of shape (N, num_features), unit norm."""
        model = self._model
        batches = [torch.empty(0, self.num_features)]
        for start in range(0, len(captions), _BATCH):
            tokens = self._tokenizer(
                list(captions[start : start + _BATCH]),
                padding=True,
                truncation=True,
                max_length=model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            ).to(model.device)
            with torch.inference_mode():
                states = model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
                batches.append(F.normalize(model.text_projection(states.pooler_output).float(), dim=-1).cpu())
        return torch.cat(batches).clone()


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


def _digest(model: Any) -> str:
    """SHA-256 over the weights that embed pictures: a folder's name or a hub id may come to mean others."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(("vision_model.", "visual_projection.")):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
