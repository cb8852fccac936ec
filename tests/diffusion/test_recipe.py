"""How a proxy is trained: the noise schedule, the times, the precision."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archsearch.diffusion.recipe import (
    TRAIN_STEPS,
    draw_times,
    make_scheduler,
    min_snr_weights,
    settled,
    spread_times,
    target_of,
)
from archsearch.diffusion.spec import Prediction, Recipe, Times

TIMES = torch.tensor([0, 250, 500, 750, 999])


def test_the_terminal_step_is_pure_noise() -> None:
    scheduler = make_scheduler()
    x0, noise = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    noisy = scheduler.add_noise(x0, noise, torch.tensor([999, 999]))
    torch.testing.assert_close(noisy, noise, atol=1e-3, rtol=0)


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_a_perfect_prediction_leads_back_to_the_picture(prediction: Prediction) -> None:
    scheduler = make_scheduler(prediction)
    x0 = torch.rand(1, 3, 4, 4) * 2 - 1
    scheduler.set_timesteps(8)
    x = scheduler.add_noise(x0, torch.randn_like(x0), scheduler.timesteps[:1])
    for time in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod[time]
        noise = (x - alpha.sqrt() * x0) / (1 - alpha).sqrt()
        x = scheduler.step(target_of(scheduler, x0, noise, time.view(1)), time, x).prev_sample
    torch.testing.assert_close(x, x0, atol=1e-4, rtol=0)


def test_noise_is_the_target_where_it_is_predicted() -> None:
    x0, noise = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
    assert target_of(make_scheduler("epsilon"), x0, noise, TIMES) is noise
    assert torch.allclose(target_of(make_scheduler("v"), x0, noise, TIMES)[-1], -x0[-1], atol=1e-3)


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_min_snr_weights_are_the_papers(prediction: Prediction) -> None:
    scheduler = make_scheduler(prediction)
    weights = min_snr_weights(scheduler, TIMES, 5.0)
    alphas = scheduler.alphas_cumprod[TIMES].double()
    snr = alphas / (1 - alphas)
    expected = torch.minimum(snr, torch.tensor(5.0)) / (
        snr + 1 if prediction == "v" else snr.clamp(min=1e-12)
    )
    torch.testing.assert_close(weights.double(), expected, atol=1e-6, rtol=1e-5)
    if prediction == "epsilon":
        assert (
            weights[0] < weights[1] <= weights[2] == 1
        )  # little noise counts less, the rest is left alone


@given(count=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_even_times_leave_no_part_of_the_schedule_out(count: int, seed: int) -> None:
    times = draw_times(count, "even", torch.Generator().manual_seed(seed)).sort().values
    around = torch.cat(
        [times, times[:1] + TRAIN_STEPS]
    )  # the schedule as a circle: from the last to the first as well
    assert (around.diff() - TRAIN_STEPS / count).abs().max() <= 1
    assert times[0] >= 0
    assert times[-1] < TRAIN_STEPS


@pytest.mark.parametrize("how", ["even", "independent"])
def test_every_time_is_drawn_alike(how: Times) -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.stack([draw_times(8, how, generator)[0] for _ in range(4000)])
    tenths = torch.histc(first.float(), 10, 0, TRAIN_STEPS) / 4000
    assert (tenths - 0.1).abs().max() < 0.02  # four standard deviations


def test_times_for_scoring_are_one_from_each_part_of_the_schedule() -> None:
    times = spread_times(64, torch.Generator().manual_seed(0))
    assert (times.sort().values * 64 // TRAIN_STEPS - torch.arange(64)).abs().max() <= 1
    assert not torch.equal(times, times.sort().values)


def test_precision_is_settled_once() -> None:
    assert settled(Recipe(), torch.device("cpu")).precision in ("fp32", "bf16")
    assert settled(Recipe(precision="bf16"), torch.device("cpu")).precision == "bf16"
