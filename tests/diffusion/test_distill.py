"""Guidance in one pass, and half the steps, and again."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archsearch.data.prepare import Prepared
from archsearch.diffusion import distill as module
from archsearch.diffusion.distill import (
    Folding,
    Halving,
    ddim_step,
    distilled_weights,
    grid,
    guidance_weights,
    halvings,
    plan_rounds,
    progressive,
    with_guidance,
)
from archsearch.diffusion.evaluate import HeldOut
from archsearch.diffusion.recipe import Draws, make_scheduler
from archsearch.diffusion.sample import guided, sample_under, sampling_for
from archsearch.diffusion.spec import Recipe, Sampling
from archsearch.diffusion.trained import Conditions, Trained, load_trained
from archsearch.diffusion.trainer import Trainer
from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs
from tests.diffusion.made import CPU

PLAIN = Conditions(text="minilm", tokens=2, latent="pixels", prediction="v")


def trained(config: UNetConfig, **conditions: Any) -> Trained:
    torch.manual_seed(0)
    return Trained(UNet(config).eval(), PLAIN.model_copy(update=conditions))


@pytest.fixture
def draws(data: Prepared) -> Draws:
    generator = torch.Generator().manual_seed(1)
    rows = torch.arange(12)
    times = torch.arange(12) * 83 + 7
    noise = torch.randn(12, 3, 8, 8, generator=generator)
    return Draws(data.samples(rows), data.context[rows].float(), times, noise)


# Steps


def test_steps_halve_down_to_what_is_asked_for() -> None:
    assert halvings(64, 8) == [32, 16, 8]
    assert halvings(8, 1) == [4, 2, 1]
    for start, to, allowed in ((64, 7, "32, 16, 8, 4, 2, 1"), (50, 10, "25"), (9, 3, "none")):
        with pytest.raises(InputError, match=f"--to: {to} steps are not reached .* are {allowed}"):
            halvings(start, to)
    with pytest.raises(InputError, match="allowed are 4, 2, 1"):
        halvings(8, 8)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 20, 50, 64])
def test_the_grid_is_that_of_the_sampler(steps: int) -> None:
    scheduler = make_scheduler()
    scheduler.set_timesteps(steps)
    assert grid(steps).flip(0).tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_a_step_is_that_of_the_sampler(steps: int) -> None:
    scheduler = make_scheduler()
    scheduler.set_timesteps(steps)
    torch.manual_seed(0)
    x, v = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    times = [-1, *grid(steps).tolist()]
    for then, now in pairwise(times):
        both = (torch.full((2,), each) for each in (now, then))
        wanted = scheduler.step(v, now, x).prev_sample
        torch.testing.assert_close(ddim_step(scheduler, x, v, *both), wanted, rtol=0, atol=1e-5)


def test_guidance_weights_are_spread_and_follow_from_the_noise() -> None:
    noise = torch.randn(4000, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    weights = guidance_weights(noise, 1, 9)
    assert torch.equal(weights, guidance_weights(noise, 1, 9))
    counts = torch.histc(weights, bins=8, min=1, max=9)
    assert counts.sum() == 4000
    assert counts.min() > 430
    signs = noise[:, 0, 0, 0] > 0
    assert abs(float(weights[signs].mean() - weights[~signs].mean())) < 0.3


# Losses


def test_a_student_that_gives_guidance_in_one_pass_has_no_error(
    config: UNetConfig, data: Prepared, draws: Draws, recipe: Recipe
) -> None:
    teacher = trained(config).model
    empty = data.null_context.float()

    class Perfect(nn.Module):
        def forward(self, x: Tensor, times: Tensor, text: Tensor, weights: Tensor) -> Tensor:
            return guided(teacher, x, times, text, empty.expand_as(text), weights)

    class Unguided(Perfect):
        def forward(self, x: Tensor, times: Tensor, text: Tensor, weights: Tensor) -> Tensor:
            return teacher(x, times, text)  # type: ignore[no-any-return]

    loss = Folding(teacher, data.null_context, (1.0, 8.0))
    scheduler = make_scheduler()
    assert loss(Perfect(), draws, scheduler, recipe).max() < 1e-9
    assert loss(Unguided(), draws, scheduler, recipe).max() > 1e-6
    assert loss(teacher_with_weight(teacher), draws, scheduler, recipe).shape == (12,)


def teacher_with_weight(teacher: UNet) -> UNet:
    config, state = with_guidance(teacher.config, teacher.state_dict())
    student = UNet(config)
    student.load_state_dict(state)
    return student.eval()


def test_a_student_begins_as_its_teacher_without_guidance(config: UNetConfig) -> None:
    teacher = trained(config).model
    inputs = example_inputs(config, 2)
    for weight in (1.0, 8.0):
        ours = teacher_with_weight(teacher)(*inputs, torch.full((2,), weight))
        torch.testing.assert_close(ours, teacher(*inputs))


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_the_target_of_a_halving_leads_where_two_steps_of_the_teacher_lead(
    steps: int, config: UNetConfig, draws: Draws, recipe: Recipe
) -> None:
    teacher, scheduler = teacher_with_weight(trained(config).model), make_scheduler()

    class Asked(nn.Module):
        def forward(self, x: Tensor, times: Tensor, text: Tensor, weights: Tensor) -> Tensor:
            self.given = x, times, text, weights
            return torch.zeros_like(x)

    asked = Asked()
    loss = Halving(teacher, steps, (1.0, 8.0))
    error = loss(asked, draws, scheduler, recipe)
    x, times, text, weights = asked.given
    assert set(times.tolist()) <= set(grid(steps).tolist())
    fine = grid(2 * steps)
    place = torch.searchsorted(fine, times)
    middle = fine[place - 1]
    then = torch.where(place > 1, fine[place - 2], -1)
    with torch.no_grad():
        half = ddim_step(scheduler, x, teacher(x, times, text, weights), times, middle)
        end = ddim_step(scheduler, half, teacher(half, middle, text, weights), middle, then)

    class Told(nn.Module):
        """The target, solved for by hand: a step is linear in v."""

        def forward(self, x: Tensor, times: Tensor, text: Tensor, weights: Tensor) -> Tensor:
            nothing, one = (
                ddim_step(scheduler, x, torch.full_like(x, value), times, then)
                for value in (0.0, 1.0)
            )
            return (end - nothing) / (one - nothing)

    assert error.min() > 1e-4
    assert loss(Told(), draws, scheduler, recipe).max() < 1e-6


def test_where_one_picture_is_all_there_is_two_steps_are_one(draws: Draws, recipe: Recipe) -> None:
    """Its v is known, and DDIM leads straight to it, in however many steps."""
    scheduler = make_scheduler()
    alphas = scheduler.alphas_cumprod

    class OnePicture(nn.Module):
        def forward(self, x: Tensor, times: Tensor, text: Tensor, weights: Tensor) -> Tensor:
            kept = alphas[times][:, None, None, None]
            alpha, sigma = kept.sqrt(), (1 - kept).sqrt()
            x0 = torch.full_like(x, 0.5)
            return alpha * (x - alpha * x0) / sigma - sigma * x0

    known: Any = OnePicture()
    assert Halving(known, 4, (1.0, 8.0))(known, draws, scheduler, recipe).max() < 1e-5


# Rounds


def distilled(network: Trained, data: Prepared, recipe: Recipe, folder: Path) -> list[Any]:
    quiet = lambda *_: None  # noqa: E731
    return progressive(
        network, data, recipe, folder, 2, 4, (3.0, 4.0), 0, CPU, quiet, lambda *_: {"score": 1.0}
    )


@pytest.mark.slow
def test_rounds_learn_and_leave_networks_that_draw(
    config: UNetConfig, data: Prepared, recipe: Recipe, tmp_path: Path
) -> None:
    both = torch.arange(32).view(2, 16)  # pictures with one caption, and with the other
    data = replace(data, train=both[:, :12].flatten(), held_out=both[:, 12:].flatten())
    network = trained(config)
    attention: Any = network.model.stages[1].down[0].transformer.blocks[0][0]
    with torch.no_grad():
        attention.to_out.weight.mul_(20)  # so that the caption says much
    longer = recipe.model_copy(update={"samples": 480, "learning_rate": 1e-3})
    rows = distilled(network, data, longer, tmp_path)
    assert [row["steps"] for row in rows] == [None, 2]
    assert all(row["error"] < 0.9 * row["error_before"] for row in rows)
    assert all(row["error_low"] <= row["error"] <= row["error_high"] for row in rows)
    assert [row["samples"] for row in rows] == [480, 480]

    folding, last = (load_trained(tmp_path / name, CPU) for name in ("rounds/guidance", "."))
    assert (folding.conditions.steps, last.conditions.steps) == (None, 2)
    assert last.conditions.guidance == (3.0, 4.0)
    assert last.model.config.guidance_dim == 64
    context = torch.cat([data.context[:3], data.null_context[None]])
    pictures = [
        sample_under(
            last.model, last.conditions, context, sampling_for(last.conditions, None, g), 0, CPU
        )
        for g in (3.0, 4.0)
    ]
    assert pictures[0].shape == (3, 3, 8, 8)
    assert not torch.equal(*pictures)


def test_a_round_that_does_harm_leaves_its_teachers_copy(
    config: UNetConfig, data: Prepared, recipe: Recipe, tmp_path: Path
) -> None:
    network = trained(config)
    violent = recipe.model_copy(update={"learning_rate": 1.0, "clip": 1e6})
    rows = distilled(network, data, violent, tmp_path)
    assert [row["learned"] for row in rows] == [False, False]
    assert all(row["error"] == row["error_before"] for row in rows)
    last = load_trained(tmp_path, CPU).model.state_dict()
    assert all(torch.equal(last[name], value) for name, value in network.model.state_dict().items())
    assert distilled(network, data, violent, tmp_path) == rows  # nothing is left to do


def test_a_student_whose_error_is_no_number_has_not_learned(
    config: UNetConfig,
    data: Prepared,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, none = trained(config), torch.empty(0)
    before, after = (HeldOut(x, {}, x, x, none, none) for x in (1.0, float("nan")))
    found = iter([before, after] * 2)
    monkeypatch.setattr(module, "held_out", lambda *_: next(found))
    rows = distilled(network, data, recipe, tmp_path)
    assert [row["learned"] for row in rows] == [False, False]
    assert [row["error"] for row in rows] == [1.0, 1.0]


def test_an_interrupted_distillation_goes_on_to_the_same_network(
    config: UNetConfig,
    data: Prepared,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = trained(config)
    whole = distilled(network, data, recipe, tmp_path / "whole")

    plain, calls = Trainer._train_step, 0

    def stopping(self: Trainer) -> Any:
        nonlocal calls
        calls += 1
        if calls in (3, 12):
            self.save()
            raise KeyboardInterrupt
        return plain(self)

    monkeypatch.setattr(Trainer, "_train_step", stopping)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            distilled(network, data, recipe, tmp_path / "parts")
    again = distilled(network, data, recipe, tmp_path / "parts")
    assert [row["weights"] for row in again] == [row["weights"] for row in whole]
    assert calls > 12
    done = calls
    assert distilled(network, data, recipe, tmp_path / "parts") == again  # nothing is left to do
    assert calls == done


# What cannot be


@pytest.mark.parametrize(
    ("conditions", "start", "message"),
    [
        ({"prediction": "epsilon"}, None, "--method progressive: the network predicts noise"),
        ({"sampler": "renoise"}, None, "--method progressive: the network is a generator"),
        ({"steps": 8, "guidance": (1.0, 8.0)}, 64, "--from: 64, but .* distilled to 8 steps"),
        ({"steps": 2, "guidance": (1.0, 8.0)}, None, "not reached by halving 2; allowed are 1"),
    ],
)
def test_networks_that_cannot_be_distilled_so_are_refused(
    conditions: dict[str, Any], start: int | None, message: str, config: UNetConfig
) -> None:
    with pytest.raises(InputError, match=message):
        plan_rounds(trained(config, **conditions), 4, start)


def test_a_network_with_its_guidance_weight_is_only_halved(config: UNetConfig) -> None:
    wider, _ = with_guidance(config, UNet(config).state_dict())
    assert plan_rounds(trained(wider, steps=8, guidance=(1.0, 6.0)), 2, None) == [4, 2]
    assert plan_rounds(trained(wider, guidance=(1.0, 6.0)), 16, None) == [32, 16]
    assert plan_rounds(trained(config), 32, None) == [None, 32]


def test_guidance_weights_that_do_not_match_are_refused(config: UNetConfig) -> None:
    folded = trained(config, guidance=(1.0, 6.0))
    assert distilled_weights(folded, None) == (1.0, 6.0)
    assert distilled_weights(trained(config), (2.0, 3.0)) == (2.0, 3.0)
    with pytest.raises(InputError, match="but the network gives 1 to 6, and its student no others"):
        distilled_weights(folded, (1.0, 8.0))
    with pytest.raises(InputError, match="8 1 must be two weights from 1 to 30, the least first"):
        distilled_weights(trained(config), (8.0, 1.0))


def test_a_network_draws_as_its_study_does_unless_asked_otherwise() -> None:
    assert sampling_for(PLAIN) == Sampling(steps=30, guidance=3)  # of an earlier version
    conditions = PLAIN.model_copy(update={"sampling": Sampling(steps=12, guidance=6)})
    assert sampling_for(conditions) == Sampling(steps=12, guidance=6)
    assert sampling_for(conditions, 4, 2) == Sampling(steps=4, guidance=2)
    distilled = conditions.model_copy(update={"steps": 8, "guidance": (1.0, 2.5)})
    assert sampling_for(distilled) == Sampling(steps=8, guidance=2.5)


def test_a_distilled_network_is_asked_for_its_own_steps_and_weights() -> None:
    conditions = PLAIN.model_copy(update={"steps": 8, "guidance": (1.0, 2.5)})
    assert (sampling_for(conditions).steps, sampling_for(conditions).guidance) == (8, 2.5)
    with pytest.raises(InputError, match="--steps: 4, but the network was distilled to 8"):
        sampling_for(conditions, steps=4)
    with pytest.raises(InputError, match=r"--guidance: 3 is not a weight .*: 1 to 2\.5"):
        sampling_for(conditions, guidance=3)
