"""Thirty-two drawn pictures and a network of some thousand parameters."""

import pytest
import torch

from archsearch.data.prepare import Prepared
from archsearch.diffusion.spec import Recipe
from archsearch.unet.config import UNetConfig


@pytest.fixture
def config() -> UNetConfig:
    return UNetConfig.model_validate(
        {
            "in_channels": 3,
            "out_channels": 3,
            "sample_size": 8,
            "context_dim": 4,
            "context_tokens": 2,
            "norm_groups": 8,
            "stages": [
                {"channels": 16, "down": [{}], "up": [{}]},
                {
                    "channels": 16,
                    "down": [{"transformers": 1, "layers": ["ca"]}],
                    "up": [{}],
                    "attention": {"heads": 2},
                },
            ],
        }
    )


@pytest.fixture
def data() -> Prepared:
    """Pictures of one colour each, whose caption features tell which half of the colours they are
    from.
    """
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (32, 3, 1, 1), dtype=torch.uint8, generator=generator)
    context = torch.zeros(32, 2, 4, dtype=torch.float16)
    context[:16, 0, 0] = 1
    return Prepared(
        images=colours.expand(32, 3, 8, 8).contiguous(),
        captions=tuple(f"colour {i}" for i in range(32)),
        families=tuple(str(i) for i in range(32)),
        context=context,
        null_context=torch.zeros(2, 4, dtype=torch.float16),
        train=torch.arange(24),
        held_out=torch.arange(24, 32),
        fingerprint="32 colours",
    )


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(samples=64, batch=8, draws=16, precision="fp32", learning_rate=3e-3)
