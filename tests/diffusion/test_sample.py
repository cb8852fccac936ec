"""Pictures drawn by a trained network."""

import torch

from archsearch.data.prepare import Prepared
from archsearch.diffusion.sample import sample
from archsearch.diffusion.spec import Recipe, Sampling
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet
from tests.diffusion.made import CPU, train


def test_one_picture_a_caption_the_same_for_the_same_seed(
    config: UNetConfig, data: Prepared
) -> None:
    model = UNet(config).eval()
    drawn = [
        sample(model, data.context[:5], data.null_context, Sampling(steps=3), seed, CPU)
        for seed in (0, 0, 1)
    ]
    assert drawn[0].shape == (5, 3, 8, 8)
    assert drawn[0].dtype == torch.uint8
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_batches_do_not_change_the_pictures(config: UNetConfig, data: Prepared) -> None:
    model = UNet(config).eval()
    whole = sample(model, data.context[:6], data.null_context, Sampling(steps=2), 0, CPU, batch=6)
    parts = sample(model, data.context[:6], data.null_context, Sampling(steps=2), 0, CPU, batch=4)
    assert (whole.int() - parts.int()).abs().max() <= 1


def test_guidance_pulls_towards_the_caption(config: UNetConfig, data: Prepared) -> None:
    model = UNet(config).eval()
    plain, guided = (
        sample(model, data.context[:4], data.null_context, Sampling(steps=2, guidance=g), 0, CPU)
        for g in (1.0, 8.0)
    )
    assert not torch.equal(plain, guided)
    without_text = [
        sample(
            model, data.context[:4] * 0, data.null_context, Sampling(steps=2, guidance=g), 0, CPU
        ).int()
        for g in (1.0, 8.0)
    ]
    assert (
        without_text[0] - without_text[1]
    ).abs().max() <= 1  # guidance between equal captions does nothing


def test_a_trained_network_draws_pictures_of_one_colour(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    longer = recipe.model_copy(update={"samples": 6400, "batch": 16})
    trained = train(config, data, longer).averaged()
    torch.manual_seed(0)
    fresh = UNet(config).eval()
    within = [
        sample(model, data.context[:8], data.null_context, Sampling(steps=10, guidance=1), 0, CPU)
        .float()
        .flatten(2)
        .std(2)
        .mean()
        for model in (trained, fresh)
    ]
    assert within[0] < 0.5 * within[1]
