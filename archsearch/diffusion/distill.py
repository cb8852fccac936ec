"""Guidance-aware progressive distillation: a network that draws in 8, 4, 2 or 1 steps of one pass.

First the student learns to give in one pass what guidance needs two for, the guidance weight w
being a further input (Meng et al. 2023, "On distillation of guided diffusion models", stage one).
Then each round halves the steps: one DDIM step of the student is to lead where two of its teacher's
lead (Salimans & Ho 2022, "Progressive distillation for fast sampling of diffusion models"); the
student of a round begins as a copy of its teacher, and is the next round's. As in that paper, the
learning rate falls to nothing in each round.

Networks must predict v: from noise alone no picture can be told at the first of few steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archsearch import documents
from archsearch.data.prepare import Prepared
from archsearch.diffusion.evaluate import held_out
from archsearch.diffusion.recipe import (
    TRAIN_STEPS,
    Draws,
    Loss,
    autocast,
    memory_format,
    target_of,
)
from archsearch.diffusion.sample import guided
from archsearch.diffusion.spec import Recipe
from archsearch.diffusion.trained import SCORES, Conditions, Trained, save_trained
from archsearch.diffusion.trainer import Trainer, digest_of
from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

GUIDANCE_DIM = 64
"""Sinusoids of the guidance weight that a student takes. diffusers' pipelines take 256 and more for
networks of a thousand times the size."""
FIRST_STEPS = 64
"""Steps that the first halving begins from, where nothing else is said."""
WEIGHTS = (1.0, 8.0)
"""Guidance weights that a student gives, where nothing else is said."""
ROUNDS = "rounds"
FOLDING = "guidance"

Report = Callable[[str, float], None]
Score = Callable[[UNet, Conditions], dict[str, float]]


def halvings(start: int, to: int) -> list[int]:
    """Steps after each halving, ``[32, 16, 8]`` from 64 to 8.

    Raises:
        InputError: Halving does not lead there.
    """
    found, steps = list[int](), start
    while steps % 2 == 0:
        steps //= 2
        found.append(steps)
    if to not in found:
        raise InputError(
            f"--to: {to} steps are not reached by halving {start}; allowed are "
            f"{', '.join(map(str, found)) or 'none, for it is odd'}."
        )
    return found[: found.index(to) + 1]


def grid(steps: int) -> Tensor:
    """The times (steps,) that a sampler of so many steps passes through, rising: DDIM's of trailing
    spacing. The step from the first of them leads to the clean sample.
    """
    return (torch.arange(1, steps + 1) * TRAIN_STEPS / steps).round().long() - 1


def levels(scheduler: Any, times: Tensor) -> tuple[Tensor, Tensor]:
    """α and σ of a noisy sample α·x₀ + σ·noise at ``times`` (B,), each (B, 1, 1, 1); time −1 is the
    clean sample.
    """
    kept: Tensor = scheduler.alphas_cumprod.to(times.device)[times.clamp(min=0)].double()
    kept = torch.where(times < 0, torch.ones_like(kept), kept)[:, None, None, None]
    return kept.sqrt().float(), (1 - kept).sqrt().float()


def ddim_step(scheduler: Any, x: Tensor, v: Tensor, times: Tensor, then: Tensor) -> Tensor:
    """Lead the samples ``x`` (B, C, H, W) from ``times`` to ``then``, by the prediction ``v``."""
    alpha, sigma = levels(scheduler, times)
    alpha_then, sigma_then = levels(scheduler, then)
    return alpha_then * (alpha * x - sigma * v) + sigma_then * (sigma * x + alpha * v)


def guidance_weights(noise: Tensor, low: float, high: float) -> Tensor:
    """Guidance weights (B,), uniform between two, for samples with ``noise`` (B, C, H, W).

    They are read off digits of the noise that no network could see, so that they follow from the
    draws: a training that was interrupted goes on as if it had not been.
    """
    share = torch.frac(noise.flatten(1)[:, 0].abs() * 2**12)
    return low + (high - low) * share


@dataclass(frozen=True)
class Folding:
    """The loss of the first round: the distance between one pass of the student, given w, and the
    teacher's guided prediction.

    Attributes:
        teacher: A network that predicts v, without guidance weight.
        empty: Features of the empty caption (tokens, width).
        weights: The least and the largest guidance weight.
    """

    teacher: UNet
    empty: Tensor
    weights: tuple[float, float]

    @cached_property
    def __name__(self) -> str:
        return f"guidance {self.weights} of {digest_of(self.teacher.state_dict())}"

    def __call__(self, model: nn.Module, draws: Draws, scheduler: Any, recipe: Recipe) -> Tensor:
        """One number a sample, as ``denoising_loss``."""
        x0, context, times, noise = draws
        noisy = scheduler.add_noise(x0, noise, times)
        noisy = noisy.to(memory_format=memory_format(x0.device, recipe.channels_last))
        weights = guidance_weights(noise, *self.weights)
        empty = self.empty.to(context).expand_as(context)
        with autocast(x0.device, recipe.precision):
            with torch.no_grad():
                taught = guided(self.teacher, noisy, times, context, empty, weights).float()
            predicted = model(noisy, times, context, weights).float()
        error: Tensor = (predicted - taught).square().flatten(1).mean(1)
        return error


@dataclass(frozen=True)
class Halving:
    """The loss of a halving: the distance between the student's prediction and the one whose single
    DDIM step leads where two steps of the teacher lead (Salimans & Ho 2022, algorithm 2).

    The distance is taken of v, which weighs the error of x₀ by SNR + 1, one of the paper's
    weights. A draw's time chooses the student's step.

    Attributes:
        teacher: A network that predicts v and takes the guidance weight.
        steps: Of the student: the teacher's are twice as many.
        weights: The least and the largest guidance weight.
    """

    teacher: UNet
    steps: int
    weights: tuple[float, float]

    @cached_property
    def __name__(self) -> str:
        taught = digest_of(self.teacher.state_dict())
        return f"{self.steps} steps, guidance {self.weights}, of {taught}"

    def __call__(self, model: nn.Module, draws: Draws, scheduler: Any, recipe: Recipe) -> Tensor:
        """One number a sample, as ``denoising_loss``."""
        x0, context, _, noise = draws
        index = draws.times * self.steps // TRAIN_STEPS
        ends = torch.cat([torch.tensor([-1]), grid(self.steps)]).to(x0.device)
        times, middle, then = (
            ends[index + 1],
            grid(2 * self.steps).to(x0.device)[2 * index],
            ends[index],
        )
        noisy = scheduler.add_noise(x0, noise, times)
        noisy = noisy.to(memory_format=memory_format(x0.device, recipe.channels_last))
        weights = guidance_weights(noise, *self.weights)
        with autocast(x0.device, recipe.precision):
            with torch.no_grad():
                first = self.teacher(noisy, times, context, weights).float()
                x = ddim_step(scheduler, noisy, first, times, middle)
                second = self.teacher(x, middle, context, weights).float()
                x = ddim_step(scheduler, x, second, middle, then)
                target = _leading(scheduler, noisy, x, times, then)
            predicted = model(noisy, times, context, weights).float()
        error: Tensor = (predicted - target).square().flatten(1).mean(1)
        return error


def _leading(scheduler: Any, x: Tensor, end: Tensor, times: Tensor, then: Tensor) -> Tensor:
    # The v with which one DDIM step leads from x at ``times`` to ``end`` at ``then``.
    alpha, sigma = levels(scheduler, times)
    alpha_then, sigma_then = levels(scheduler, then)
    ratio = sigma_then / sigma
    x0 = (end - ratio * x) / (alpha_then - ratio * alpha)
    return target_of(scheduler, x0, (x - alpha * x0) / sigma, times)


def progressive(
    trained: Trained,
    data: Prepared,
    recipe: Recipe,
    folder: Path,
    to: int,
    start: int | None,
    weights: tuple[float, float],
    seed: int,
    device: torch.device,
    report: Report,
    score: Score,
    folding_rate: float | None = None,
) -> list[dict[str, Any]]:
    """Distill a trained network, or go on where an earlier call stopped.

    ``folder`` then holds the last student as a trained network, and in ``rounds/`` the network
    after each round with its training: ``rounds/guidance`` draws in any number of steps, one pass
    each, ``rounds/32`` in 32, and so on.

    Args:
        trained: What is distilled. One that takes the guidance weight already is only halved.
        data: What it learned from.
        recipe: How each round is trained; ``samples`` is what a round sees.
        folder: Where everything goes.
        to: Steps to reach.
        start: Steps that halving begins from; None for those that the network was distilled to, or
            64.
        weights: The least and the largest guidance weight.
        seed: Of the trainings.
        device: Where to train.
        report: Told how far it is.
        score: Scores of the pictures that a network draws, by name.
        folding_rate: Learning rate of the first round, where it is another: it has something new
            to learn, the others hardly more than their teachers know.

    Returns:
        A row a round: ``steps`` (None after the first), ``error`` of the student against its
        teacher on held-out pictures, ``error_before`` its training, the ends of its interval,
        pictures seen, whether it ``learned``, seconds, and what ``score`` gives. A student that
        its training has only moved further from its goal stays the copy that it began as.

    Raises:
        InputError: The network does not predict v, or halving does not lead there.
        TrainingEndedError: A round diverged, or memory ran out.
    """
    model, conditions = trained.model, trained.conditions
    rounds = plan_rounds(trained, to, start)
    rows: list[dict[str, Any]] = []
    for number, steps in enumerate(rounds):

        def tell(seen: int, loss: float, steps: int | None = steps, number: int = number) -> None:
            share = min(1.0, seen / recipe.samples)
            doing = f"{steps} steps" if steps else "guidance in one pass"
            report(f"{doing}: error {loss:.4f}", (number + share) / len(rounds))

        loss: Loss
        config, state, how = model.config, dict(model.state_dict()), recipe
        if steps is None:
            loss = Folding(model, data.null_context, weights)
            config, state = with_guidance(config, state)
            how = recipe.model_copy(update={"learning_rate": folding_rate or recipe.learning_rate})
        else:
            loss = Halving(model, steps, weights)
        place = folder / ROUNDS / (FOLDING if steps is None else str(steps))
        trainer = Trainer(
            config, data, how, seed, device, place, loss=loss, initial=state, decays=True
        )
        trainer.run(recipe.samples, tell)
        trainer.save()
        model, begun = trainer.averaged(), UNet(config).to(device)
        begun.load_state_dict(state)
        of_round = conditions.model_copy(update={"steps": steps, "guidance": weights})
        trained_to = digest_of(model.state_dict())
        known = _known_scores(place, trained_to)
        if known is None:
            report("held-out error, and scores of pictures", (number + 1) / len(rounds))
            before, after = (
                held_out(each, data, recipe, device, loss) for each in (begun.eval(), model)
            )
            harmed = not after.loss <= before.loss  # also where it is no number
            if harmed:
                model, after = begun, before
            known = {
                "steps": steps,
                "error_before": before.loss,
                "error": after.loss,
                "error_low": after.low,
                "error_high": after.high,
                "learned": not harmed,
                "samples": trainer.samples,
                "seconds": round(trainer.seconds, 1),
                "weights": trained_to,
                **score(model, of_round),
            }
            save_trained(place, model, of_round, known)
        elif not known["learned"]:
            model = begun.eval()
        rows.append(known)
    save_trained(folder, model, of_round, {k: v for k, v in rows[-1].items() if k != "weights"})
    return rows


def plan_rounds(trained: Trained, to: int, start: int | None) -> list[int | None]:
    """Steps after each round; None stands for the first, which gives guidance in one pass.

    Raises:
        InputError: The network cannot be distilled so.
    """
    conditions = trained.conditions
    if conditions.prediction != "v" or conditions.sampler != "ddim":
        what = "predicts noise" if conditions.prediction != "v" else "is a generator"
        raise InputError(
            f"--method progressive: the network {what}; only one that predicts v, and draws by "
            "DDIM, can be distilled so (train it with --set proxy.prediction=v)."
        )
    own = conditions.steps
    if own is not None and start not in (None, own):
        raise InputError(
            f"--from: {start}, but the network was distilled to {own} steps, and its student "
            f"begins from these; leave --from out."
        )
    halved = halvings(start or own or FIRST_STEPS, to)
    return halved if trained.model.config.guidance_dim else [None, *halved]  # type: ignore[return-value]


def distilled_weights(trained: Trained, asked: tuple[float, float] | None) -> tuple[float, float]:
    """The guidance weights that a distilled network is to give, the least and the largest.

    Raises:
        InputError: They are out of range, or not those that the network gives.
    """
    own = trained.conditions.guidance
    if asked is not None and not 1 <= asked[0] < asked[1] <= 30:
        raise InputError(
            f"--guidance: {asked[0]:g} {asked[1]:g} must be two weights from 1 to 30, the least "
            "first."
        )
    if own is not None and asked is not None and asked != own:
        raise InputError(
            f"--guidance: {asked[0]:g} {asked[1]:g}, but the network gives {own[0]:g} to "
            f"{own[1]:g}, and its student no others; leave --guidance out."
        )
    return own or asked or WEIGHTS


def with_guidance(
    config: UNetConfig, state: Mapping[str, Tensor]
) -> tuple[UNetConfig, dict[str, Tensor]]:
    """A network that also takes the guidance weight, which it does not hear until it is trained."""
    wider = UNetConfig.model_validate(config.to_dict() | {"guidance_dim": GUIDANCE_DIM})
    first = state["time.linear1.weight"]
    silent = torch.zeros(first.shape[1], GUIDANCE_DIM, device=first.device)
    return wider, {**state, "time.guidance.weight": silent}


def _known_scores(place: Path, weights: str) -> dict[str, Any] | None:
    # What an earlier call found of a training that ended at these weights.
    path = place / SCORES
    if not path.is_file():
        return None
    known: Any = documents.read(path).data.get("scores")
    if not isinstance(known, dict):
        return None
    return known if known.get("weights") == weights else None
