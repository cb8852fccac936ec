"""What a run's numbers were made with: ``environment.json``."""

import importlib.metadata
import os
import platform
from typing import Any

import torch

from archsearch.study.setting import Setting
from archsearch.study.versions import versions


def environment(setting: Setting) -> dict[str, Any]:
    """What a run's numbers were made with.

    Raises:
        InputError: The text encoder or the latent space is not there.
    """
    channels, width = setting.read_proxy_ends()
    packages = ("archsearch", "torch", "optuna", "diffusers", "transformers", "onnxruntime", "numpy")
    return {
        "schema": 1,
        "study": setting.name,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "proxy": {"channels": channels, "context_dim": width},
        "versions": versions(setting.spec),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }
