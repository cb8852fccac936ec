"""The simulated int8 scheme is the one that the ONNX runtime deploys, and rounds nothing that it
should not.
"""

import platform
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from archsearch.data.prepare import Prepared
from archsearch.diffusion import quantise
from archsearch.diffusion.evaluate import held_out
from archsearch.diffusion.quantise import PICTURES, Quantised, quantise_for, quantised
from archsearch.diffusion.spec import Recipe
from archsearch.runtimes.registry import get_runtime
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet
from tests.diffusion.made import CPU, train

ARM = platform.machine().lower() in {"arm64", "aarch64"}
EVERY_LAYER = {"transformers": 1, "layers": ["sa", "ca", "ff"]}
Inputs = tuple[Tensor, ...]


def _variant(config: UNetConfig, **options: object) -> UNetConfig:
    """Both kinds of attention and a feed-forward in the inner stage, under ``options``."""
    tree = config.to_dict()
    tree["stages"][1] |= {"down": [EVERY_LAYER], "attention": {"heads": 2}} | options
    return UNetConfig.model_validate(tree)


VARIANTS = {
    "softmax": {},
    "relu": {"attention": {"heads": 2, "normalizer": "relu", "kv": "shared"}},
    "normed-multi-query": {
        "attention": {"heads": 2, "kv_heads": 1, "qk_norm": "rms"},
        "projection": "linear",
    },
    "linear": {"attention": {"heads": 2, "normalizer": "linear_everywhere"}},
    "compressed": {"attention": {"heads": 2, "kv_compression": "conv"}},
    "separable-silu": {"conv": "separable", "feed_forward": {"activation": "silu"}},
}


def _inputs(config: UNetConfig, seed: int = 0, batch: int = 4) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(
            batch, config.in_channels, config.sample_size, config.sample_size, generator=generator
        ),
        torch.linspace(20, 980, batch),
        torch.randn(batch, config.context_tokens, config.context_dim, generator=generator),
    )


@pytest.fixture
def model(config: UNetConfig, data: Prepared, recipe: Recipe) -> UNet:
    return train(_variant(config), data, recipe).averaged()


def _run(model: nn.Module, inputs: Inputs) -> Tensor:
    with torch.inference_mode():
        output: Tensor = model(*inputs)
    return output


def _rms(x: Tensor) -> float:
    return x.pow(2).mean().sqrt().item()


def _through_onnx(model: UNet, inputs: Inputs, folder: Path) -> Tensor:
    """What the int8 runtime computes, calibrated, like ``quantised`` here, on the very inputs that
    it is run on.
    """
    return torch.tensor(get_runtime("onnxruntime-int8").convert(model, inputs, folder).run()[0])


@pytest.mark.skipif(
    ARM, reason="there the runtime's activations are symmetric, which is another scheme"
)
def test_errs_as_the_int8_runtime_does(model: UNet, tmp_path: Path) -> None:
    """Equal rounding everywhere but in the biases, which shifts a sum by up to half of 2⁻¹⁵ or so
    of its range.

    That moves one value in a thousand over the border between two steps, and each that moves shifts
    the norms behind it: after some twenty roundings the errors are of one size (within 10 %), and
    one in part (independent ones would correlate to 0 and lie √2 of their size apart).
    """
    inputs = _inputs(model.config)
    wanted = _run(model, inputs)
    ours = _run(quantised(model, [inputs], weight_bits=7), inputs) - wanted
    theirs = _through_onnx(model, inputs, tmp_path) - wanted
    assert 0.01 < _rms(theirs) / wanted.std() < 0.1
    assert _rms(ours) == pytest.approx(_rms(theirs), rel=0.1)
    assert _rms(ours - theirs) < _rms(theirs)
    assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.5


@pytest.mark.skipif(
    ARM, reason="there the runtime's activations are symmetric, which is another scheme"
)
def test_a_network_of_one_sum_is_equal_to_the_step(model: UNet, tmp_path: Path) -> None:
    """With nothing behind it to spread what a bias moved, the first convolution is a step off at
    most, and that once or twice.
    """
    inputs = _inputs(model.config)
    first = model.input
    (got,) = get_runtime("onnxruntime-int8").convert(first, inputs[:1], tmp_path).run()
    found: list[Tensor] = []
    int8 = quantised(model, [inputs], weight_bits=7)
    with torch.inference_mode():
        int8.network.input.register_forward_hook(lambda module, given, output: found.append(output))
        int8(*inputs)
    output = next(site for site in int8.sites if (site.operator, site.value) == ("conv", "output"))
    steps = (torch.tensor(got) - found[0]).abs() / ((output.high - output.low) / 255)
    assert steps.max() < 1.01
    assert (steps > 0.01).float().mean() < 0.01


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_operators_of_the_onnx_graph_are_those_quantised(
    options: dict[str, object], config: UNetConfig, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = UNet(_variant(config, **options)).eval()
    inputs = _inputs(model.config)
    sites = Counter((site.operator, site.value) for site in quantised(model, [inputs]).sites)
    get_runtime("onnxruntime").convert(model, inputs, tmp_path)
    nodes = Counter(node.op_type for node in onnx.load(tmp_path / "module.onnx").graph.node)
    assert sites["conv", "input"] == sites["conv", "output"] == nodes["Conv"]
    assert sites["product", "left"] == sites["product", "right"] == 4
    assert sites["linear", "input"] + sites["product", "left"] == nodes["Gemm"] + nodes["MatMul"]


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_fine_steps_compute_what_the_network_computes(
    options: dict[str, object], config: UNetConfig
) -> None:
    """With 16 bits nothing is left but the rewritten attention: a wrong scale or order in it would
    show.
    """
    torch.manual_seed(0)
    model = UNet(_variant(config, **options)).eval()
    inputs = _inputs(model.config)
    wanted = _run(model, inputs)
    assert _rms(_run(quantised(model, [inputs], bits=16), inputs) - wanted) < 1e-3 * wanted.std()


def test_attention_in_parts_is_the_same(model: UNet, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = _inputs(model.config)
    whole = quantised(model, [inputs])
    wanted = _run(whole, inputs)
    monkeypatch.setattr(quantise, "_LARGEST_SCORES", 1)
    parts = quantised(model, [inputs])
    assert parts.sites == whole.sites
    torch.testing.assert_close(_run(parts, inputs), wanted)


def test_more_bits_err_less(model: UNet) -> None:
    inputs = _inputs(model.config)
    wanted = _run(model, inputs)
    errors = [
        _rms(_run(quantised(model, [inputs], bits), inputs) - wanted) for bits in (4, 6, 8, 10)
    ]
    assert errors == sorted(errors, reverse=True)
    assert (
        errors[1] > 2 * errors[2] > 4 * errors[3]
    )  # two bits are a factor of four, less what rounding does to norms


def test_weights_are_whole_numbers_of_steps(model: UNet) -> None:
    int8 = quantised(model, [_inputs(model.config)])
    weights = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    rounded = {
        name: module.weight
        for name, module in int8.network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    assert weights.keys() == rounded.keys()
    for name, weight in weights.items():
        step = (weight.detach().abs().flatten(1).amax(1) / 127).reshape(
            -1, *[1] * (weight.dim() - 1)
        )
        whole = (rounded[name] / step).round()
        assert torch.equal(whole * step, rounded[name]), name
        assert whole.abs().amax() == 127, name
        assert ((rounded[name] - weight).abs() <= 0.5001 * step).all(), name
    others = {
        name: p
        for name, p in model.named_parameters()
        if name.removesuffix(".weight") not in weights
    }
    copies = dict(int8.network.named_parameters())
    assert all(torch.equal(copies[name], p) for name, p in others.items())


@pytest.mark.parametrize(("low", "high"), [(-1.7, 2.3), (0.0, 4.0), (-3.0, 0.0), (-0.17, 25.0)])
@pytest.mark.parametrize("bits", [4, 8])
def test_rounds_as_torch_does(low: float, high: float, bits: int) -> None:
    x = torch.linspace(1.5 * low - 0.1, 1.5 * high + 0.1, 1001)
    scale = (high - low) / (2**bits - 1)
    wanted = torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, 2**bits - 1)
    steps = (quantise.round_activation(x, low, high, bits) - wanted).abs() / scale
    assert (
        steps > 1e-4
    ).float().mean() < 0.005  # what lies half way between two values may go to either
    assert steps.max() < 1.0001


def test_a_channel_of_zeros_is_no_trouble(model: UNet) -> None:
    with torch.no_grad():
        model.output.conv.weight.zero_()
        model.output.conv.bias.zero_()
    inputs = _inputs(model.config)
    assert torch.equal(_run(quantised(model, [inputs]), inputs), torch.zeros_like(inputs[0]))


def test_the_network_is_left_as_it_was(model: UNet, data: Prepared, recipe: Recipe) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = _inputs(model.config)
    wanted = _run(model, inputs)
    _run(quantise_for(model, data, recipe, CPU), inputs)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(_run(model, inputs), wanted)


def test_the_same_network_is_quantised_alike(model: UNet, data: Prepared, recipe: Recipe) -> None:
    one = quantise_for(model, data, recipe, CPU)
    torch.rand(3)  # whatever the global generator does meanwhile
    two = quantise_for(model, data, recipe, CPU)
    inputs = _inputs(model.config)
    assert one.sites == two.sites
    assert torch.equal(_run(one, inputs), _run(two, inputs))


def test_autocast_does_not_round_on_top(model: UNet) -> None:
    inputs = _inputs(model.config)
    int8 = quantised(model, [inputs])
    wanted = _run(int8, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        again = quantised(model, [inputs])
        got = _run(int8, inputs)
    assert got.dtype == torch.float32
    assert torch.equal(got, wanted)
    assert again.sites == int8.sites


def test_the_calibration_sees_training_pictures_only(
    data: Prepared, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    samples = Prepared.samples
    monkeypatch.setattr(
        Prepared,
        "samples",
        lambda self, index: (seen.extend(index.tolist()), samples(self, index))[1],
    )
    batches = list(quantise.calibration(data, recipe, CPU))
    assert seen == data.train.tolist()
    assert (
        len(data.train) < PICTURES
    )  # here all of them; of larger data as many as that, spread evenly
    assert sum(len(inputs[0]) for inputs in batches) == len(data.train)


def test_the_held_out_loss_takes_it(model: UNet, data: Prepared, recipe: Recipe) -> None:
    exact = held_out(model, data, recipe, CPU).loss
    losses = {
        bits: held_out(quantise_for(model, data, recipe, CPU, bits), data, recipe, CPU).loss
        for bits in (3, 8)
    }  # type: ignore[arg-type]
    assert losses[8] == pytest.approx(exact, rel=0.02)
    assert abs(losses[3] - exact) > 5 * abs(losses[8] - exact)
    assert isinstance(quantise_for(model, data, recipe, CPU), Quantised)


def test_refuses_what_it_cannot_do(model: UNet) -> None:
    with pytest.raises(ValueError, match="calibration holds no inputs"):
        quantised(model, [])
    with pytest.raises(ValueError, match=r"bits must be from 2 to 16, but got bits=1"):
        quantised(model, [_inputs(model.config)], bits=1)
