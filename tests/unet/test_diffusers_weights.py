"""The same weights under either name compute the same in diffusers' network and in ours."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings

from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.diffusers import from_diffusers, to_diffusers
from archsearch.unet.diffusers_weights import (
    diffusers_names,
    from_diffusers_state,
    state_shapes,
    to_diffusers_state,
)
from archsearch.unet.model import UNet, example_inputs, guidance_sinusoids
from archsearch.unet.presets import preset
from tests.unet.published import PUBLISHED, small, small_settings

TOLERANCE = 1e-4
FORMS = ["sd15", "sd21", "sdxl", "bk-sdm-base", "bk-sdm-tiny", "koala-700m", "ssd-1b"]


def _theirs(data: dict[str, Any]) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_config(data).eval()


@torch.inference_mode()
def _outputs(
    config: UNetConfig, ours: UNet, theirs: UNet2DConditionModel
) -> tuple[torch.Tensor, torch.Tensor]:
    sample, timesteps, context, *added = inputs = example_inputs(config, batch=2)
    conditions = dict(zip(("text_embeds", "time_ids"), added, strict=False)) or None
    return ours.eval()(*inputs), theirs(
        sample, timesteps, context, added_cond_kwargs=conditions
    ).sample


def test_the_guidance_weight_is_their_timestep_cond() -> None:
    torch.manual_seed(2)
    data = small(PUBLISHED["sd15"][0]) | {"time_cond_proj_dim": 16}
    config, theirs = from_diffusers(data, context_tokens=5), _theirs(data)
    ours = UNet(config).eval()
    ours.load_state_dict(from_diffusers_state(config, theirs.state_dict()))
    *inputs, guidance = example_inputs(config, batch=2)
    with torch.inference_mode():
        for weights in (guidance, 2 * guidance):
            condition = guidance_sinusoids(weights, 16)
            wanted = theirs(*inputs, timestep_cond=condition).sample
            _assert_same(ours(*inputs, weights), wanted)
        assert (ours(*inputs, guidance) - wanted).abs().max() > 1e-3


def _assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


@pytest.mark.parametrize("name", FORMS)
def test_their_weights_compute_the_same_in_ours(name: str) -> None:
    torch.manual_seed(0)
    data = small(PUBLISHED[name][0])
    config, theirs = from_diffusers(data, context_tokens=5), _theirs(data)
    ours = UNet(config)
    ours.load_state_dict(from_diffusers_state(config, theirs.state_dict()))
    _assert_same(*_outputs(config, ours, theirs))


@pytest.mark.parametrize("name", FORMS)
def test_our_weights_compute_the_same_in_theirs(name: str) -> None:
    torch.manual_seed(1)
    config = from_diffusers(small(PUBLISHED[name][0]), context_tokens=5)
    ours, theirs = UNet(config), _theirs(to_diffusers(config))
    theirs.load_state_dict(to_diffusers_state(config, ours.state_dict()))
    _assert_same(*_outputs(config, ours, theirs))


def _their_shapes(data: dict[str, Any]) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {
            name: tensor.shape
            for name, tensor in UNet2DConditionModel.from_config(data).state_dict().items()
        }


@settings(max_examples=15)
@given(small_settings())
def test_every_tensor_has_its_name_and_shape(data: dict[str, Any]) -> None:
    config = from_diffusers(data)
    names = diffusers_names(config)
    assert {names[name]: shape for name, shape in state_shapes(config).items()} == _their_shapes(
        data
    )


def test_names_and_shapes_take_neither_memory_nor_random_numbers() -> None:
    before = torch.get_rng_state()
    assert sum(shape.numel() for shape in state_shapes(preset("sdxl")).values()) == 2_567_463_684
    assert torch.equal(torch.get_rng_state(), before)


def test_renaming_there_and_back_changes_nothing() -> None:
    config = from_diffusers(small(PUBLISHED["sd15"][0]))
    state = UNet(config).state_dict()
    back = from_diffusers_state(config, to_diffusers_state(config, state))
    assert list(back) == list(state)
    assert all(back[name] is state[name] for name in state)


def test_a_tensor_of_another_network_is_refused_by_name() -> None:
    config = from_diffusers(small(PUBLISHED["sd15"][0]))
    with pytest.raises(InputError, match=r"input\.weight: no tensor of the network is called so"):
        from_diffusers_state(config, {"input.weight": torch.zeros(1)})
    with pytest.raises(InputError, match=r"a, b, c …: no tensor"):
        to_diffusers_state(config, {name: torch.zeros(1) for name in "abcd"})


def test_a_network_that_diffusers_lacks_has_no_names_there() -> None:
    with pytest.raises(InputError, match=r"stages\[2\]\.conv separable"):
        diffusers_names(preset("mobilediffusion-lite"))
