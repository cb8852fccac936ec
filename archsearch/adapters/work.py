"""What every training from a trained network begins with: its folder read, its data prepared, and
scores of the pictures that it draws.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archsearch.data.prepare import Prepared, prepare
from archsearch.data.spec import DataSpec
from archsearch.diffusion.recipe import pick_device, settled
from archsearch.diffusion.sample import sample_under, sampling_for
from archsearch.diffusion.spec import Recipe, Sampling
from archsearch.diffusion.trained import Conditions, Trained, begin, load_trained
from archsearch.diffusion.trainer import digest_of
from archsearch.errors import InputError, check_known
from archsearch.metrics.evaluate import build_metrics, evaluate, prompts_for, seen_rows
from archsearch.metrics.registry import METRICS
from archsearch.metrics.spec import MetricSettings
from archsearch.unet.model import UNet

Report = Callable[[str, float], None]
SHOWN = 16
"""Pictures drawn at the end, of captions seen in training."""


@dataclass(frozen=True)
class Work:
    """A training from a trained network.

    Attributes:
        trained: The network, on ``device``.
        data: What it learned from.
        recipe: How it was trained, with what is other here.
        folder: Of the training.
        device: Where to train.
    """

    trained: Trained
    data: Prepared
    recipe: Recipe
    folder: Path
    device: torch.device

    def draw(self, model: UNet, conditions: Conditions, count: int = SHOWN) -> Tensor:
        """Pictures (count, 3, H, W) of captions seen in training, as bytes."""
        context = self.context(seen_rows(self.data.train, count))
        return sample_under(model, conditions, context, sampling_for(conditions), 1, self.device)

    def context(self, rows: Tensor) -> Tensor:
        """Features of the captions of some pictures, those of the empty caption last."""
        return torch.cat([self.data.context[rows], self.data.null_context[None]])


def read_checkpoint(checkpoint: Path, output: Path) -> Trained:
    """Read a trained network that something else is made from.

    Raises:
        InputError: It is none, or ``output`` is its own folder.
    """
    if output.resolve() == checkpoint.resolve():
        raise InputError(f"--output: {output} is the folder of the network itself; choose another.")
    return load_trained(checkpoint, pick_device())


def begin_work(
    trained: Trained,
    checkpoint: Path,
    output: Path,
    kept: str,
    settings: dict[str, Any],
    changes: dict[str, Any],
    report: Report,
    other: DataSpec | None = None,
) -> Work:
    """Prepare the data of a training, and begin its folder or take it up again.

    Args:
        trained: The network, as ``read_checkpoint`` read it.
        checkpoint: Its folder.
        output: Folder of the training.
        kept: The file in it that tells what is done there.
        settings: What must be the same when it is taken up again.
        changes: Keys of the network's own recipe that are other here.
        report: Told how far it is.
        other: What is learned from in place of what the network learned from.

    Raises:
        InputError: The data are not there or do not suit the network, or the folder holds other
            work.
    """
    device = pick_device()
    spec, recipe = trained.conditions.to_learn_from(checkpoint)
    if other is not None:
        for key in ("size", "text", "tokens"):
            ours, theirs = getattr(spec, key), getattr(other, key)
            if ours != theirs:
                raise InputError(
                    f"--study: its data.{key} is {theirs}, but the network was trained with "
                    f"{ours}; give --set data.{key}={ours}."
                )
        spec = other
    # What belongs to the start of a training from nothing, or to its loss, is left behind.
    plain = {"init": "scratch", "parent": None, "distill": 0.0, "min_snr": None, "accumulate": 1}
    recipe = settled(Recipe.model_validate(recipe.model_dump() | plain | changes), device)
    data = prepare(spec, trained.conditions.latent, report)
    network = digest_of(trained.model.state_dict())
    begin(output, kept, {"schema": 1, "network": network, **settings})
    return Work(trained, data, recipe, output, device)


class Scores:
    """Scores of the pictures that networks draw, for comparison with those of one that is given.

    Args:
        work: The training.
        names: Metrics.
        images: Pictures a score is taken of.

    Raises:
        InputError: There is no such metric, or it needs a file that only a study can name.
    """

    def __init__(self, work: Work, names: Collection[str], images: int, seed: int = 0) -> None:
        self.work, self.seed, self.settings = work, seed, MetricSettings(images=images)
        self.metrics = build_metrics(names, work.data, self.settings)

    def __call__(self, model: UNet, conditions: Conditions) -> dict[str, float]:
        """Values of the metrics by name: of ``model``, and, as ``undistilled_…``, of the network
        that it came from in the same number of steps.
        """
        if not self.metrics:
            return {}
        sampling = sampling_for(conditions)
        found = self.take(model, conditions, sampling)
        plain = self.work.trained.conditions
        if plain.steps is None:
            others = self.take(self.work.trained.model, plain, sampling)
            found |= {f"undistilled_{name}": value for name, value in others.items()}
        return found

    def take(self, model: UNet, conditions: Conditions, sampling: Sampling) -> dict[str, float]:
        """Values of the metrics, with what they give besides, of what a network draws so."""
        work, found = self.work, dict[str, float]()
        for which in dict.fromkeys(METRICS[name].prompts for name in self.metrics):
            prompts = prompts_for(work.data, which, self.settings.images, self.seed)
            if prompts.index is None:
                states = work.data.encode(prompts.captions)
                context = torch.cat([states, work.data.null_context[None]])
            else:
                context = work.context(prompts.index)
            pictures = sample_under(model, conditions, context, sampling, self.seed, work.device)
            chosen = {
                name: each for name, each in self.metrics.items() if METRICS[name].prompts == which
            }
            for scores in evaluate(chosen, pictures, prompts.captions).values():
                found |= scores
        return found


def check_metrics(names: Sequence[str]) -> None:
    """Refuse metrics that are not known.

    Raises:
        InputError: One is not.
    """
    for name in names:
        check_known(name, METRICS, f"--metrics: '{name}' is not known")
