"""The noise schedule, from diffusers: cosine, 1,000 steps; under v-prediction with zero terminal SNR."""

from typing import Any, Literal

import torch
from torch import Tensor

TRAIN_STEPS = 1000

Prediction = Literal["v", "epsilon"]
Times = Literal["even", "independent"]
_NAMES = {"v": "v_prediction", "epsilon": "epsilon"}


def make_scheduler(prediction: Prediction = "v") -> Any:
    """Build the DDIM scheduler that training takes its noise from and sampling its steps.

    ``clip_sample`` is off (on by default, it would distort predictions beyond [-1, 1]); spacing is trailing, so that sampling
    begins at pure noise, as zero terminal SNR requires. From the noise alone no picture can be told at zero SNR, so that a network
    that predicts noise keeps the cosine schedule's small terminal SNR.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=_NAMES[prediction],
        clip_sample=False,
        set_alpha_to_one=True,
        rescale_betas_zero_snr=prediction == "v",
        timestep_spacing="trailing",
    )


def target_of(scheduler: Any, x0: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """What a network should predict: v = √ᾱ·noise − √(1−ᾱ)·x₀, or the noise; of the shape of ``x0``."""
    if scheduler.config.prediction_type == "epsilon":
        return noise
    return scheduler.get_velocity(x0, noise, times)  # type: ignore[no-any-return]


def draw_times(count: int, how: Times, generator: torch.Generator) -> Tensor:
    """Times (count,) of the schedule for a batch of training, each of them uniform.

    ``even`` spreads a batch over the schedule from one random offset (Kingma et al. 2021, "Variational diffusion
    models"): every batch then meets clear and noisy pictures alike, and its gradient varies less.
    """
    if how == "independent":
        return torch.randint(0, TRAIN_STEPS, (count,), generator=generator)
    share = (torch.rand((), generator=generator, dtype=torch.float64) + torch.arange(count) / count) % 1
    return (share * TRAIN_STEPS).long()


def min_snr_weights(scheduler: Any, times: Tensor, gamma: float) -> Tensor:
    """Weights (B,) of the loss at ``times`` (Hang et al. 2023): min(SNR, γ) / (SNR + 1) for v, min(SNR, γ) / SNR for noise."""
    alphas: Tensor = scheduler.alphas_cumprod.to(times.device)[times].double()
    snr = alphas / (1 - alphas)
    capped = snr.clamp(max=gamma)
    weights = capped / (snr + 1) if scheduler.config.prediction_type == "v_prediction" else capped / snr.clamp(min=1e-12)
    return weights.float()
