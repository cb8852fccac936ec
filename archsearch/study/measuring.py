"""Taking a study's metrics of a trained network, and what each of them depends on."""

import json
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from archsearch import versions
from archsearch.metrics.registry import METRICS
from archsearch.study.spec import QUANTISED, StudySpec

if TYPE_CHECKING:
    import torch

    from archsearch.data.prepare import Prepared
    from archsearch.metrics.networks import Networks
    from archsearch.unet.model import UNet

    Draw = Callable[[torch.Tensor], torch.Tensor]


def measure(
    model: "UNet",
    names: Sequence[str],
    draw: "Draw",
    spec: StudySpec,
    data: "Prepared",
    networks: "Networks",
    device: "torch.device",
) -> dict[str, dict[str, float]]:
    """Compute scores of a trained network, each with its companions.

    Args:
        model: The network, on ``device``.
        names: Scores out of ``MEASURED``.
        draw: Gives its pictures (N, 3, H, W) for the features of captions (N, tokens, width).
        spec: The study.
        data: What it learns from.
        networks: Of the metrics.
        device: Where the network is.

    Raises:
        InputError: A metric lacks its file, or the captions allow no recombinations.
    """
    from archsearch.diffusion import evaluate, quantise
    from archsearch.metrics.evaluate import build_metrics, prompts_for
    from archsearch.metrics.evaluate import evaluate as evaluate_pictures

    recipe, found = spec.proxy.recipe, dict[str, dict[str, float]]()
    for which in dict.fromkeys(METRICS[name].prompts for name in names if name in METRICS):
        prompts = prompts_for(data, which, spec.metrics.images, spec.search.seed)
        context = (
            data.encode(prompts.captions) if prompts.index is None else data.context[prompts.index]
        )
        pictures = draw(context)
        chosen = [name for name in names if name in METRICS and METRICS[name].prompts == which]
        metrics = build_metrics(chosen, data, spec.metrics, networks)
        found |= evaluate_pictures(metrics, pictures, prompts.captions)
    for name in names:
        if name in QUANTISED:
            int8 = quantise.quantise_for(model, data, recipe, device)
            found[name] = evaluate.held_out(int8, data, recipe, device).scores(name)
    return found


def check_metrics(names: Collection[str], spec: StudySpec, data: "Prepared") -> None:
    """Build what metrics need of the real pictures, and refuse what would fail: at the start, not
    after an hour. Scores that are not taken of pictures are passed over.

    Raises:
        InputError: A metric lacks its file, or the captions allow no recombinations.
    """
    from archsearch.metrics.evaluate import build_metrics, prompts_for

    names = [name for name in names if name in METRICS]
    build_metrics(names, data, spec.metrics)
    for which in {METRICS[name].prompts for name in names}:
        prompts_for(data, which, spec.metrics.images, spec.search.seed)


def conditions_of(spec: StudySpec, name: str, steps: int | None = None) -> dict[str, Any]:
    """What metric ``name`` depends on beside its training and its networks, as JSON values."""
    if name in QUANTISED:
        return {"version": versions.QUANTISING}
    return {
        "version": METRICS[name].version,
        "sampler": versions.SAMPLING,
        "prompts": versions.PROMPTS,
        "sampling": spec.sampling.at(steps).model_dump(mode="json"),
        "images": spec.metrics.images,
        "seed": spec.metrics.seed,
    }


def networks_of(name: str, networks: "Networks") -> dict[str, Any]:
    """The networks that metric ``name`` uses, as JSON values."""
    uses = METRICS[name].uses if name in METRICS else ()
    keys: dict[str, Any] = json.loads(json.dumps({use: networks.key(use) for use in uses}))
    return keys
