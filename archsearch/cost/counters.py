"""What other counters say of the built network, as ``arch show --counter`` prints it.

Known blind spots: thop counts no attention products and none of GroupNorm's parameters; fvcore
needs to be told about ``scaled_dot_product_attention``; torch's ``FlopCounterMode`` on the meta
device is exact.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs


def build_on_meta(config: UNetConfig) -> UNet:
    """Build the network on the meta device: shapes, no memory."""
    with torch.device("meta"):
        return UNet(config).eval()


def count_torch(config: UNetConfig) -> dict[str, int]:
    """Parameters and MACs by ``FlopCounterMode`` on the meta device (it counts two operations a
    MAC).
    """
    module = build_on_meta(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*example_inputs(config, device="meta"))
    return {"params": _params(module), "macs": counter.get_total_flops() // 2}


def _count_fvcore(config: UNetConfig) -> dict[str, int]:
    # told about fused attention; runs the network on the CPU
    from fvcore.nn import FlopCountAnalysis

    def attention_macs(inputs: list[Any], _: list[Any]) -> int:
        (batch, heads, tokens, dim), keys = inputs[0].type().sizes(), inputs[1].type().sizes()[2]
        return 2 * int(batch) * int(heads) * int(tokens) * int(dim) * int(keys)

    module = UNet(config).eval()
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(module, example_inputs(config))
    analysis.set_op_handle("aten::scaled_dot_product_attention", attention_macs)
    # fvcore also counts norms and interpolation; MACs here mean matrix products and convolutions.
    # A handler of 0, since None does not remove the handlers that fvcore brings itself.
    analysis.set_op_handle(
        **{
            f"aten::{op}": lambda _, __: 0
            for op in ("group_norm", "layer_norm", "upsample_nearest2d")
        }
    )
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad():
        return {"params": _params(module), "macs": int(analysis.total())}


def _count_thop(config: UNetConfig) -> dict[str, int]:
    # as it comes: no attention products, norms counted as MACs
    from thop import profile

    module = UNet(config).eval()
    with torch.no_grad():
        macs, params = profile(module, inputs=example_inputs(config), verbose=False)
    return {"params": int(params), "macs": int(macs)}


COUNTERS: dict[str, Callable[[UNetConfig], dict[str, int]]] = {
    "torch": count_torch,
    "fvcore": _count_fvcore,
    "thop": _count_thop,
}


def _params(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
