"""How a parent is trained.

Two ways are here. ``largest`` trains the space's largest network alone. ``elastic`` trains what
candidates will inherit as well: in every step the largest network, the cheapest and one at random
meet the same pictures, times and noise, and the smaller two learn half from the truth and half from
the largest one's prediction (sandwich rule and in-place distillation of Yu et al. 2020, BigNAS; for
diffusion Yang et al. 2024, DDSM). Their weights are what ``inherit`` makes of the parent's, and
gradients go back through it.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from statistics import mean
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from archsearch.data.pictures import licences
from archsearch.data.prepare import Prepared
from archsearch.diffusion.evaluate import held_out
from archsearch.diffusion.recipe import (
    Draws,
    Loss,
    autocast,
    denoising_loss,
    memory_format,
    target_of,
)
from archsearch.diffusion.spec import Recipe
from archsearch.diffusion.trainer import Trainer
from archsearch.documents import read_json
from archsearch.edit.inherit import inherit
from archsearch.files import write_json
from archsearch.latency.measure import processor
from archsearch.study.parent import Parent, error_of, largest, load_parent, save_parent
from archsearch.study.parents import SUFFIX
from archsearch.study.setting import InfeasibleError, Setting
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

How = Literal["largest", "elastic"]
HOWS: tuple[How, ...] = get_args(How)
LOOKS = 16
"""How often the held-out loss is taken in a training."""
PATIENCE = 4
"""A training ends after so many looks at the held-out loss that found nothing better."""
WEIGHTS = f"parent{SUFFIX}"
CURVE = "curve.json"

Report = Callable[[str, float], None]


class Elastic:
    """The loss of an elastic parent: of its network, the cheapest, and a random one.

    Which network is drawn follows from the batch, so that a training that was cut off goes on as if
    it had not been.

    Args:
        config: The parent's network, at proxy scale.
        smallest: The cheapest network, at proxy scale.
        draw: Draws a network of the space, at proxy scale.
        alone: Share of the pictures, of all in ``samples``, in which the largest learns alone.
    """

    __name__ = "elastic"

    def __init__(
        self,
        config: UNetConfig,
        smallest: UNetConfig,
        draw: Callable[[random.Random], UNetConfig],
        alone: float = 0.2,
    ) -> None:
        self.config, self.smallest, self.draw, self.alone = config, smallest, draw, alone
        self.share = 0.0
        """How far the training is, in whole looks; what drives it keeps this up to date."""

    def __call__(self, model: nn.Module, draws: Draws, scheduler: Any, recipe: Recipe) -> Tensor:
        """Sum of the losses, one number a sample."""
        x0, context, times, noise = draws
        noisy = scheduler.add_noise(x0, noise, times)
        noisy = noisy.to(memory_format=memory_format(x0.device, recipe.channels_last))
        target = target_of(scheduler, x0, noise, times)
        with autocast(x0.device, recipe.precision):
            taught = model(noisy, times, context).float()
        total = error_of(taught, target)
        if self.share < self.alone:
            return total
        rng = random.Random(int(times.sum()) * 1_000_003 + int(float(noise.flatten()[0]) * 1e6))
        state = {name: each.cpu() for name, each in model.named_parameters()}
        for network in (self.smallest, self.draw(rng)):
            own = inherit(self.config, state, network, trainable=True)
            own = {name: each.to(x0.device) for name, each in own.items()}
            with autocast(x0.device, recipe.precision):
                predicted = functional_call(_shell(network), own, (noisy, times, context)).float()
            total = total + (error_of(predicted, target) + error_of(predicted, taught.detach())) / 2
        return total


@lru_cache(maxsize=256)
def _shell(config: UNetConfig) -> UNet:
    # A network without weights of its own.
    with torch.device("meta"):
        return UNet(config)


def judged(look: dict[str, float]) -> float:
    """The mean held-out loss of the networks that a look at a training has seen: of the largest, or
    of the largest and the cheapest. While both learn the largest may well lose what it had alone.
    """
    return mean(value for name, value in look.items() if name.startswith("val_loss"))


def train_parent(
    setting: Setting,
    data: Prepared,
    folder: Path,
    how: How,
    samples: int,
    device: torch.device,
    report: Report = lambda _, __: None,
) -> Parent:
    """Train the parent of a study's space, or go on where an earlier call stopped. What is kept is
    the average of the weights at the look that found the lowest held-out loss (``judged``).

    Args:
        setting: The study: its space, proxy and recipe.
        data: What it learns from.
        folder: Of the checkpoint, the log, the curve and the parent's file.
        how: ``largest`` or ``elastic``.
        samples: Pictures to see at most.
        device: Where to train.
        report: Told how far it is.

    Raises:
        InputError: The folder holds another training.
        TrainingEndedError: It diverged, or memory ran out.
    """
    spec, space = setting.spec, setting.space
    scratch = {"init": "scratch", "parent": None, "distill": 0.0, "samples": samples}
    recipe = Recipe.model_validate(spec.proxy.recipe.model_dump() | scratch)
    config = setting.proxy(largest(space))
    smallest = setting.proxy(space.build(setting.cheapest()))

    def draw(rng: random.Random) -> UNetConfig:
        while True:
            with suppress(InfeasibleError):
                return setting.proxy(setting.candidate(space.draw_valid(rng)[0]).network)

    elastic = Elastic(config, smallest, draw)
    loss: Loss = elastic if how == "elastic" else denoising_loss
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, data, recipe, spec.search.seed, device, folder, loss=loss)
    path, kept = folder / WEIGHTS, folder / CURVE
    curve: list[dict[str, float]] = read_json(kept) if kept.is_file() else []
    curve = [look for look in curve if look["samples"] <= trainer.samples]
    for look in range(1, LOOKS + 1):
        goal = round(samples * look / LOOKS)
        best = min(map(judged, curve), default=float("inf"))
        since = [judged(each) > best for each in curve[-PATIENCE:]]
        if len(since) == PATIENCE and all(since):
            break
        if curve and recipe.steps_for(goal) * recipe.batch <= curve[-1]["samples"]:
            continue

        elastic.share = (look - 1) / LOOKS
        trainer.run(goal, lambda n, loss: report(f"parent, loss {loss:.3f}", n / samples))
        model = trainer.averaged()
        found = {"samples": trainer.samples, "val_loss": held_out(model, data, recipe, device).loss}
        if how == "elastic":
            state = {name: each.cpu() for name, each in model.state_dict().items()}
            own = UNet(smallest)
            own.load_state_dict(inherit(config, state, smallest))
            own = own.eval().to(device)
            found["val_loss_smallest"] = held_out(own, data, recipe, device).loss
        curve.append(found)
        if judged(found) <= best:
            about = {
                "study": setting.name,
                "space": space.name,
                "how": how,
                "data": {
                    "source": ", ".join(spec.data.sources),
                    "fingerprint": data.fingerprint,
                    "licences": licences(spec.data),
                },
                "recipe": recipe.of_key(),
                "pictures": len(data.train),
                "curve": curve,
                "seconds": round(trainer.seconds, 1),
                "machine": f"{processor()}, {device.type}",
            }
            save_parent(path, config, model.state_dict(), about)
        write_json(kept, curve)
        trainer.save()
    return load_parent(path)
