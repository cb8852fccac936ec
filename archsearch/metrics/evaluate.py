"""Several metrics over the same pictures, each network seeing each picture once."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from archsearch.metrics.base import Metric, Reference
from archsearch.metrics.networks import Networks
from archsearch.metrics.registry import build_metric, check_settings
from archsearch.metrics.settings import MetricSettings

_BATCH = 64


def build_metrics(names: Iterable[str], data: Reference, settings: MetricSettings) -> dict[str, Metric]:
    """Build metrics that share their networks; what any of them lacks is said before the first is built.

    Raises:
        InputError: There is no such metric, or a file one needs is missing or unusable.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        check_settings(name, settings)
    networks = Networks(settings)
    return {name: build_metric(name, data, settings, networks) for name in wanted}


def evaluate(
    metrics: Mapping[str, Metric],
    images: Tensor,
    captions: Sequence[str],
    progress: Callable[[float], None] | None = None,
) -> dict[str, float]:
    """Score generated images with all of ``metrics``, which are reset first.

    Args:
        metrics: From :func:`build_metrics`.
        images: uint8 tensor of shape (N, 3, H, W).
        captions: The N captions they were generated from.
        progress: Called with the share of images seen.

    Returns:
        The values of every metric and their companions.

    Raises:
        ArchsearchError: Too few images.
        InputError: They are not of the form that metrics take.
    """
    for metric in metrics.values():
        metric.reset()
    for start in range(0, max(1, len(images)), _BATCH):
        batch = images[start : start + _BATCH]
        for metric in metrics.values():  # all of them before the next batch: networks remember the last
            metric.update(batch, captions[start : start + _BATCH])
        if progress:
            progress(min(1.0, (start + _BATCH) / max(1, len(images))))
    return {key: value for metric in metrics.values() for key, value in metric.compute().items()}
