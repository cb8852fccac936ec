"""A CLIP that the user brings: embeddings of pictures and captions in one space."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from archsearch.data.hub import ModelFolder
from archsearch.data.quiet import quiet

FILE_NEEDED = "a transformers CLIPModel with its tokenizer, as a hub id or a local folder"
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
_BATCH = 32
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")
_NOT_IN_WEIGHTS = ("hidden_act", "num_attention_heads", "layer_norm_eps", "eos_token_id")
"""What a tower computes, beside the shapes of its weights."""


class Clip:
    """Any ``CLIPModel`` of transformers, in fp32. Called with pictures it is a feature extractor.

    The pictures are prepared here as ``preprocessor_config.json`` says (bicubic resize, centre crop, normalisation), so
    that no image library is needed.

    Attributes:
        key: Identifies the embeddings of pictures.
        text_key: Identifies those of captions: text tower and tokenizer.
    """

    def __init__(self, clip: str) -> None:
        """Load the model and its tokenizer.

        Args:
            clip: A hub id or a local folder.

        Raises:
            InputError: There is no such folder, or it cannot be loaded, or weights are missing.
        """
        source = ModelFolder("metrics.clip", clip, FILE_NEEDED)
        folder = source.folder()
        self._model, self._tokenizer = _load(source, folder)
        found = _preprocessing(source, folder)
        self._size = int(self._model.config.vision_config.image_size)
        self._mean, self._std = found.get("image_mean", _MEAN), found.get("image_std", _STD)
        self.num_features = int(self._model.config.projection_dim)
        self.key: dict[str, Any] = {
            "name": "clip",
            "sha256": _digest(self._model, "vision_model.", "visual_projection."),
            "config": _settings(self._model.config.vision_config),
            "input": [self._size, list(self._mean), list(self._std)],
            "preprocessing": 1,
        }
        self.text_key: dict[str, Any] = {
            "name": "clip",
            "sha256": _digest(self._model, "text_model.", "text_projection."),
            "config": _settings(self._model.config.text_config),
            "tokenizer": _tokenizer_digest(folder),
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


def _load(source: ModelFolder, folder: Path) -> tuple[Any, Any]:
    """Return model and tokenizer, read from ``folder`` alone."""
    import transformers
    from transformers.utils import logging

    with quiet(logging):
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            loaded: Any = transformers.CLIPModel.from_pretrained(
                str(folder), local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # whatever transformers, tokenizers and safetensors raise on missing and damaged files
            lines = str(error).strip().splitlines()
            raise source.unusable(f"cannot be loaded ({lines[0] if lines else type(error).__name__})") from error
    model, loading = loaded
    # transformers fills what is missing with random numbers.
    if missing := sorted({*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])}):
        raise source.unusable(f"its weights lack {len(missing)} tensors of a CLIPModel, such as {missing[0]}")
    return model.eval().requires_grad_(False), tokenizer


def _preprocessing(source: ModelFolder, folder: Path) -> Mapping[str, Any]:
    """Return the image processor's settings, from the file of old or of newer transformers; CLIP's own if neither."""
    for name, inside in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = content.get(inside, {}) if inside else content
            return {key: [float(value) for value in found[key]] for key in ("image_mean", "image_std") if key in found}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise source.unusable(f"its {name} cannot be read: {error}") from error
    return {}


def _digest(model: Any, *parts: str) -> str:
    """SHA-256 over the weights of some modules: a folder's name or a hub id may come to mean others."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(parts):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _settings(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in _NOT_IN_WEIGHTS if hasattr(config, name)}


def _tokenizer_digest(folder: Path) -> str:
    """SHA-256 over the tokenizer's files."""
    digest = hashlib.sha256()
    for path in (folder / name for name in _TOKENIZER):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
