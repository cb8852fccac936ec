"""The price of a UNetConfig: parameters, MACs by kind and peak activation memory, without building it."""

from dataclasses import dataclass
from typing import Any

from archsearch.cost import memory
from archsearch.cost.bill import Bill, bill
from archsearch.cost.units import Macs
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import Plan, plan

BYTES_FP32 = 4
BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}
"""Bits a parameter by dtype. Scales of quantisation, some thousandths of the size, are not counted."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Counted cost at batch 1. Peak activation bytes are for 4-byte numbers."""

    params: int
    macs_by_kind: Macs
    peak_activation_bytes: int

    @property
    def macs(self) -> int:
        """Convolutions, linear layers and attention products together."""
        return self.macs_by_kind.total

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Size of the weights by the dtype that all of them are kept in."""
        return {dtype: -(-self.params * bits // 8) for dtype, bits in BITS.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``arch show --json`` prints it."""
        kinds = self.macs_by_kind
        return {
            "params": self.params,
            "macs": self.macs,
            "macs_by_kind": {"conv": kinds.conv, "linear": kinds.linear, "attention": kinds.attention},
            "peak_activation_bytes": self.peak_activation_bytes,
            "weight_bytes": self.weight_bytes,
        }


def price(config: UNetConfig | Plan) -> Cost:
    """Price an architecture in closed form; nothing is built. Exact against the module and ``FlopCounterMode``."""
    resolved = config if isinstance(config, Plan) else plan(config)
    total_params, conv, linear, attention = 0, 0, 0, 0
    bills: dict[int, Bill] = {}
    for unit, count in resolved.tally():
        cost = bills[id(unit)] = bill(unit)
        total_params += count * cost.params
        conv += count * cost.conv
        linear += count * cost.linear
        attention += count * cost.attention
    peak = memory.peak_activation_elements(resolved, bills) * BYTES_FP32
    return Cost(total_params, Macs(conv, linear, attention), peak)
