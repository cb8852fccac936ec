"""Several metrics over the same pictures, each network seeing each picture once."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from archsearch.metrics.base import Metric, Reference
from archsearch.metrics.networks import Networks
from archsearch.metrics.registry import build_metric, check_settings, metric_info
from archsearch.metrics.settings import MetricSettings

BATCH = 64


def load_networks(names: Iterable[str], settings: MetricSettings, networks: Networks | None = None) -> Networks:
    """Load what the user brings for these metrics, and nothing else: what is missing is said before any work.

    ``networks`` that are given are returned, with what they lacked.

    Raises:
        InputError: There is no such metric, or a file one needs is missing or unusable.
    """
    networks = networks or Networks(settings)
    for name in names:
        check_settings(name, settings)
        networks.load(metric_info(name).needs_setting)
    return networks


def build_metrics(
    names: Iterable[str], data: Reference, settings: MetricSettings, networks: Networks | None = None
) -> dict[str, Metric]:
    """Build metrics that share their networks; what any of them lacks is said before the first is built.

    Raises:
        InputError: There is no such metric, or a file one needs is missing or unusable.
    """
    wanted = list(dict.fromkeys(names))
    networks = load_networks(wanted, settings, networks)
    return {name: build_metric(name, data, settings, networks) for name in wanted}


def evaluate(metrics: Mapping[str, Metric], images: Tensor, captions: Sequence[str]) -> dict[str, dict[str, float]]:
    """Score generated images with all of ``metrics``, which are reset first.

    Args:
        metrics: From :func:`build_metrics`.
        images: uint8 tensor of shape (N, 3, H, W).
        captions: The N captions they were generated from.

    Returns:
        For every metric its value and companions.

    Raises:
        ArchsearchError: Too few images.
        InputError: They are not of the form that metrics take.
    """
    starts = range(0, max(1, len(images)), BATCH)
    return evaluate_batches(metrics, ((images[start : start + BATCH], captions[start : start + BATCH]) for start in starts))


def evaluate_batches(metrics: Mapping[str, Metric], batches: Iterable[tuple[Tensor, Sequence[str]]]) -> dict[str, dict[str, float]]:
    """The same of images that come batch by batch, each with its captions."""
    for metric in metrics.values():
        metric.reset()
    for images, captions in batches:
        for metric in metrics.values():  # all of them before the next batch: networks remember the last
            metric.update(images, captions)
    return {name: metric.compute() for name, metric in metrics.items()}
