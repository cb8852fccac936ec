"""FID's InceptionV3, from the file that the user brings."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archsearch.errors import InputError

FILE_NEEDED = (
    "FID's InceptionV3 as a TorchScript file, usually inception-2015-12-05.pt, called as net(uint8_images, return_features=True)"
)


class Inception:
    """Features of a TorchScript network called as ``net(uint8_images, return_features=True)``; it resizes by itself."""

    def __init__(self, path: Path) -> None:
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self._network: nn.Module = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
            self.num_features = self._features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape[1]
        except OSError as error:
            raise InputError(
                f"metrics.inception: {path}: cannot be read: {error.strerror or error}. Needed: {FILE_NEEDED}."
            ) from error
        except (RuntimeError, ValueError, IndexError, AttributeError, TypeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"metrics.inception: {path}: not a network for FID ({reason}). Needed: {FILE_NEEDED}; "
                "a traced module does not take the argument, a scripted one does."
            ) from error
        self.key: dict[str, Any] = {"name": "torchscript", "sha256": digest}

    def __call__(self, images: Tensor) -> Tensor:
        """Return features of uint8 images (B, 3, H, W): float32 of shape (B, num_features), on the CPU."""
        batches = [torch.empty(0, self.num_features)]
        batches += [self._features(batch).cpu() for batch in torch.split(images, 32)]
        return torch.cat(batches).clone()

    def _features(self, images: Tensor) -> Tensor:
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features = self._network.to(images.device)(images, return_features=True)
        if not isinstance(features, Tensor) or len(features) != len(images):
            raise ValueError("return_features=True does not give one row of features an image")
        return features.float().flatten(1)
