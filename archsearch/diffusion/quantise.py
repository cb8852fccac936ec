"""What a trained network is worth in int8: a copy that rounds where static quantisation rounds, in
torch.

The scheme is that of ``archsearch.runtimes.int8``, which the int8 runtime deploys. Two differences
remain: biases are kept as they are, where the ONNX graph rounds them to 32 bits; and everything
rounded is held in float32, where integer kernels add exactly.
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
from typing_extensions import override

from archsearch.data.prepare import Prepared
from archsearch.diffusion.recipe import autocast, make_scheduler, memory_format, spread_times
from archsearch.diffusion.spec import Recipe
from archsearch.runtimes.int8 import OPERATORS, activation_grid, weight_grid
from archsearch.unet.model import UNet

PICTURES = 128  # training pictures that calibrate the ranges of activations
EMPTY_EVERY = 8  # one in so many of them comes with the empty caption, which guidance also meets
_BATCH = 32
_SEED = 20_261_124  # fixed: every network is calibrated on the same pictures, times and noise

_OPERATORS = {function: operator for operator in OPERATORS for function in operator.functions}
_LARGEST_SCORES = 2**24  # attention scores held at a time: 64 MB


@dataclass
class Site:
    """A place where an activation is quantised: the operand or output of an operator, in order of
    execution.

    Attributes:
        operator: ``conv``, ``linear`` or ``product``.
        value: ``input``, ``output``, or the ``left`` and ``right`` operand of a product.
        high: Range over the calibration; zero is always in it, so that zeros, as in padding, stay
            exact.
    """

    operator: str
    value: str
    low: float = 0.0
    high: float = 0.0


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

    @override
    def forward(self, sample: Tensor, timesteps: Tensor, context: Tensor, *added: Tensor) -> Tensor:
        # (B, in, H, W), (B,) and (B, S, context width) to (B, out, H, W)
        def touch(site: Site, x: Tensor) -> Tensor:
            return round_activation(x, site.low, site.high, self.bits)

        with autocast(sample.device, "fp32"), Operators(list(self.sites), touch):
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
        with autocast(inputs[0].device, "fp32"), Operators(sites, _widen):
            network(*inputs)
    if not sites:
        raise ValueError(
            "calibration holds no inputs, so the ranges of the activations are not known"
        )
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            largest = module.weight.abs().flatten(1).amax(1)
            largest = largest.reshape(-1, *[1] * (module.weight.dim() - 1))
            integers, steps = weight_grid(module.weight, largest, weight_bits)
            module.weight.copy_(integers * steps)
    return Quantised(network, sites, bits).eval()


def quantise_for(
    model: UNet, data: Prepared, recipe: Recipe, device: torch.device, bits: int = 8
) -> Quantised:
    """Quantise a copy of ``model``, calibrated on training pictures of ``data`` at fixed times and
    noise.

    ``held_out(quantise_for(model, data, recipe, device), data, recipe, device).loss`` is the
    network's loss in int8. The pictures are spread evenly over the training split, their times over
    the schedule; the same for every network.

    Args:
        model: A trained network, on ``device``.
        data: What it was trained on.
        recipe: How; the noise of the calibration is that of its prediction.
        device: Where the network is.
        bits: Of weights and activations.
    """
    return quantised(model, calibration(data, recipe, device), bits)


def calibration(
    data: Prepared,
    recipe: Recipe,
    device: torch.device,
    guidance: tuple[float, float] | None = None,
) -> Iterable[tuple[Tensor, ...]]:
    """Inputs of a trained network that tell which values its activations take: noisy samples
    (B, C, H, W), times (B,) and contexts (B, tokens, width) of training pictures, the same for
    every network; and weights of guidance (B,) from the least to the largest, where these are given
    since the network takes them.
    """
    generator = torch.Generator().manual_seed(_SEED)
    count = min(PICTURES, len(data.train))
    pictures = data.train[torch.linspace(0, len(data.train) - 1, count).long()]
    times = spread_times(count, generator)
    context = data.context[pictures].float()
    context[::EMPTY_EVERY] = data.null_context.float()
    scheduler = make_scheduler(recipe.prediction)
    layout = memory_format(device, recipe.channels_last)
    for start in range(0, count, _BATCH):
        chunk = slice(start, start + _BATCH)
        x0 = data.samples(pictures[chunk])
        noisy = scheduler.add_noise(x0, torch.randn(x0.shape, generator=generator), times[chunk])
        added = () if guidance is None else (spread_weights(guidance, len(x0)).to(device),)
        yield (
            noisy.to(device, memory_format=layout),
            times[chunk].to(device),
            context[chunk].to(device),
            *added,
        )


def spread_weights(guidance: tuple[float, float], count: int) -> Tensor:
    """Weights of guidance (count,) from the least to the largest, evenly spread."""
    return torch.linspace(*guidance, count)


class Operators(TorchFunctionMode):
    """While active, hands every activation that the scheme quantises to ``touch``, and goes on with
    what that returns.

    Operators, not modules, are what is looked for, as in the ONNX graph: the products of attention
    belong to no module of their own. A network runs them in one order, so their place in it is what
    identifies them.

    Args:
        sites: The sites in order of execution; the first run of a network lists them.
        touch: Called with a site and its value, perhaps in several parts.
    """

    def __init__(self, sites: list[Site], touch: Callable[[Site, Tensor], Tensor]) -> None:
        super().__init__()
        self._sites, self._touch = sites, touch
        self._next = 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        operator = _OPERATORS.get(func)
        if operator is None:
            return func(*args, **kwargs)
        count = len(operator.operands)
        operands = [
            self.at(operator.name, *pair)
            for pair in zip(operator.operands, args[:count], strict=True)
        ]
        output = func(*operands, *args[count:], **kwargs)
        return self.at(operator.name, "output", output) if operator.output else output

    def at(self, operator: str, value: str, x: Tensor) -> Tensor:
        """Touch ``x``, which is at the next site."""
        return self._touch(self._enter(operator, value), x)

    def _enter(self, operator: str, value: str) -> Site:
        if self._next == len(self._sites):
            self._sites.append(Site(operator, value))
        self._next += 1
        return self._sites[self._next - 1]

    def _attention(
        self, q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, scale: float | None = None
    ) -> Tensor:
        # softmax(QKᵀ·scale)·V in its two products, as exporters write it; the weights between them
        # are an operand of the second.
        #
        # The scale may come before or after Q and K are quantised: their ranges are scaled with
        # them.
        scale = 1 / math.sqrt(q_BHTD.shape[-1]) if scale is None else scale
        q, k = self.at("product", "left", q_BHTD), self.at("product", "right", k_BHSD)
        weights, v = self._enter("product", "left"), self.at("product", "right", v_BHSD)
        pictures = max(1, _LARGEST_SCORES // (q.shape[1] * q.shape[2] * k.shape[2]))
        parts = [
            self._touch(weights, torch.softmax(q_part @ k_part.transpose(-2, -1) * scale, dim=-1))
            @ v_part
            for q_part, k_part, v_part in zip(
                *(torch.split(x, pictures) for x in (q, k, v)), strict=True
            )
        ]
        return torch.cat(parts)


def _widen(site: Site, x: Tensor) -> Tensor:
    low, high = torch.aminmax(x)
    site.low, site.high = min(site.low, low.item()), max(site.high, high.item())
    return x


def round_activation(x: Tensor, low: float, high: float, bits: int) -> Tensor:
    """Round to the nearest of 2^bits values evenly spaced over [low, high], which holds zero;
    beyond it, to its ends.

    The same as ``torch.fake_quantize_per_tensor_affine``, which Apple's GPUs do not know.
    """
    step, zero = activation_grid(low, high, bits)
    if step == 0:
        return torch.zeros_like(x)
    rounded: Tensor = (x / step).round_().clamp_(-zero, 2**bits - 1 - zero).mul_(step)
    return rounded
