"""The loss on held-out pictures."""

import pytest
import torch

from archsearch.data.prepare import Prepared
from archsearch.diffusion.evaluate import _turns, held_out
from archsearch.diffusion.spec import Recipe
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

CPU = torch.device("cpu")


def test_the_loss_repeats_to_the_last_digit(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    model = UNet(config).eval()
    torch.manual_seed(1)
    first = held_out(model, data, recipe, CPU).loss
    torch.manual_seed(2)
    assert held_out(model, data, recipe, CPU).loss == first


def test_it_looks_at_held_out_pictures_alone(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    model = UNet(config).eval()
    before = held_out(model, data, recipe, CPU).loss
    data.images[data.train] = 0
    assert held_out(model, data, recipe, CPU).loss == before
    data.images[data.held_out] = 0
    assert held_out(model, data, recipe, CPU).loss != before


def test_a_network_that_knows_nothing_loses_about_the_variance_of_v(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    model = UNet(config).eval()
    for parameter in model.output.parameters():
        torch.nn.init.zeros_(parameter)
    loss = held_out(model, data, recipe.model_copy(update={"draws": 256}), CPU).loss
    power = (data.images[data.held_out].float() / 127.5 - 1).square().mean().item()
    assert (
        abs(loss - (1 + power) / 2) < 0.1
    )  # v = √ᾱ·noise − √(1−ᾱ)·x₀, ᾱ uniform over the cosine schedule


@pytest.mark.parametrize(("draws", "count"), [(16, 8), (16, 16), (16, 100), (512, 217)])
def test_draws_are_spread_over_all_held_out_pictures(draws: int, count: int) -> None:
    turn = _turns(draws, count)
    assert len(turn) == draws
    assert turn.min() == 0
    assert turn.max() == count - 1
    assert len(turn.unique()) == min(draws, count)


def test_bands_and_interval_are_of_the_loss(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    model = UNet(config).eval()
    found = held_out(model, data, recipe.model_copy(update={"draws": 96}), CPU)
    assert sum(found.bands.values()) / 3 == pytest.approx(
        found.loss
    )  # 32 draws each: times are stratified
    assert found.low < found.loss < found.high
    assert set(found.scores("x")) == {"x", "x_low", "x_high", "x_fine", "x_middle", "x_coarse"}


def test_losses_are_kept_draw_by_draw_so_that_networks_are_compared_on_the_same(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    torch.manual_seed(0)
    first, other = (
        held_out(UNet(config).eval(), data, recipe.model_copy(update={"draws": 32}), CPU)
        for _ in range(2)
    )
    assert sum(first.losses) / 32 == pytest.approx(first.loss)
    assert len(first.losses) == len(first.pictures) == 32
    assert set(first.pictures) <= set(data.held_out.tolist())
    assert first.pictures == other.pictures
    assert first.losses != other.losses
