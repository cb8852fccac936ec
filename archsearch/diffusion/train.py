"""Train a proxy for a budget of samples. Shape suffixes: B batch, C channels, H W size, T tokens, D context width."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from archsearch.data.prepare import Prepared
from archsearch.diffusion.recipe import Recipe
from archsearch.diffusion.schedule import TRAIN_STEPS, make_scheduler
from archsearch.errors import ArchsearchError
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

VERSION = 1
"""Changes whenever the same key would give other weights: part of the key of a score."""


class DivergedError(ArchsearchError):
    """The loss was not a finite number any more."""


@dataclass(frozen=True)
class Trained:
    """A trained network: the moving average of its weights, and what the training took."""

    model: UNet
    samples: int
    seconds: float
    train_loss: float
    """Mean over the last tenth of the steps."""
    capped: bool
    """Whether ``max_seconds`` ended it before the budget."""


def train(
    config: UNetConfig,
    data: Prepared,
    recipe: Recipe,
    seed: int,
    device: torch.device,
    progress: Callable[[int, float], None] | None = None,
) -> Trained:
    """Train ``config`` from scratch on the training split of ``data``.

    Args:
        config: Network at proxy scale.
        data: Pictures and text features.
        recipe: Budget and recipe; its precision must be resolved.
        seed: Seed of initialisation, order, times, noise and dropout: the same seed gives the same weights on one machine.
        device: Where to train.
        progress: Called with samples seen and loss, once in a while.

    Raises:
        DivergedError: The loss is not finite.
    """
    from diffusers.training_utils import EMAModel

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = UNet(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, fused=device.type in ("cpu", "cuda"))
    average = EMAModel(model.parameters(), decay=recipe.ema, foreach=True)
    scheduler = make_scheduler()
    steps = max(1, -(-recipe.samples // recipe.batch))
    warmup = max(1, round(recipe.warmup * steps))
    losses: list[float] = []
    started = time.monotonic()
    capped = False
    for step, index_B in enumerate(_batches(data.train, recipe.batch, steps, generator)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, (step + 1) / warmup)
        loss = _loss(model, data, index_B, recipe, scheduler, generator, device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip, foreach=True)
        optimizer.step()
        average.step(model.parameters())
        losses.append(loss.item())
        if losses[-1] != losses[-1] or abs(losses[-1]) == float("inf"):
            raise DivergedError(f"the training diverged at sample {(step + 1) * recipe.batch}: loss {losses[-1]}")
        if progress and step % 10 == 0:
            progress((step + 1) * recipe.batch, losses[-1])
        if recipe.max_seconds and time.monotonic() - started > recipe.max_seconds and step + 1 < steps:
            capped = True
            break
    average.copy_to(model.parameters())
    tail = losses[-max(1, len(losses) // 10) :]
    return Trained(
        model.eval(), len(losses) * recipe.batch, time.monotonic() - started, sum(tail) / len(tail), capped
    )  # fmt: skip


def _batches(indices: Tensor, batch: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of indices, every picture once before any comes again."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < batch:
            order = torch.cat([order, indices[torch.randperm(len(indices), generator=generator)]])
        yield order[:batch]
        order = order[batch:]


def _loss(
    model: UNet,
    data: Prepared,
    index_B: Tensor,
    recipe: Recipe,
    scheduler: "object",
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    batch = len(index_B)
    x0 = data.samples(index_B)
    context = data.context[index_B].float()
    dropped = torch.rand(batch, generator=generator) < recipe.caption_dropout
    context[dropped] = data.null_context.float()
    times = torch.randint(0, TRAIN_STEPS, (batch,), generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    return v_loss(model, x0, context, times, noise, scheduler, recipe, device).mean()


def v_loss(
    model: UNet,
    x0: Tensor,
    context: Tensor,
    times: Tensor,
    noise: Tensor,
    scheduler: object,
    recipe: Recipe,
    device: torch.device,
) -> Tensor:
    """Mean squared error of the predicted v = √ᾱ·noise − √(1−ᾱ)·x₀, one number a sample: (B,)."""
    noisy = scheduler.add_noise(x0, noise, times)  # type: ignore[attr-defined]
    target = scheduler.get_velocity(x0, noise, times)  # type: ignore[attr-defined]
    noisy = noisy.to(device, memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        predicted = model(noisy, times.to(device), context.to(device))
    return F.mse_loss(predicted.float(), target.to(device), reduction="none").flatten(1).mean(1)
