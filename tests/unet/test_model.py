"""The module: shapes in and out, and that every input and parameter is used. What each knob
changes: test_knobs.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from archsearch.unet import model as module
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, build_unit, example_inputs
from archsearch.unet.plan import plan
from tests.strategies import configs

SMALL = UNetConfig.model_validate(
    {
        "sample_size": 8,
        "norm_groups": 8,
        "context_dim": 12,
        "context_tokens": 5,
        "stages": [
            {"channels": 16, "down": [{}], "up": [{}, {}]},
            {
                "channels": 32,
                "down": [{"layers": ["sa", "ca", "ff"]}],
                "up": [{"layers": ["sa", "ca", "ff"]}],
            },
        ],
        "middle": [{}],
    }
)


@settings(max_examples=25)
@given(configs)
def test_what_comes_out_has_the_shape_of_what_goes_in(config: UNetConfig) -> None:
    with torch.no_grad():
        output = UNet(config)(*example_inputs(config, batch=2))
    assert output.shape == (2, config.out_channels, config.sample_size, config.sample_size)


def test_it_runs_on_other_sizes_and_fractional_times() -> None:
    """Convolutions and attention do not care about the size; samplers ask for times between the
    training's.
    """
    model = UNet(SMALL)
    with torch.no_grad():
        output = model(torch.randn(1, 4, 16, 24), torch.tensor([17.5]), torch.randn(1, 9, 12))
    assert output.shape == (1, 4, 16, 24)
    assert output.isfinite().all()


def test_batch_members_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    model = UNet(SMALL).eval()
    sample, times, context = example_inputs(SMALL, batch=3)
    times = torch.tensor([1.0, 300.0, 999.0])
    with torch.no_grad():
        together = model(sample, times, context)
        alone = torch.cat(
            [model(sample[i : i + 1], times[i : i + 1], context[i : i + 1]) for i in range(3)]
        )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", ["sample", "time", "context"])
def test_every_input_matters(which: str) -> None:
    torch.manual_seed(0)
    model = UNet(SMALL).eval()
    inputs = dict(zip(("sample", "time", "context"), example_inputs(SMALL), strict=True))
    with torch.no_grad():
        before = model(*inputs.values())
        inputs[which] = inputs[which] + torch.randn(inputs[which].shape)
        assert not torch.equal(model(*inputs.values()), before)


def test_every_parameter_is_used() -> None:
    model = UNet(SMALL)
    model(*example_inputs(SMALL)).square().sum().backward()
    unused = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert unused == []


def test_parts_of_the_network_are_the_units_of_its_plan() -> None:
    """What latency tables measure one by one is what the network is made of."""
    resolved = plan(SMALL)
    alone = sum(p.numel() for _, unit in resolved.placed() for p in build_unit(unit).parameters())
    assert alone == sum(p.numel() for p in UNet(SMALL).parameters())


@pytest.mark.parametrize("keys", [16, module.FEW_KEYS, module.FEW_KEYS + 1])
@pytest.mark.parametrize("width", [8, 16])
def test_softmax_attention_in_bf16_is_as_exact_as_its_inputs(keys: int, width: int) -> None:
    """Few keys are computed in fp32 (faster on CPUs), more in bf16; the outcome has bf16's type."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, 2, tokens, width, generator=generator).bfloat16().requires_grad_()
        for tokens in (20, keys, keys)
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = module._softmax_attention(q, k, v)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    assert found.dtype == torch.bfloat16
    tolerance = 2**-8 if keys <= module.FEW_KEYS else 2**-6
    assert (found.double() - exact).abs().max() <= tolerance * exact.abs().max()
    found.float().sum().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in (q, k, v))
