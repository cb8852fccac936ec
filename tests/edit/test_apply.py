"""A recipe applied step by step, with weights and without; the shipped path from Stable Diffusion
to MobileDiffusion.
"""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from archsearch import catalog
from archsearch.cost.price import price
from archsearch.edit.recipe import START, Recipe, apply_recipe, load_recipe
from archsearch.errors import InputError
from archsearch.unet.model import UNet
from archsearch.unet.presets import preset
from tests.edit.networks import edited, small, weights

PATH = Path("recipe.yaml")
STEPS = Recipe.model_validate(
    {
        "schema": 1,
        "steps": [
            {"name": "share", "set": {"attention.kv": "shared"}},
            {"name": "thin", "set": {"stages[1].channels": 48}},
            {"name": "larger", "set": {"sample_size": 16}},
        ],
    }
)


def test_the_shipped_path_leads_from_stable_diffusion_to_mobilediffusion() -> None:
    path = catalog.find("recipe", "mobilediffusion")
    steps = list(apply_recipe(preset("sd15"), load_recipe(path), path))
    assert steps[0].config == preset("sd15")
    assert steps[-1].config == preset("mobilediffusion")
    params = [price(step.config).params for step in steps]
    assert params[0] == 859_520_964
    assert all(
        after <= 1.001 * before for before, after in pairwise(params)
    )  # the latent adds a little


def test_each_step_continues_the_weights_of_the_one_before() -> None:
    config = small()
    start, share, thin, larger = apply_recipe(config, STEPS, PATH, weights(config))
    assert [step.step for step in (start, share, thin, larger)] == [
        START,
        "share",
        "thin",
        "larger",
    ]
    assert (start.change, start.change_in_all) == (None, None)
    assert share.change == share.change_in_all
    assert share.change is not None
    assert 0 < share.change < 1
    assert thin.change != thin.change_in_all
    assert (larger.change, larger.change_in_all) == (
        None,
        None,
    )  # outputs of two sizes cannot be compared
    assert larger.state is not None
    UNet(larger.config).load_state_dict(larger.state)


def test_without_weights_nothing_is_built() -> None:
    steps = list(apply_recipe(small(), STEPS, PATH))
    assert [step.state for step in steps] == [None] * 4
    assert [step.change for step in steps] == [None] * 4


def test_mobilediffusions_path_on_a_small_network_ends_with_weights_that_fit() -> None:
    """The shipped recipe on Stable Diffusion's layout at a tenth of its width."""
    path = catalog.find("recipe", "mobilediffusion")
    sd = preset("sd15")
    narrow = edited(
        sd,
        sample_size=8,
        norm_groups=8,
        context_dim=16,
        context_tokens=4,
        **{
            f"stages[{index}].channels": channels
            for index, channels in enumerate((32, 64, 960, 960))
        },
    )
    *_, last = apply_recipe(narrow, load_recipe(path), path, weights(narrow))
    assert last.state is not None
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in UNet(last.config).state_dict().items()}
    assert {name: tensor.shape for name, tensor in last.state.items()} == wanted


def test_a_step_that_the_weights_cannot_take_names_recipe_and_step() -> None:
    wider = Recipe.model_validate(
        {"schema": 1, "steps": [{"name": "wider", "set": {"stages[1].channels": 96}}]}
    )
    with pytest.raises(
        InputError, match=r"recipe.yaml: step 'wider': stages\[1\].channels grows from 64 to 96"
    ):
        list(apply_recipe(small(), wider, PATH, weights(small())))
    assert [step.step for step in apply_recipe(small(), wider, PATH)] == [
        START,
        "wider",
    ]  # of the architecture alone it can be had
