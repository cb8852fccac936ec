"""The known metrics."""

from collections.abc import Callable
from dataclasses import dataclass

from archsearch.data.prepare import Prepared
from archsearch.errors import InputError, nearest
from archsearch.metrics.alignment import Alignment
from archsearch.metrics.base import Direction, Metric
from archsearch.metrics.clip_score import FILE_NEEDED as CLIP_NEEDED
from archsearch.metrics.clip_score import ClipScore
from archsearch.metrics.fid import FILE_NEEDED as INCEPTION_NEEDED
from archsearch.metrics.fid import Fid
from archsearch.metrics.frechet import FdEffnet
from archsearch.metrics.kernel import KidEffnet
from archsearch.metrics.settings import MetricSettings


@dataclass(frozen=True)
class MetricInfo:
    """What is known of a metric without building it.

    Attributes:
        direction: Which way is better.
        version: Version of its definition; part of a score's key.
        description: One line for tables.
        needs_file: What the user must bring, or None.
        build: From data and settings to the metric.
    """

    direction: Direction
    version: int
    description: str
    needs_file: str | None
    build: Callable[[Prepared, MetricSettings], Metric]


METRICS: dict[str, MetricInfo] = {
    "kid_effnet": MetricInfo(
        KidEffnet.direction,
        KidEffnet.version,
        "kernel distance to the train pictures on EfficientNet-Lite0 features, unbiased",
        None,
        KidEffnet,
    ),
    "fd_effnet": MetricInfo(
        FdEffnet.direction,
        FdEffnet.version,
        "Fréchet distance to the train pictures on EfficientNet-Lite0 features (not FID)",
        None,
        FdEffnet,
    ),
    "alignment": MetricInfo(
        Alignment.direction,
        Alignment.version,
        "cosine of image and caption under a contrastive model fitted to the train pictures",
        None,
        Alignment,
    ),
    "fid": MetricInfo(Fid.direction, Fid.version, "Fréchet Inception Distance to the train pictures", INCEPTION_NEEDED, Fid),
    "clip_score": MetricInfo(
        ClipScore.direction, ClipScore.version, "100 · cosine of image and caption under CLIP", CLIP_NEEDED, ClipScore
    ),
}


def build_metric(name: str, data: Prepared, settings: MetricSettings) -> Metric:
    """Build a metric over ``data``; the features of its real pictures are computed on first use and cached.

    Raises:
        InputError: There is no such metric, or a file it needs is missing or unusable.
    """
    if name not in METRICS:
        raise InputError(f"metrics: unknown metric '{name}'.{nearest(name, METRICS)} Allowed: {', '.join(METRICS)}.")
    return METRICS[name].build(data, settings)
