"""Scores taken from a trained network: of the pictures it draws, and of what it is worth in int8."""

from collections.abc import Iterable

import torch

from archsearch.data.prepare import Prepared
from archsearch.diffusion.evaluate import held_out
from archsearch.diffusion.quantise import quantise_for
from archsearch.diffusion.sample import Sampling, sample
from archsearch.metrics.evaluate import build_metrics, evaluate
from archsearch.metrics.networks import Networks
from archsearch.metrics.prompts import prompts_for
from archsearch.metrics.registry import METRICS
from archsearch.study.scores import QUANTISED
from archsearch.study.spec import StudySpec
from archsearch.unet.model import UNet


def measure(
    model: UNet,
    data: Prepared,
    spec: StudySpec,
    names: tuple[str, ...],
    sampling: Sampling,
    device: torch.device,
    networks: Networks,
) -> dict[str, dict[str, float]]:
    """Compute the scores ``names`` of a trained network: each with its companions, under its name.

    Args:
        model: The network, at proxy scale.
        data: What it was trained on.
        spec: The study.
        names: Scores out of ``MEASURED``.
        sampling: Steps and guidance of the pictures, one number of steps.
        device: Where to compute.
        networks: Those of the study's metrics.

    Raises:
        InputError: A metric lacks its file, or the captions allow no recombinations.
    """
    values: dict[str, dict[str, float]] = {}
    recipe = spec.proxy.recipe
    for which in dict.fromkeys(METRICS[name].prompts for name in names if name in METRICS):
        prompts = prompts_for(data, which, spec.metrics.images, spec.search.seed)
        context = data.encode(prompts.captions) if prompts.index is None else data.context[prompts.index]
        pictures = sample(model, context, data.null_context, sampling, spec.search.seed, device, data.latent, recipe.prediction)
        chosen = [name for name in names if name in METRICS and METRICS[name].prompts == which]
        values |= evaluate(build_metrics(chosen, data, spec.metrics, networks), pictures, prompts.captions)
    for name in names:
        if name in QUANTISED:
            values[name] = held_out(quantise_for(model, data, recipe, device), data, recipe, device).scores(name)
    return values


def check_sampled(names: Iterable[str], data: Prepared, spec: StudySpec) -> None:
    """Build what sampled scores need of the real pictures, and refuse what would fail: here, not after an hour.

    Args:
        names: Scores; those that are not sampled are passed over.
        data: The data.
        spec: The study.

    Raises:
        InputError: A metric lacks its file, or the captions allow no recombinations.
    """
    sampled = [name for name in names if name in METRICS]
    build_metrics(sampled, data, spec.metrics)
    for which in {METRICS[name].prompts for name in sampled}:
        prompts_for(data, which, spec.metrics.images, spec.search.seed)
