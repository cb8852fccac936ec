"""What a trained network is worth in int8: a copy that rounds where static quantisation rounds, in
torch.

The scheme is that of ``archsearch/runtimes/onnx_qdq.py``. Convolutions, linear layers and both
products of attention take quantised operands; convolutions also deliver quantised outputs, for
their integer kernels write nothing else. Weights are symmetric with one scale an output channel,
activations asymmetric with one range a tensor, lowest to highest value of a calibration (MinMax)
with zero in it. Norms, softmax, activation functions, sums and the resizing of maps stay float32.
Two differences remain: biases are kept as they are, where the ONNX graph rounds them to 32 bits;
and everything rounded is held in float32, where integer kernels add exactly.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from archsearch.data.prepare import Prepared
from archsearch.diffusion.recipe import TRAIN_STEPS, Recipe, autocast, make_scheduler, memory_format
from archsearch.unet.model import UNet

VERSION = 1
"""Changes whenever a score of a quantised network would: part of the key of such a score."""

PICTURES = 128
"""Training pictures that calibrate the ranges of activations."""
EMPTY_EVERY = 8
"""One in so many of them comes with the empty caption, which guidance also meets."""
_BATCH = 32
_SEED = 20_261_124  # fixed: every network is calibrated on the same pictures, times and noise

_PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm)
_LARGEST_SCORES = 2**24
"""Attention scores held at a time: 64 MB."""


@dataclass
class Site:
    """A place where an activation is quantised: the operand or output of an operator, in order of
    execution.
    """

    operator: str
    """``conv``, ``linear`` or ``product``."""
    value: str
    """``input``, ``output``, or the ``left`` and ``right`` operand of a product."""
    low: float = 0.0
    high: float = 0.0
    """Range over the calibration; zero is always in it, so that zeros, as in padding, stay exact.
    """


class Quantised(nn.Module):
    """A network with quantised weights, which quantises its activations as it runs. Called like the
    ``UNet`` it was made of.

    It computes in float32 whatever autocast says: what is exact in integers must not be rounded to
    bfloat16 on top.

    Attributes:
        config: The network's.
        network: The copy with rounded weights.
        sites: Where activations are quantised, and over which range.
        bits: Of activations.
    """

    def __init__(self, network: UNet, sites: Sequence[Site], bits: int) -> None:
        super().__init__()
        self.config = network.config
        self.network = network
        self.sites = tuple(sites)
        self.bits = bits

    def forward(self, sample: Tensor, timesteps: Tensor, context: Tensor, *added: Tensor) -> Tensor:
        """Map (B, in, H, W), (B,) and (B, S, context width) to (B, out, H, W)."""
        sites = iter(self.sites)

        def enter(operator: str, value: str) -> Site:
            return next(sites)

        def touch(site: Site, x: Tensor) -> Tensor:
            return _on_grid(x, site.low, site.high, self.bits)

        with autocast(sample.device, "fp32"), _Operators(enter, touch):
            prediction: Tensor = self.network(sample, timesteps, context, *added)
        return prediction


@torch.no_grad()
def quantised(
    model: UNet,
    calibration: Iterable[tuple[Tensor, ...]],
    bits: int = 8,
    weight_bits: int | None = None,
) -> Quantised:
    """Quantise a copy of ``model``; the original is left as it is.

    Args:
        model: A trained network.
        calibration: Inputs of ``model``, each as its positional arguments, on its device. They give
            the activations their ranges.
        bits: Of activations, from 2 to 16, and of weights unless ``weight_bits`` says otherwise.
        weight_bits: Of weights. 7 is what the x86 runtime takes, whose kernels could saturate.

    Raises:
        ValueError: ``calibration`` is empty, or a number of bits is out of range.
    """
    weight_bits = bits if weight_bits is None else weight_bits
    if not (2 <= bits <= 16 and 2 <= weight_bits <= 16):
        raise ValueError(f"bits must be from 2 to 16, but got {bits=}, {weight_bits=}")
    network = copy.deepcopy(model).eval()
    sites: list[Site] = []
    for inputs in calibration:
        _observe(network, inputs, sites)
    if not sites:
        raise ValueError(
            "calibration holds no inputs, so the ranges of the activations are not known"
        )
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.copy_(_rounded_weight(module.weight, weight_bits))
    return Quantised(network, sites, bits).eval()


def quantise_for(
    model: UNet, data: Prepared, recipe: Recipe, device: torch.device, bits: int = 8
) -> Quantised:
    """Quantise a copy of ``model``, calibrated on training pictures of ``data`` at fixed times and
    noise.

    ``held_out_loss(quantise_for(model, data, recipe, device), data, recipe, device)`` is the
    network's loss in int8. The pictures are spread evenly over the training split, their times over
    the schedule; the same for every network.

    Args:
        model: A trained network, on ``device``.
        data: What it was trained on.
        recipe: How; the noise of the calibration is that of its prediction.
        device: Where the network is.
        bits: Of weights and activations.
    """
    return quantised(model, _calibration(data, recipe, device), bits)


def _calibration(
    data: Prepared, recipe: Recipe, device: torch.device
) -> Iterable[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(_SEED)
    count = min(PICTURES, len(data.train))
    pictures = data.train[torch.linspace(0, len(data.train) - 1, count).long()]
    times = (
        ((torch.arange(count) + torch.rand(count, generator=generator)) / count * TRAIN_STEPS)
        .long()
        .clamp(max=TRAIN_STEPS - 1)
    )
    times = times[torch.randperm(count, generator=generator)]
    context = data.context[pictures].float()
    context[::EMPTY_EVERY] = data.null_context.float()
    scheduler, layout = (
        make_scheduler(recipe.prediction),
        memory_format(device, recipe.channels_last),
    )
    for start in range(0, count, _BATCH):
        chunk = slice(start, start + _BATCH)
        x0 = data.samples(pictures[chunk])
        noisy = scheduler.add_noise(x0, torch.randn(x0.shape, generator=generator), times[chunk])
        yield (
            noisy.to(device, memory_format=layout),
            times[chunk].to(device),
            context[chunk].to(device),
        )


def _observe(network: UNet, inputs: tuple[Tensor, ...], sites: list[Site]) -> None:
    """Run ``network`` once in float32 and widen the ranges of ``sites``; the first run lists them."""
    known = iter(tuple(sites))

    def enter(operator: str, value: str) -> Site:
        site = next(known, None)
        if site is None:
            site = Site(operator, value)
            sites.append(site)
        return site

    def touch(site: Site, x: Tensor) -> Tensor:
        low, high = torch.aminmax(x)
        site.low, site.high = min(site.low, low.item()), max(site.high, high.item())
        return x

    with autocast(inputs[0].device, "fp32"), _Operators(enter, touch):
        network(*inputs)


class _Operators(TorchFunctionMode):
    """While active, hands every activation that the scheme quantises to ``touch``, and goes on with
    what that returns.

    Operators, not modules, are what is looked for, as in the ONNX graph: the products of attention
    belong to no module of their own. A network runs them in one order, so their place in it is what
    identifies them.

    Args:
        enter: Says, from operator and value, which site comes next.
        touch: Called with a site and its value, perhaps in several parts.
    """

    def __init__(
        self, enter: Callable[[str, str], Site], touch: Callable[[Site, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self._enter, self._touch = enter, touch

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run ``func``, on other operands where it is one of the scheme's operators."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func in _PRODUCTS:
            return func(
                self._at("product", "left", args[0]),
                self._at("product", "right", args[1]),
                **kwargs,
            )
        if func is F.linear:
            return func(self._at("linear", "input", args[0]), *args[1:], **kwargs)
        if func is F.conv2d:
            return self._at(
                "conv", "output", func(self._at("conv", "input", args[0]), *args[1:], **kwargs)
            )
        return func(*args, **kwargs)

    def _at(self, operator: str, value: str, x: Tensor) -> Tensor:
        return self._touch(self._enter(operator, value), x)

    def _attention(
        self, q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, scale: float | None = None
    ) -> Tensor:
        """softmax(QKᵀ·scale)·V in its two products, as exporters write it; the weights between them
        are an operand of the second.

        The scale may come before or after Q and K are quantised: their ranges are scaled with them.
        """
        scale = 1 / math.sqrt(q_BHTD.shape[-1]) if scale is None else scale
        q, k = self._at("product", "left", q_BHTD), self._at("product", "right", k_BHSD)
        weights, v = self._enter("product", "left"), self._at("product", "right", v_BHSD)
        pictures = max(1, _LARGEST_SCORES // (q.shape[1] * q.shape[2] * k.shape[2]))
        parts = [
            self._touch(weights, torch.softmax(q_part @ k_part.transpose(-2, -1) * scale, dim=-1))
            @ v_part
            for q_part, k_part, v_part in zip(
                *(torch.split(x, pictures) for x in (q, k, v)), strict=True
            )
        ]
        return torch.cat(parts)


def _on_grid(x: Tensor, low: float, high: float, bits: int) -> Tensor:
    """Round to the nearest of 2^bits values evenly spaced over [low, high], which holds zero;
    beyond it, to its ends.

    The same as ``torch.fake_quantize_per_tensor_affine``, which Apple's GPUs do not know.
    """
    largest = 2**bits - 1
    scale = (high - low) / largest
    if scale == 0:
        return torch.zeros_like(x)
    zero = round(-low / scale)
    rounded: Tensor = (x / scale).round_().clamp_(-zero, largest - zero).mul_(scale)
    return rounded


def _rounded_weight(weight: Tensor, bits: int) -> Tensor:
    """Round to 2^bits − 1 values symmetric about zero, one scale an output channel: (out, ...) to
    the same shape.
    """
    largest = 2 ** (bits - 1) - 1
    scale = (
        weight.detach().abs().flatten(1).amax(1).reshape(-1, *[1] * (weight.dim() - 1)) / largest
    )
    rounded: Tensor = (weight.detach() / torch.where(scale > 0, scale, 1.0)).round_().mul_(scale)
    return rounded
