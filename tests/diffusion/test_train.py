import pytest
import torch

from archsearch.data.prepare import Prepared
from archsearch.diffusion.evaluate import held_out_loss
from archsearch.diffusion.recipe import Recipe
from archsearch.diffusion.trainer import DivergedError, train
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

CPU = torch.device("cpu")


def test_the_same_seed_gives_the_same_weights(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    first, again, other = (
        train(config, data, recipe, seed, CPU).model.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_budget_is_samples_seen(config: UNetConfig, data: Prepared, recipe: Recipe) -> None:
    seen: list[int] = []
    trained = train(config, data, recipe, 0, CPU, lambda samples, loss: seen.append(samples))
    assert trained.samples == 64
    assert not trained.capped
    assert seen[0] == 8


def test_seconds_only_cap_it(config: UNetConfig, data: Prepared, recipe: Recipe) -> None:
    trained = train(config, data, recipe.model_copy(update={"max_seconds": 1e-9}), 0, CPU)
    assert trained.capped
    assert trained.samples == 8


def test_training_lowers_the_held_out_loss(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    torch.manual_seed(0)
    fresh = held_out_loss(UNet(config).eval(), data, recipe, CPU)
    trained = train(config, data, recipe.model_copy(update={"samples": 1600}), 0, CPU)
    assert held_out_loss(trained.model, data, recipe, CPU) < 0.6 * fresh


def test_the_average_is_returned_not_the_last_weights(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    averaged = train(config, data, recipe, 0, CPU).model.state_dict()
    last = train(config, data, recipe.model_copy(update={"ema": 0.0}), 0, CPU).model.state_dict()
    assert not torch.equal(averaged["input.weight"], last["input.weight"])


def test_a_loss_that_is_no_number_ends_the_training_by_name(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    with pytest.raises(DivergedError, match="diverged at sample"):
        train(
            config, data, recipe.model_copy(update={"learning_rate": 1e30, "warmup": 0.0}), 0, CPU
        )


def test_bf16_is_asked_for_and_kept(config: UNetConfig, data: Prepared, recipe: Recipe) -> None:
    trained = train(
        config, data, recipe.model_copy(update={"precision": "bf16", "samples": 16}), 0, CPU
    )
    assert trained.model.input.weight.dtype == torch.float32  # master weights stay in fp32
    assert (
        trained.train_loss
        != train(config, data, recipe.model_copy(update={"samples": 16}), 0, CPU).train_loss
    )


def test_precision_is_settled_once() -> None:
    assert Recipe().resolved(CPU).precision in ("fp32", "bf16")
    assert Recipe(precision="bf16").resolved(CPU).precision == "bf16"
