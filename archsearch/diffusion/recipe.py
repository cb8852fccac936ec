"""How a proxy is trained and scored: device, precision, noise and loss, as a recipe says."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archsearch.diffusion.spec import Precision, Prediction, Recipe, Times

TRAIN_STEPS = 1000  # times of the noise schedule


def pick_device() -> torch.device:
    """The accelerator torch sees, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def best_precision(device: torch.device) -> Precision:
    """bf16 where it is native (CUDA from Ampere, CPUs with AMX or AVX512-BF16), fp16 on older CUDA,
    else fp32.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        checks = (
            getattr(torch.cpu, name, None)
            for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        )
        avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        return "bf16" if avx512 and any(check and check() for check in checks) else "fp32"
    return "fp32"


def settled(recipe: Recipe, device: torch.device) -> Recipe:
    """A recipe whose ``precision: auto`` is settled for a device."""
    if recipe.precision != "auto":
        return recipe
    return recipe.model_copy(update={"precision": best_precision(device)})


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Compute in ``precision`` inside the block; fp32 leaves everything as it is."""
    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, kind, enabled=precision in ("bf16", "fp16"))


def memory_format(
    device: torch.device, channels_last: bool | Literal["auto"]
) -> torch.memory_format:
    """Layout of pictures in memory. ``auto``: channels last on CPU and CUDA, where convolutions are
    faster so; not on mps.
    """
    wanted = device.type in ("cpu", "cuda") if channels_last == "auto" else channels_last
    return torch.channels_last if wanted else torch.contiguous_format


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; the CPU's allocator has no class of its own for
    it.
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def make_scheduler(prediction: Prediction = "v") -> Any:
    """Build the DDIM scheduler that training takes its noise from and sampling its steps.

    ``clip_sample`` is off (on by default, it would distort predictions beyond [-1, 1]); spacing is
    trailing, so that sampling begins at pure noise, as zero terminal SNR requires. From the noise
    alone no picture can be told at zero SNR, so that a network that predicts noise keeps the cosine
    schedule's small terminal SNR.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction" if prediction == "v" else "epsilon",
        clip_sample=False,
        set_alpha_to_one=True,
        rescale_betas_zero_snr=prediction == "v",
        timestep_spacing="trailing",
    )


def target_of(scheduler: Any, x0: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """What a network should predict: v = √ᾱ·noise − √(1−ᾱ)·x₀, or the noise; of the shape of
    ``x0``.
    """
    if scheduler.config.prediction_type == "epsilon":
        return noise
    return scheduler.get_velocity(x0, noise, times)  # type: ignore[no-any-return]


def draw_times(count: int, how: Times, generator: torch.Generator) -> Tensor:
    """Times (count,) of the schedule for a batch of training, each of them uniform.

    ``even`` spreads a batch over the schedule from one random offset (Kingma et al. 2021,
    "Variational diffusion models"): every batch then meets clear and noisy pictures alike, and its
    gradient varies less.
    """
    if how == "independent":
        return torch.randint(0, TRAIN_STEPS, (count,), generator=generator)
    share = (
        torch.rand((), generator=generator, dtype=torch.float64) + torch.arange(count) / count
    ) % 1
    return (share * TRAIN_STEPS).long()


def spread_times(count: int, generator: torch.Generator) -> Tensor:
    """Times (count,) of the schedule for scoring: one from each of ``count`` equal parts of it, in
    random order.
    """
    places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    times = (places * TRAIN_STEPS).long().clamp(max=TRAIN_STEPS - 1)
    return times[torch.randperm(count, generator=generator)]


def min_snr_weights(scheduler: Any, times: Tensor, gamma: float) -> Tensor:
    """Weights (B,) of the loss at ``times`` (Hang et al. 2023): min(SNR, γ) / (SNR + 1) for v,
    min(SNR, γ) / SNR for noise.
    """
    alphas: Tensor = scheduler.alphas_cumprod.to(times.device)[times].double()
    snr = alphas / (1 - alphas)
    capped = snr.clamp(max=gamma)
    weights = (
        capped / (snr + 1)
        if scheduler.config.prediction_type == "v_prediction"
        else capped / snr.clamp(min=1e-12)
    )
    return weights.float()


class Draws(NamedTuple):
    """Samples with the captions, times and noise they are met with."""

    x0: Tensor  # (B, C, H, W)
    context: Tensor  # (B, T, D)
    times: Tensor  # (B,)
    noise: Tensor  # (B, C, H, W)

    def to(self, device: torch.device) -> "Draws":
        """The same on a device."""
        return Draws(*(tensor.to(device) for tensor in self))

    def rows(self, index: Tensor) -> "Draws":
        """Some of them."""
        return Draws(*(tensor[index] for tensor in self))


def denoising_loss(model: nn.Module, draws: Draws, scheduler: Any, recipe: Recipe) -> Tensor:
    """Mean squared error of the prediction, one number a sample: (B,), on the device of ``draws``.

    It is taken in fp32, whatever the network computes in.
    """
    x0, context, times, noise = draws
    noisy = scheduler.add_noise(x0, noise, times)
    target = target_of(scheduler, x0, noise, times)
    with autocast(x0.device, recipe.precision):
        predicted = model(
            noisy.to(memory_format=memory_format(x0.device, recipe.channels_last)), times, context
        )
    return F.mse_loss(predicted.float(), target, reduction="none").flatten(1).mean(1)


# What a training minimises: of a network, draws, the noise scheduler and a recipe, one number a
# sample, as ``denoising_loss``.
Loss = Callable[[nn.Module, Draws, Any, Recipe], Tensor]
