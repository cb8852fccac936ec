"""What other counters say of a small network, and what each of them misses, as numbers."""

import pytest
import torch
from torch import nn

from archsearch.cost.counters import (
    COUNTERS,
    _count_fvcore,
    _count_thop,
    build_on_meta,
    count_torch,
)
from archsearch.cost.price import price
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import RMSNorm, UNet, example_inputs

BLOCK = {"layers": ["sa", "ca", "ff"]}
NORMALIZERS = ("softmax", "relu", "linear", "linear_everywhere")


def network(normalizer: str) -> UNetConfig:
    return UNetConfig.model_validate(
        {
            "sample_size": 16,
            "context_dim": 24,
            "context_tokens": 5,
            "norm_groups": 8,
            "attention": {"heads": 4, "normalizer": normalizer},
            "stages": [
                {"channels": 16, "down": [{}], "up": [{}, {}]},
                {"channels": 32, "down": [BLOCK], "up": [BLOCK, {}], "conv": "separable"},
            ],
        }
    )


def later() -> UNetConfig:
    """The options of newer networks: grouped and normed attention, expanded convolutions, linear
    projections, added embedding, guidance weight.
    """
    return UNetConfig.model_validate(
        network("softmax").to_dict()
        | {
            "attention": {"heads": 4, "kv_heads": 2, "qk_norm": "rms"},
            "conv": "expanded",
            "projection": "linear",
            "added": {"text_dim": 20, "ids": 2, "id_dim": 8},
            "guidance_dim": 12,
        }
    )


every = pytest.mark.parametrize(
    "config",
    [*map(network, NORMALIZERS), later()],
    ids=[*NORMALIZERS, "later"],
)


@every
def test_torch_and_fvcore_agree_with_the_closed_form(config: UNetConfig) -> None:
    """fvcore with its handlers of norms and interpolation silenced and one for fused attention
    added.
    """
    cost = price(config)
    assert count_torch(config) == {"params": cost.params, "macs": cost.macs}
    assert _count_fvcore(config) == {"params": cost.params, "macs": cost.macs}


def test_fvcore_as_it_comes_misses_fused_attention_and_counts_norms() -> None:
    from fvcore.nn import FlopCountAnalysis

    config = network("softmax")
    kinds = price(config).macs_by_kind
    model = UNet(config).eval()
    analysis = FlopCountAnalysis(model, example_inputs(config)).unsupported_ops_warnings(False)
    counted = analysis.by_operator()
    assert counted.pop("conv") == kinds.conv
    assert counted.pop("linear") == kinds.linear
    assert set(counted) == {"group_norm", "layer_norm", "upsample_nearest2d"}, (
        "counted as MACs, and no attention among them"
    )
    assert analysis.unsupported_ops()["aten::scaled_dot_product_attention"] == 4


@pytest.mark.parametrize(
    "config", [network("softmax"), network("relu"), later()], ids=["softmax", "relu", "later"]
)
def test_thop_misses_attention_products_and_counts_layer_norms(config: UNetConfig) -> None:
    """2 blocks × 3 layer norms over 64 tokens × 32 channels, four operations an element; parameters
    less those of group norms.
    """
    cost, counted = price(config), _count_thop(config)
    assert cost.macs_by_kind.attention == 2 * (2 * 64 * 64 * 32 + 2 * 64 * 5 * 32)
    layer_norms = 2 * 3 * 64 * 32 * 4
    assert counted["macs"] == cost.macs - cost.macs_by_kind.attention + layer_norms
    missed = sum(
        p.numel()
        for m in build_on_meta(config).modules()
        if isinstance(m, nn.GroupNorm | RMSNorm)
        for p in m.parameters()
    )
    assert counted["params"] == cost.params - missed


def test_counters_by_name() -> None:
    assert {"torch": count_torch, "fvcore": _count_fvcore, "thop": _count_thop} == COUNTERS


def test_building_on_meta_takes_no_memory() -> None:
    assert {parameter.device for parameter in build_on_meta(network("relu")).parameters()} == {
        torch.device("meta")
    }
