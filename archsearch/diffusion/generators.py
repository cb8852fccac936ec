"""Generators of one to four steps: which networks become one, how they are trained against an
opponent (:mod:`archsearch.diffusion.adversarial`), and when that has collapsed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from archsearch import documents
from archsearch.data.prepare import Prepared
from archsearch.diffusion.adversarial import BETAS, METHODS, Ufogen, clean, told
from archsearch.diffusion.distill import grid
from archsearch.diffusion.recipe import make_scheduler
from archsearch.diffusion.spec import Recipe
from archsearch.diffusion.trained import Trained, save_trained
from archsearch.diffusion.trainer import Trainer, TrainingEndedError
from archsearch.errors import InputError
from archsearch.files import write_json
from archsearch.unet.model import UNet

STEPS = (1, 2, 4)
"""Steps that a generator may draw in."""
LOOKS = 16
SATURATED = 0.98
"""A discriminator that is so sure of itself has nothing left to teach."""
LEAST_VARIANCE = 0.1
"""Share of the variance of real pictures below which those that are drawn are one and the same."""
VARIANCE_PICTURES = 64
CURVE = "curve.json"
TRAINING = "training"

Report = Callable[[str, float], None]


class CollapsedError(TrainingEndedError):
    """The generator and its opponent do not teach each other any more."""

    outcome = "collapsed"


def check_generator(trained: Trained, to: int, method: str) -> None:
    """Refuse what no generator can begin as, or draw in.

    Raises:
        InputError: The network predicts noise, was distilled already, or ``to`` is none of
            ``STEPS``.
    """
    conditions = trained.conditions
    if conditions.prediction != "v":
        raise InputError(
            f"--method {method}: the network predicts noise; only one that predicts v can begin a "
            "generator (train it with --set proxy.prediction=v)."
        )
    if conditions.steps is not None:
        raise InputError(
            f"--method {method}: the network was distilled to {conditions.steps} steps; give the "
            "one that it came from, which draws in any number, or the rounds/guidance of its "
            "distillation."
        )
    if to not in STEPS:
        raise InputError(
            f"--to: {to}, but a generator draws in {', '.join(map(str, STEPS))} steps."
        )


GENERATOR_GUIDANCE = {"ufogen": (1.0, 1.0), "dmd": (3.0, 3.0)}
"""Guidance weights that a generator learns from a network of two passes, where nothing else is
said."""


def generator_weights(
    trained: Trained, asked: tuple[float, float] | None, method: str
) -> tuple[float, float]:
    """The guidance weights of what a generator learns to draw.

    Raises:
        InputError: They are not what network and method allow.
    """
    own = trained.conditions.guidance
    if own is not None and asked in (None, own):
        return own
    if own is not None:
        raise InputError(
            f"--guidance: the network gives {own[0]:g} to {own[1]:g}, and its generator no other "
            "weights; leave --guidance out."
        )
    if method == Ufogen.method:
        if asked is not None:
            raise InputError(
                "--guidance: ufogen learns from pictures alone, without guidance; leave --guidance "
                "out, or begin from the rounds/guidance of a progressive distillation."
            )
        return GENERATOR_GUIDANCE[method]
    asked = asked or GENERATOR_GUIDANCE[method]
    if asked[0] != asked[1] or not 1 <= asked[0] <= 30:
        raise InputError(
            f"--guidance: {asked[0]:g} {asked[1]:g}, but a network that does not take the guidance "
            "weight learns one, from 1 to 30: give it twice, such as 3 3."
        )
    return asked


def adversarial(
    trained: Trained,
    data: Prepared,
    recipe: Recipe,
    folder: Path,
    method: str,
    to: int,
    weights: tuple[float, float],
    seed: int,
    device: torch.device,
    report: Report,
) -> list[dict[str, Any]]:
    """Train a generator, or go on where an earlier call stopped. ``folder`` holds the last good one
    as a trained network, ``curve.json`` in it how both have learned.

    Args:
        trained: What it begins as.
        data: What that learned from.
        recipe: How it is trained.
        folder: Where everything goes.
        method: ``ufogen`` or ``dmd``.
        to: Steps that it is to draw in.
        weights: Guidance weights of what it learns to draw.
        seed: Of the training.
        device: Where to train.
        report: Told how far it is.

    Returns:
        A row a look: pictures seen, ``generator`` and ``opponent``, their losses, how sure the
        ``discriminator`` is, and the ``variance`` of what is drawn, as a share of real pictures'.

    Raises:
        CollapsedError: The discriminator is sure of everything, or all pictures look alike.
        TrainingEndedError: The training diverged, or memory ran out.
    """
    if recipe.precision == "fp16":  # whose scaler knows of one optimiser only
        recipe = recipe.model_copy(update={"precision": "fp32"})
    loss = METHODS[method](trained, recipe, data.null_context, to, weights, seed)
    state = trained.model.state_dict()
    trainer = Trainer(
        trained.model.config,
        data,
        recipe,
        seed,
        device,
        folder / TRAINING,
        loss=loss,
        initial=state,
        betas=BETAS,
    )
    update = {"steps": to, "guidance": weights, "sampler": "renoise"}
    conditions = trained.conditions.model_copy(update=update)
    kept = folder / CURVE
    curve: list[dict[str, Any]] = read_curve(folder)
    if not (curve and "collapsed" in curve[-1]):
        curve = [row for row in curve if row["samples"] <= trainer.samples]
    for look in range(1, LOOKS + 1):
        goal = round(recipe.samples * look / LOOKS)
        if curve and recipe.steps_for(goal) * recipe.batch <= curve[-1]["samples"]:
            continue
        if curve and "collapsed" in curve[-1]:
            break
        before = curve[-1]["samples"] // recipe.batch if curve else 0
        trainer.run(
            goal,
            lambda seen, at: report(f"{method}: loss {at:.3f}", min(1.0, seen / recipe.samples)),
        )
        model = trainer.averaged()
        row = {**(curve[-1] if curve else {}), **loss.means(trainer.step - before)}
        row["samples"] = trainer.samples
        row["variance"] = variance_share(model, data, weights, to, device)
        why = collapsed(row, curve)
        curve.append(row | ({"collapsed": why} if why else {}))
        write_json(kept, {"schema": 1, "method": method, "curve": curve})
        if why is None:
            save_trained(folder, model, conditions, row)
            trainer.save()
    if (last := curve[-1]).get("collapsed"):
        good = str(folder) if len(curve) > 1 else None
        raise CollapsedError(
            f"the training collapsed at sample {last['samples']}: {last['collapsed']}", good
        )
    return curve


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """How both networks have learned so far.

    Raises:
        InputError: The file is damaged.
    """
    if not (folder / CURVE).is_file():
        return []
    return list(documents.validate(documents.read(folder / CURVE), _Curve).curve)


class _Curve(BaseModel):
    curve: list[dict[str, Any]]


def collapsed(row: dict[str, Any], earlier: list[dict[str, Any]]) -> str | None:
    """Why a look finds that nothing more is learned, if it does. A generator begins as a network
    that draws one mean picture of noise alone: only what has varied can stop to.
    """
    if row["discriminator"] > SATURATED:
        return (
            f"the discriminator is right with a probability of {row['discriminator']:.3f}, and "
            "teaches nothing any more"
        )
    varied = max((each["variance"] for each in earlier), default=0.0) >= LEAST_VARIANCE
    if varied and not row["variance"] >= LEAST_VARIANCE:
        return (
            f"what is drawn varies {row['variance']:.3f} times as much as real pictures do: they "
            "all look alike"
        )
    return None


@torch.no_grad()
def variance_share(
    model: UNet, data: Prepared, weights: tuple[float, float], steps: int, device: torch.device
) -> float:
    """Variance of drawn samples over that of real ones: over samples, the mean of all positions;
    from fixed noise and held-out captions, in the first of ``steps``.
    """
    rows = data.held_out[:VARIANCE_PICTURES]
    x0, text = data.samples(rows).to(device), data.context[rows].float().to(device)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x0.shape, generator=generator).to(device)
    times = torch.full((len(x0),), int(grid(steps)[-1]), device=device)
    middle = torch.full((len(x0),), sum(weights) / 2, device=device)
    drawn = clean(make_scheduler(), noise, told(model, noise, times, text, middle), times)
    return float(drawn.var(0).mean() / x0.var(0).mean())
