from pathlib import Path

import pytest

from archsearch.latency.table import LatencyTable
from archsearch.unet.config import UNetConfig

FIRST = Path(__file__).parent / "golden" / "first-cpu-onnxruntime-fp32.json"
GOLDEN = Path(__file__).parent / "golden" / "cpu-onnxruntime-fp32.json"


@pytest.fixture
def golden_path() -> Path:
    return GOLDEN


@pytest.fixture
def golden() -> LatencyTable:
    return LatencyTable.load(GOLDEN)


@pytest.fixture
def first_path() -> Path:
    """As the first version wrote it: residual blocks with their projection of time, no failures, no
    parts.
    """
    return FIRST


@pytest.fixture
def tiny() -> UNetConfig:
    """Eight units, five different, all of them in the golden tables."""
    return UNetConfig.model_validate(
        {
            "sample_size": 8,
            "norm_groups": 8,
            "attention": {"normalizer": "relu", "kv": "shared"},
            "stages": [
                {"channels": 32, "down": [{}], "up": [{"transformers": 1, "layers": ["sa"]}, {}]}
            ],
        }
    )
