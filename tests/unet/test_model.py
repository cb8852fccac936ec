"""The module: shapes in and out, and that every input and parameter is used. What each knob
changes: test_knobs.
"""

import pytest
import torch
from hypothesis import given, settings

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
