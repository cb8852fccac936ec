"""The noise schedule, from diffusers: cosine, 1,000 steps, zero terminal SNR, v-prediction."""

from typing import Any

TRAIN_STEPS = 1000


def make_scheduler() -> Any:
    """Build the DDIM scheduler that training takes its noise from and sampling its steps.

    ``clip_sample`` is off (on by default, it would distort predictions beyond [-1, 1]); spacing is trailing, so that sampling
    begins at pure noise, as zero terminal SNR requires.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
