"""The peak of activation memory of a built network, tracked: what the closed form is compared
with.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from archsearch.cost.counters import build_on_meta
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import example_inputs


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records for every operation which storages it reads and makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[tuple[set[int], set[int]]] = []
        self.elements: dict[int, int] = {}
        self.keep_alive: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        reads = {
            self._storage(leaf)
            for leaf in tree_flatten((args, kwargs))[0]
            if isinstance(leaf, Tensor)
        }
        made = {self._storage(leaf) for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)}
        self.steps.append((reads, made - reads))
        return result

    def _storage(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.elements:
            self.elements[storage._cdata] = storage.nbytes() // tensor.element_size()
            self.keep_alive.append(storage)  # so that no other storage can take its address
        return int(storage._cdata)


class _UnfusedAttention(TorchFunctionMode):
    """Runs scaled dot-product attention as separate operations, so that its scores are seen."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            q, k, v = args
            return torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1), dim=-1) @ v
        return func(*args, **(kwargs or {}))


def track_peak_activation_bytes(config: UNetConfig) -> int:
    """Peak activation bytes of the built network, from the record of a forward pass on the meta
    device.

    A tensor lives from the operation that makes it to the last that reads it; what is never read
    (statistics of norms) is workspace; sample, context, pooled text and time ids live throughout.
    """
    module = build_on_meta(config)
    inputs = example_inputs(config, device="meta")
    recorder = _Recorder()
    with torch.no_grad(), _UnfusedAttention(), recorder:
        output = module(*inputs)
    weights = {recorder._storage(parameter) for parameter in module.parameters()}
    owned = {recorder._storage(tensor) for tensor in (inputs[0], *inputs[2:])}
    last_read = {
        storage: step for step, (reads, _) in enumerate(recorder.steps) for storage in reads
    }
    last_read[recorder._storage(output)] = len(recorder.steps)
    base = sum(recorder.elements[storage] for storage in owned)
    alive: set[int] = set()
    peak = 0
    for step, (_, made) in enumerate(recorder.steps):
        alive |= {storage for storage in made if storage in last_read} - weights - owned
        peak = max(peak, base + sum(recorder.elements[storage] for storage in alive))
        alive = {storage for storage in alive if last_read[storage] > step}
    return peak * 4
