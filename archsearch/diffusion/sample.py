"""Pictures drawn by a trained network."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from archsearch.data.latent import PIXELS, LatentSpace, latent_space
from archsearch.data.text import text_encoder
from archsearch.diffusion.recipe import make_scheduler
from archsearch.diffusion.spec import Prediction, Sampling
from archsearch.diffusion.trained import Conditions
from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig

_log = logging.getLogger(__name__)

STEPS, GUIDANCE = 30, 3.0  # where nothing else is said


class Denoiser(Protocol):
    """A network, or what is called like one."""

    @property
    def config(self) -> UNetConfig:
        """Of the network."""
        ...

    def __call__(self, *inputs: Tensor) -> Any:
        """Predict, from the inputs of a ``UNet``."""
        ...


@torch.no_grad()
def sample(
    model: Denoiser,
    context: Tensor,
    null_context: Tensor,
    sampling: Sampling,
    seed: int,
    device: torch.device,
    latent: LatentSpace = PIXELS,
    prediction: Prediction = "v",
    batch: int = 32,
    renoise: bool = False,
    before: Callable[[slice], object] = lambda _: None,
) -> Tensor:
    """Draw one picture for each caption.

    Args:
        model: Trained network. One with a guidance weight as its input takes that of ``sampling``,
            and makes one pass a step.
        context: Text features (N, tokens, width).
        null_context: Features of the empty caption (tokens, width).
        sampling: Steps and guidance, one number of steps.
        seed: Seed of the initial noise; picture i starts from the same noise for every network.
        device: Where to compute.
        latent: The space the network was trained in.
        prediction: What the network predicts.
        batch: Pictures at a time.
        renoise: Whether each step draws a whole picture, to which new noise is added for the next,
            as generators are trained for; else the steps are DDIM's.
        before: Told which of the pictures are drawn next.

    Returns:
        Pictures (N, 3, H, W), bytes.

    Raises:
        ValueError: The number of steps is still to be chosen.
    """
    if isinstance(sampling.steps, tuple):
        raise ValueError(
            f"one number of steps is needed, but got {sampling.steps}; see Sampling.at"
        )
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(
        len(context),
        config.in_channels,
        config.sample_size,
        config.sample_size,
        generator=generator,
    )
    pictures = []
    for start in range(0, len(context), batch):
        x = noise[start : start + batch].to(device, memory_format=torch.channels_last)
        before(slice(start, start + len(x)))
        text = context[start : start + batch].float().to(device)
        empty = null_context.float().to(device).expand_as(text)
        scheduler = make_scheduler(prediction)
        scheduler.set_timesteps(sampling.steps)
        times = scheduler.timesteps.tolist()
        for time, then in zip(times, [*times[1:], None], strict=True):
            predicted = _guided(model, x, float(time), text, empty, sampling.guidance)
            step = scheduler.step(predicted, time, x)
            x = step.prev_sample
            if renoise:
                x = step.pred_original_sample
            if renoise and then is not None:
                new = torch.randn(x.shape, generator=generator).to(device)
                x = scheduler.add_noise(x, new, torch.full((len(x),), then, device=device))
        pictures.append(latent.decode(x))
    return torch.cat(pictures).contiguous()


def _guided(
    model: Denoiser, x: Tensor, time: float, text: Tensor, empty: Tensor, guidance: float
) -> Tensor:
    times, weights = (torch.full((len(x),), value, device=x.device) for value in (time, guidance))
    if model.config.guidance_dim:
        return model(x, times, text, weights)  # type: ignore[no-any-return]
    return model(x, times, text) if guidance == 1 else guided(model, x, times, text, empty, weights)


def guided(
    model: Callable[..., Any],
    x: Tensor,
    times: Tensor,
    text: Tensor,
    empty: Tensor,
    weights: Tensor,
) -> Tensor:
    """Classifier-free guidance: empty + w · (text − empty), both predictions in one pass.

    Args:
        model: A network without guidance weight.
        x: Noisy samples (B, C, H, W).
        times: Of the schedule, (B,).
        text: Features of the captions (B, tokens, width).
        empty: Those of the empty caption, the same shape.
        weights: Guidance weights w, (B,); at 1 there is no guidance.
    """
    both = model(torch.cat([x, x]), torch.cat([times, times]), torch.cat([empty, text]))
    without, with_text = both.chunk(2)
    guidance: Tensor = without + weights[:, None, None, None] * (with_text - without)
    return guidance


def sampling_for(
    conditions: Conditions, steps: int | None = None, guidance: float | None = None
) -> Sampling:
    """How a network is to draw: as it is asked to, else as it was distilled to, else as its study
    draws, else in 30 steps under guidance 3.

    Raises:
        InputError: It was distilled to another number of steps, or for other guidance weights.
    """
    if steps is not None and conditions.steps is not None and steps != conditions.steps:
        raise InputError(
            f"--steps: {steps}, but the network was distilled to {conditions.steps} and knows only "
            "the times that these pass through; leave --steps out."
        )
    low, high = conditions.guidance or (1.0, 30.0)
    if guidance is not None and not low <= guidance <= high:
        known = f"{low:g} to {high:g}" if low < high else f"only {low:g}"
        raise InputError(
            f"--guidance: {guidance:g} is not a weight that the network was distilled for: {known}."
        )
    default = conditions.sampling or Sampling(steps=STEPS, guidance=GUIDANCE)
    weight = min(max(default.guidance, low), high) if guidance is None else guidance
    return Sampling(steps=steps or conditions.steps or default.steps, guidance=weight)


def context_of(prompts: Sequence[str], conditions: Conditions) -> Tensor:
    """Features of prompts (N + 1, tokens, width), those of the empty caption last. A prompt of more
    tokens than the network's context takes is cut, and a warning says so.

    Raises:
        InputError: A prompt is empty.
    """
    for number, prompt in enumerate(prompts, start=1):
        if not prompt.strip():
            raise InputError(f"prompt {number} of {len(prompts)} is empty; say what to draw.")
    encoder = text_encoder(conditions.text)
    for prompt, length in zip(prompts, encoder.lengths(prompts), strict=True):
        if length > conditions.tokens:
            _log.warning(
                "prompt '%s' has %d tokens, of which the network's context takes the first %d: "
                "the rest is not seen.",
                prompt,
                length,
                conditions.tokens,
            )
    return encoder.encode((*prompts, ""), conditions.tokens)


def sample_under(
    model: Denoiser,
    conditions: Conditions,
    context: Tensor,
    sampling: Sampling,
    seed: int,
    device: torch.device,
    before: Callable[[slice], object] = lambda _: None,
) -> Tensor:
    """Draw as the network was trained. The last row of ``context`` (N + 1, tokens, width) is the
    empty caption's; the rest as ``sample``.
    """
    one_pass = conditions.guidance is not None and not model.config.guidance_dim
    return sample(
        model,
        context[:-1],
        context[-1],
        sampling.model_copy(update={"guidance": 1.0}) if one_pass else sampling,
        seed,
        device,
        latent_space(conditions.latent),
        conditions.prediction,
        renoise=conditions.sampler == "renoise",
        before=before,
    )
