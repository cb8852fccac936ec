"""The int8 scheme, written once: what static quantisation rounds, and to which steps.

``archsearch.runtimes.onnx`` writes it into graphs that ONNX Runtime computes in integers;
``archsearch.diffusion.quantise`` rounds by it in torch, to tell what a trained network is worth in
int8.

- Convolutions, linear layers and both products of attention take quantised operands. Convolutions
  also deliver quantised outputs, for their integer kernels write nothing else. Norms, softmax,
  activation functions, sums and the resizing of maps stay float32.
- Weights are symmetric about zero, with one step an output channel.
- Activations have one range a tensor, from the lowest to the highest value of a calibration
  (MinMax), with zero always in it, so that zeros, as in padding, stay exact. They are unsigned and
  use the range as it is; ARM's kernels like signed ones, symmetric about zero.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from archsearch.runtimes.base import Array

Values = TypeVar("Values", Array, Tensor)


class Operator(NamedTuple):
    """A kind of operator that is quantised.

    Attributes:
        nodes: What it is in an ONNX graph.
        functions: What it is in torch.
        operands: Its operands that are activations, in order; weights follow.
        output: Whether its output is quantised too.
    """

    name: str
    nodes: tuple[str, ...]
    functions: tuple[Callable[..., Any], ...]
    operands: tuple[str, ...]
    output: bool = False


OPERATORS = (
    Operator("conv", ("Conv",), (F.conv2d,), ("input",), output=True),
    Operator("linear", ("Gemm", "MatMul"), (F.linear,), ("input",)),
    Operator(
        "product",
        ("MatMul",),
        (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm),
        ("left", "right"),
    ),
)


def activation_grid(
    low: float, high: float, bits: int = 8, signed: bool = False
) -> tuple[float, int]:
    """Steps of an activation over [``low``, ``high``], widened to hold zero.

    Returns:
        The step, 0 where the range is empty, and the integer that stands for zero.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if signed:
        return max(-low, high) / (2 ** (bits - 1) - 1), 0
    step = (high - low) / (2**bits - 1)
    return step, round(-low / step) if step > 0 else 0


def weight_grid(weight: Values, largest: Values, bits: int) -> tuple[Values, Values]:
    """Round a weight to 2^bits − 1 integers symmetric about zero.

    Args:
        weight: Values, of any shape.
        largest: Largest magnitude of each output channel, of a shape that broadcasts to
            ``weight``'s.
        bits: 8, or 7 for kernels that could saturate.

    Returns:
        The integers, as floating-point numbers, and the steps, of the shape of ``largest``; a
        channel of zeros has step 1.
    """
    steps = largest / (2 ** (bits - 1) - 1)
    steps = steps + (steps == 0)
    return (weight / steps).round(), steps
