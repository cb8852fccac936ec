"""What the accelerators of phones do not take, who says so, and how much of it a network has.

The list is short on purpose: it holds what has a source, and what a network can be looked through
for here. Where an operator really runs is decided on the device.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs
from archsearch.unet.plan import plan

APPLE = "apple/coreai-models, skills/skills/model-authoring/references/neural_engine_rules.md"
LEAST_WIDTH = 32  # float16 values in 64 bytes
MOST_AXES = 5

_COUNTED: dict[Callable[..., Any], str] = {
    F.group_norm: "group norm",
    F.layer_norm: "layer norm",
    F.interpolate: "upsampling",
    F.linear: "linear layer",
    F.scaled_dot_product_attention: "softmax attention layer",
}


class Census(NamedTuple):
    """What a forward pass is made of.

    Attributes:
        operators: How often each of ``_COUNTED`` is called.
        axes: Of the tensor that has most.
    """

    operators: Counter[str]
    axes: int


class Caution(NamedTuple):
    """Something that an accelerator does not take, or takes badly.

    Attributes:
        what: The rule, in a sentence.
        source: Who says so.
        here: How much of it the network has.
    """

    what: str
    source: str
    here: str


class _Counting(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.operators, self.axes = Counter[str](), 0

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _COUNTED:
            self.operators[_COUNTED[func]] += 1
        if isinstance(output, Tensor):
            self.axes = max(self.axes, output.dim())
        return output


def census(config: UNetConfig) -> Census:
    """Look through a forward pass at batch 1; nothing is computed, and no memory taken."""
    with torch.device("meta"):
        network = UNet(config).eval()
    with torch.inference_mode(), _Counting() as counting:
        network(*example_inputs(config, device="meta"))
    return Census(counting.operators, counting.axes)


def cautions(config: UNetConfig) -> list[Caution]:
    """What is to be known of a network before it meets an accelerator."""
    found = census(config)
    count = found.operators
    sizes = sorted({block.residual.size for block in plan(config).blocks()})
    narrow = [f"{size} × {size}" for size in sizes if size < LEAST_WIDTH]
    return [
        Caution(
            "XNNPACK, as ExecuTorch uses it, takes neither group norm nor layer norm nor nearest "
            "upsampling, and not all that softmax attention is taken apart into: each ends a "
            "delegated piece of the graph.",
            "the operators of its partitioner, executorch 1.5.1 "
            "(backends/xnnpack/partition/config); the card of an `executorch` export counts them",
            _several(count, "group norm", "layer norm", "upsampling", "softmax attention layer"),
        ),
        Caution(
            "ExecuTorch's MLX backend did not take group norm and upsampling either, until August "
            "2026: the UNet of an SD-1.5 shape fell into 28 pieces, and is one since.",
            "pytorch/executorch#22017, #22050",
            _several(count, "group norm", "upsampling"),
        ),
        Caution(
            f"The neural engine takes tensors of at most {MOST_AXES} axes.",
            APPLE,
            f"at most {found.axes} axes",
        ),
        Caution(
            f"It pads the last axis of a tensor to 64 bytes, {LEAST_WIDTH} values of float16: "
            "narrower maps waste memory and time.",
            APPLE,
            f"maps of {', '.join(narrow)}" if narrow else f"no map narrower than {LEAST_WIDTH}",
        ),
        Caution(
            "It computes convolutions; linear layers become less efficient operators that may run "
            "elsewhere. A 1×1 convolution computes the same.",
            APPLE,
            _several(count, "linear layer"),
        ),
        Caution(
            "It has no fused attention: heads are computed one by one.",
            APPLE,
            _several(count, "softmax attention layer"),
        ),
        Caution(
            "It takes shapes that are fixed, and float16, int8 and int16; float32 runs elsewhere.",
            APPLE,
            "Core ML, Core AI and ExecuTorch files have fixed shapes; the batch of an ONNX file "
            "can be fixed with `python -m onnxruntime.tools.make_dynamic_shape_fixed`",
        ),
        Caution(
            "A UNet with quantised weights can answer the text less: one in w8a16 had 1/19 of the "
            "difference between with and without caption.",
            "qualcomm/ai-hub-apps#155",
            "measured where the file is quantised and its weights are trained",
        ),
    ]


def _several(count: Counter[str], *names: str) -> str:
    return ", ".join(f"{count[name]} {name}{'' if count[name] == 1 else 's'}" for name in names)
