"""The known metrics: ours, and those of installed packages."""

from dataclasses import fields, replace
from functools import partial

from archsearch.errors import InputError, nearest
from archsearch.metrics.base import Metric, MetricInfo, Reference
from archsearch.metrics.distances import (
    Cmmd,
    CoverageEffnet,
    DensityEffnet,
    FdEffnet,
    Fid,
    Kid,
    KidEffnet,
    PrecisionEffnet,
    RecallEffnet,
)
from archsearch.metrics.networks import CLIP_NEEDED, INCEPTION_NEEDED, MetricSettings, Networks
from archsearch.metrics.text import Alignment, ClipScore
from archsearch.plugins import load_plugins

_Fidelity = type[
    FdEffnet
    | KidEffnet
    | PrecisionEffnet
    | RecallEffnet
    | DensityEffnet
    | CoverageEffnet
    | Fid
    | Kid
]
_Text = type[Alignment | ClipScore]


def _effnet(metric: _Fidelity, description: str) -> MetricInfo:
    """A metric on EfficientNet-Lite0 features."""
    return MetricInfo(
        direction=metric.direction,
        version=metric.version,
        description=description,
        axis="fidelity",
        build=metric,
        uses=("effnet",),
    )


def _inception(metric: _Fidelity, description: str) -> MetricInfo:
    """The same on the features of the user's Inception."""
    on_effnet = _effnet(metric, description)
    return replace(
        on_effnet, uses=("inception",), needs_setting="inception", needs_file=INCEPTION_NEEDED
    )


def _text(metric: _Text, description: str, recombined: bool, needs_clip: bool) -> MetricInfo:
    return MetricInfo(
        direction=metric.direction,
        version=metric.version,
        description=description + (", on recombinations" if recombined else ""),
        axis="text",
        build=partial(metric, prompts="recombined" if recombined else "seen"),
        prompts="recombined" if recombined else "seen",
        uses=("clip",) if needs_clip else ("effnet", "text"),
        needs_setting="clip" if needs_clip else None,
        needs_file=CLIP_NEEDED if needs_clip else None,
    )


_ALIGNED = "cosine of image and caption under a contrastive model fitted to the train pictures"
_CLIP = "100 · cosine of image and caption under CLIP"
_BUILT_IN: dict[str, MetricInfo] = {
    "kid_effnet": _effnet(
        KidEffnet, "kernel distance to the train pictures on EfficientNet-Lite0 features, unbiased"
    ),
    "fd_effnet": _effnet(
        FdEffnet, "Fréchet distance to the train pictures on EfficientNet-Lite0 features (not FID)"
    ),
    "precision_effnet": _effnet(
        PrecisionEffnet, "share of pictures within the real ones, on EfficientNet-Lite0 features"
    ),
    "recall_effnet": _effnet(
        RecallEffnet,
        "share of real pictures within the sampled ones, on EfficientNet-Lite0 features",
    ),
    "density_effnet": _effnet(
        DensityEffnet, "real neighbourhoods a picture lies in, on EfficientNet-Lite0 features"
    ),
    "coverage_effnet": _effnet(
        CoverageEffnet,
        "share of real pictures with a sampled one near, on EfficientNet-Lite0 features",
    ),
    "alignment": _text(Alignment, _ALIGNED, recombined=False, needs_clip=False),
    "alignment_recombined": _text(Alignment, _ALIGNED, recombined=True, needs_clip=False),
    "fid": _inception(Fid, "Fréchet Inception Distance to the train pictures"),
    "kid": _inception(Kid, "Kernel Inception Distance to the train pictures, unbiased"),
    "cmmd": MetricInfo(
        direction=Cmmd.direction,
        version=Cmmd.version,
        description="1000 · kernel distance to the train pictures on CLIP embeddings, unbiased",
        axis="fidelity",
        build=Cmmd,
        uses=("clip",),
        needs_setting="clip",
        needs_file=CLIP_NEEDED,
    ),
    "clip_score": _text(ClipScore, _CLIP, recombined=False, needs_clip=True),
    "clip_score_recombined": _text(ClipScore, _CLIP, recombined=True, needs_clip=True),
}

METRICS: dict[str, MetricInfo] = _BUILT_IN | load_plugins(
    "archsearch.metrics", [field.name for field in fields(MetricInfo)], _BUILT_IN
)


def metric_info(name: str) -> MetricInfo:
    """What is known of a metric.

    Raises:
        InputError: There is no such metric.
    """
    if name not in METRICS:
        raise InputError(
            f"metrics: unknown metric '{name}'.{nearest(name, METRICS)} Allowed: "
            f"{', '.join(METRICS)}."
        )
    return METRICS[name]


def check_settings(
    name: str, settings: MetricSettings, at: str | None = None, give: str | None = None
) -> None:
    """Refuse a metric whose file the settings do not name.

    Args:
        name: A key of :data:`METRICS`.
        settings: The ``metrics:`` section.
        at: Where the metric was asked for, for the message; by default the key that is missing.
        give: What gives the file, for the message; by default ``--set``.

    Raises:
        InputError: There is no such metric, or it needs a setting that is not given.
    """
    info = metric_info(name)
    key = info.needs_setting
    if key is not None and getattr(settings, key) is None:
        free = [
            other
            for other, its in METRICS.items()
            if (its.axis, its.prompts, its.needs_setting) == (info.axis, info.prompts, None)
        ]
        raise InputError(
            f"{at or f'metrics.{key}'}: {name} needs {info.needs_file}; no package carries it. "
            f"Give it with {give or f'--set metrics.{key}=/path'}"
            + (f", or use {' or '.join(free[:2])}." if free else ".")
        )


def build_metric(
    name: str, data: Reference, settings: MetricSettings, networks: Networks | None = None
) -> Metric:
    """Build a metric over ``data``; the features of its real pictures are computed on first use and
    cached.

    Args:
        name: A key of :data:`METRICS`.
        data: The real pictures.
        settings: The ``metrics:`` section.
        networks: What it shares with other metrics, see
            :func:`archsearch.metrics.evaluate.build_metrics`.

    Raises:
        InputError: There is no such metric, or a file it needs is missing or unusable.
    """
    check_settings(name, settings)
    return METRICS[name].build(data, settings, networks or Networks(settings))
