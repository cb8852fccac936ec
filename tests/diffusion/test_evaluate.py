import torch

from archsearch.data.prepare import Prepared
from archsearch.diffusion.evaluate import held_out_loss
from archsearch.diffusion.recipe import Recipe
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

CPU = torch.device("cpu")


def test_the_loss_repeats_to_the_last_digit(config: UNetConfig, data: Prepared, recipe: Recipe) -> None:
    model = UNet(config).eval()
    torch.manual_seed(1)
    first = held_out_loss(model, data, recipe, CPU)
    torch.manual_seed(2)
    assert held_out_loss(model, data, recipe, CPU) == first


def test_it_looks_at_held_out_pictures_alone(config: UNetConfig, data: Prepared, recipe: Recipe) -> None:
    model = UNet(config).eval()
    before = held_out_loss(model, data, recipe, CPU)
    data.images[data.train] = 0
    assert held_out_loss(model, data, recipe, CPU) == before
    data.images[data.held_out] = 0
    assert held_out_loss(model, data, recipe, CPU) != before


def test_a_network_that_knows_nothing_loses_about_the_variance_of_v(config: UNetConfig, data: Prepared, recipe: Recipe) -> None:
    model = UNet(config).eval()
    for parameter in model.output.parameters():
        torch.nn.init.zeros_(parameter)
    loss = held_out_loss(model, data, recipe.model_copy(update={"draws": 256}), CPU)
    power = (data.images[data.held_out].float() / 127.5 - 1).square().mean().item()
    assert abs(loss - (1 + power) / 2) < 0.1  # v = √ᾱ·noise − √(1−ᾱ)·x₀, ᾱ uniform over the cosine schedule
