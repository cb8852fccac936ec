"""A generator and its opponent."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from archsearch.data.prepare import Prepared
from archsearch.diffusion import adversarial as module
from archsearch.diffusion import generators
from archsearch.diffusion.adversarial import (
    Dmd,
    Opponent,
    Ufogen,
    clean,
    discrimination,
    sureness,
    told,
)
from archsearch.diffusion.generators import (
    CollapsedError,
    adversarial,
    check_generator,
    collapsed,
    generator_weights,
)
from archsearch.diffusion.recipe import Draws, make_scheduler
from archsearch.diffusion.spec import Recipe
from archsearch.diffusion.trained import load_trained
from archsearch.diffusion.trainer import Trainer
from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet
from tests.diffusion.made import CPU
from tests.diffusion.test_distill import draws, trained

__all__ = ["draws"]


def quiet(*_: Any) -> None:
    """Tell nobody."""


def test_what_the_discriminator_is_asked() -> None:
    unsure = torch.zeros(3)
    assert float(discrimination(unsure, unsure)) == pytest.approx(2 * math.log(2))
    assert sureness(unsure, unsure) == pytest.approx(0.5)
    right, wrong = torch.full((3,), 20.0), torch.full((3,), -20.0)
    assert float(discrimination(right, wrong)) < 1e-6
    assert sureness(right, wrong) > 0.999
    assert float(discrimination(wrong, right)) > 30


def test_an_opponent_begins_as_the_network_and_is_left_alone_while_held(
    config: UNetConfig, draws: Draws
) -> None:
    network = trained(config).model
    opponent = Opponent(network, 1e-3, 0)
    x, text, times, _ = draws
    weights = torch.ones(len(x))
    assert torch.equal(
        told(opponent.network, x, times, text, weights), told(network, x, times, text, weights)
    )
    drawn = x.clone().requires_grad_()
    with opponent.held():
        logits = opponent.judge(drawn, times, text, weights)
    assert logits.shape == (12,)
    logits.sum().backward()
    assert drawn.grad is not None
    assert drawn.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in opponent.parameters())
    before = opponent.tensors()["head.2.weight"].clone()
    opponent.learn(opponent.judge(x, times, text, weights).mean(), 1.0)
    assert not torch.equal(opponent.tensors()["head.2.weight"], before)


@pytest.fixture
def no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """UFOGen's generator learns from the first batch on."""
    monkeypatch.setattr(Ufogen, "warm_up", 0)


def test_ufogen_teaches_its_opponent_alone_at_first(
    config: UNetConfig,
    data: Prepared,
    draws: Draws,
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Ufogen, "warm_up", 2)
    network = trained(config)
    loss = Ufogen(network, recipe, data.null_context, 1, (1.0, 1.0), 0)
    assert loss.opponent.optimizer.param_groups[0]["lr"] == 10 * recipe.learning_rate
    learned, generator = [], []
    for _ in range(3):
        found = loss(network.model, draws, make_scheduler(), recipe)
        assert found.shape == (12,)
        generator.append(bool(found.detach().any()))
        learned.append(int(loss.opponent.tensors()["optimizer.step.head.2.weight"]))
    assert learned == [5, 10, 15]
    assert generator == [False, False, True]
    assert 0 < loss.means(3)["discriminator"] < 1
    assert loss.means(1)["generator"] == 0  # nothing since


def test_what_an_earlier_version_kept_is_taken_back(
    config: UNetConfig, data: Prepared, draws: Draws, recipe: Recipe
) -> None:
    """It kept a fourth sum: how often the opponent had learned."""
    loss = Dmd(trained(config), recipe, data.null_context, 1, (3.0, 3.0), 0)
    loss(loss.teacher, draws, make_scheduler(), recipe)
    kept = loss.tensors()
    earlier = torch.cat([kept["sums"], torch.ones(1, dtype=torch.float64)])
    again = Dmd(trained(config), recipe, data.null_context, 1, (3.0, 3.0), 0)
    again.restore(kept | {"sums": earlier})
    again(again.teacher, draws, make_scheduler(), recipe)
    assert again.means(2).keys() == {"generator", "opponent", "discriminator"}


def test_ufogen_weighs_the_distance_to_the_picture_by_what_can_be_told_of_it(
    config: UNetConfig, data: Prepared, draws: Draws, recipe: Recipe
) -> None:
    """A generator that gives another picture pays for it, but not where all is noise."""
    loss = Ufogen(trained(config), recipe, data.null_context, 1, (1.0, 1.0), 0)
    for parameter in loss.opponent.head.parameters():
        torch.nn.init.zeros_(parameter)
    scheduler = make_scheduler()

    class Grey(torch.nn.Module):
        def forward(self, x: Any, times: Any, text: Any) -> torch.Tensor:
            kept = scheduler.alphas_cumprod[times][:, None, None, None]
            return kept.sqrt() / (1 - kept).sqrt() * x  # means x₀ = 0

    grey: Any = Grey()
    grey.config = config
    found = loss._loss(grey, draws, torch.ones(12), scheduler) - math.log(2)
    times = module.grid(4)[draws.times * 4 // 1000]
    distance = draws.x0.square().flatten(1).mean(1)
    torch.testing.assert_close(found, scheduler.alphas_cumprod[times] * distance)
    assert found[times == 999].abs().max() < 1e-6


def test_dmd_moves_nothing_where_both_predictions_agree(
    config: UNetConfig, data: Prepared, draws: Draws, recipe: Recipe
) -> None:
    """At the start, without guidance, the opponent predicts what the network does: what is left of
    the loss is the share of telling real from drawn."""
    network, scheduler = trained(config), make_scheduler()
    for weight, moves in ((1.0, False), (8.0, True)):
        loss = Dmd(network, recipe, data.null_context, 4, (weight, weight), 0)
        for parameter in loss.opponent.head.parameters():
            torch.nn.init.zeros_(parameter)
        left = loss._loss(network.model, draws, torch.full((12,), weight), scheduler)
        left = left - module.REAL_OR_DRAWN[0] * math.log(2)
        assert bool(left.abs().max() > 1e-6) == moves


@pytest.mark.usefixtures("no_warm_up")
@pytest.mark.parametrize("kind", [Ufogen, Dmd])
def test_in_half_precision_gradients_reach_the_whole_generator(
    kind: type[Ufogen | Dmd], config: UNetConfig, data: Prepared, draws: Draws, recipe: Recipe
) -> None:
    """Though it draws without a gradient first, for its opponent to learn from."""
    network = trained(config)
    half = recipe.model_copy(update={"precision": "bf16"})
    model = UNet(config)
    model.load_state_dict(network.model.state_dict())
    loss = kind(network, half, data.null_context, 4, (1.0, 1.0), 3)
    for _ in range(2):
        loss(model, draws, make_scheduler(), half).mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.output.conv.weight.grad.abs().sum() > 0


def test_the_opponent_of_dmd_learns_five_times(
    config: UNetConfig, data: Prepared, draws: Draws, recipe: Recipe
) -> None:
    network = trained(config)
    loss = Dmd(network, recipe, data.null_context, 1, (3.0, 3.0), 0)
    loss(network.model, draws, make_scheduler(), recipe)
    steps = loss.opponent.optimizer.state[loss.opponent.head[2].weight]["step"]
    assert int(steps) == 5


def test_the_clean_sample_of_a_prediction(draws: Draws) -> None:
    scheduler = make_scheduler()
    x0, _, times, noise = draws
    noisy = scheduler.add_noise(x0, noise, times)
    v = scheduler.get_velocity(x0, noise, times)
    torch.testing.assert_close(clean(scheduler, noisy, v, times), x0, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ufogen", "dmd"])
def test_an_interrupted_training_goes_on_to_the_same_generator(
    method: str,
    config: UNetConfig,
    data: Prepared,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generators, "LOOKS", 2)
    network = trained(config)
    weights = (1.0, 1.0) if method == "ufogen" else (3.0, 3.0)

    def go(folder: Path) -> list[dict[str, Any]]:
        return adversarial(network, data, recipe, folder, method, 4, weights, 0, CPU, quiet)

    whole = go(tmp_path / "whole")
    assert [row["samples"] for row in whole] == [32, 64]
    plain, calls = Trainer._train_step, 0

    def stopping(self: Trainer) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:
            self.save()
            raise KeyboardInterrupt
        return plain(self)

    monkeypatch.setattr(Trainer, "_train_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "parts")
    assert go(tmp_path / "parts") == whole
    ours, theirs = (load_trained(tmp_path / name, CPU) for name in ("parts", "whole"))
    assert (ours.conditions.steps, ours.conditions.sampler) == (4, "renoise")
    assert ours.conditions.guidance == weights
    state = theirs.model.state_dict()
    assert all(torch.equal(state[name], each) for name, each in ours.model.state_dict().items())
    assert not torch.equal(state["output.conv.weight"], network.model.output.conv.weight)


def test_a_collapse_ends_with_the_last_good_state(
    config: UNetConfig,
    data: Prepared,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generators, "LOOKS", 4)
    found = iter([0.9, 0.7, 0.01])
    monkeypatch.setattr(generators, "variance_share", lambda *_: next(found))
    arguments = (trained(config), data, recipe, tmp_path, "ufogen", 1, (1.0, 1.0), 0, CPU, quiet)
    told = f"collapsed at sample 48: .* all look alike; its last good state is {tmp_path}"
    for _ in range(2):  # the second time nothing is trained
        with pytest.raises(CollapsedError, match=told):
            adversarial(*arguments)
    scores = json.loads((tmp_path / "metrics.json").read_text())["scores"]
    assert (scores["samples"], scores["variance"]) == (32, 0.7)
    assert load_trained(tmp_path, CPU).conditions.steps == 1


def test_what_is_a_collapse() -> None:
    good = {"samples": 8, "discriminator": 0.7, "variance": 0.5}
    flat = good | {"variance": 0.02}
    assert collapsed(good, []) is None
    assert collapsed(flat, []) is None  # it has not varied yet: the mean picture of noise alone
    assert collapsed(flat, [flat]) is None
    assert "all look alike" in str(collapsed(flat, [good]))
    assert "all look alike" in str(collapsed(good | {"variance": math.nan}, [good]))
    assert "with a probability of 0.990" in str(collapsed(good | {"discriminator": 0.99}, [good]))


def test_networks_that_cannot_begin_a_generator_are_refused(config: UNetConfig) -> None:
    for conditions, to, message in (
        ({"prediction": "epsilon"}, 1, "--method dmd: the network predicts noise"),
        ({"steps": 8, "guidance": (1.0, 8.0)}, 1, "was distilled to 8 steps; give the one"),
        ({}, 3, "--to: 3, but a generator draws in 1, 2, 4 steps"),
    ):
        with pytest.raises(InputError, match=message):
            check_generator(trained(config, **conditions), to, "dmd")


def test_guidance_of_a_generator(config: UNetConfig) -> None:
    plain, folded = trained(config), trained(config, guidance=(1.0, 6.0))
    assert generator_weights(plain, None, "ufogen") == (1.0, 1.0)
    assert generator_weights(plain, None, "dmd") == (3.0, 3.0)
    assert generator_weights(plain, (2.0, 2.0), "dmd") == (2.0, 2.0)
    assert generator_weights(folded, None, "ufogen") == (1.0, 6.0)
    for network, asked, method, message in (
        (plain, (2.0, 2.0), "ufogen", "learns from pictures alone"),
        (plain, (1.0, 8.0), "dmd", "learns one, from 1 to 30: give it twice, such as 3 3"),
        (folded, (2.0, 2.0), "dmd", "gives 1 to 6, and its generator no other weights"),
    ):
        with pytest.raises(InputError, match=message):
            generator_weights(network, asked, method)


@pytest.mark.usefixtures("no_warm_up")
def test_a_folded_network_begins_a_generator_that_takes_the_weight(
    config: UNetConfig, data: Prepared, recipe: Recipe, draws: Draws
) -> None:
    wider = UNetConfig.model_validate(config.to_dict() | {"guidance_dim": 8})
    network = trained(wider, guidance=(1.0, 6.0))
    for kind in (Ufogen, Dmd):
        loss = kind(network, recipe, data.null_context, 1, (1.0, 6.0), 0)
        model = UNet(wider)
        found = loss(model, draws, make_scheduler(), recipe)
        found.mean().backward()
        assert model.time.guidance.weight.grad.abs().sum() > 0
