"""The known metrics: a row for each of ours, and those of installed packages."""

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

from archsearch.errors import InputError, check_known
from archsearch.metrics.spec import (
    CLIP_NEEDED,
    INCEPTION_NEEDED,
    Direction,
    MetricInfo,
    MetricSettings,
    Prompts,
)
from archsearch.plugins import load_plugins

if TYPE_CHECKING:
    from archsearch.metrics.base import Metric, Reference
    from archsearch.metrics.networks import Networks

_Row = tuple[str, MetricInfo]
_NEEDED = {"inception": INCEPTION_NEEDED, "clip": CLIP_NEEDED}


def _fidelity(
    name: str,
    metric: Literal["KernelMetric", "FrechetMetric", "ManifoldMetric", "Cmmd"],
    network: Literal["effnet", "inception", "clip"],
    version: int,
    description: str,
    direction: Direction = "minimize",
    compare: Literal["precision", "recall", "density", "coverage"] | None = None,
    **options: Any,
) -> _Row:
    # A distance, or another score, between the features that a network gives both sides; classes
    # and functions are named, for what computes is imported when it is needed.

    def build(data: "Reference", settings: MetricSettings, networks: "Networks") -> "Metric":
        from archsearch.metrics import distances

        how = {} if compare is None else {"compare": getattr(distances, compare)}
        made: Metric = getattr(distances, metric)(
            getattr(networks, network), data, settings, name=name, version=version, **how, **options
        )
        return made

    return name, MetricInfo(
        direction=direction,
        version=version,
        description=description,
        axis="fidelity",
        build=build,
        uses=(network,),
        needs_setting=None if network == "effnet" else network,
        needs_file=_NEEDED.get(network),
    )


def _text(
    name: str,
    metric: Literal["Alignment", "ClipScore"],
    needs: Literal["clip"] | None,
    version: int,
    description: str,
) -> tuple[_Row, _Row]:
    def info(prompts: Prompts, description: str) -> MetricInfo:
        def build(data: "Reference", settings: MetricSettings, networks: "Networks") -> "Metric":
            from archsearch.metrics import text

            made: Metric = getattr(text, metric)(data, settings, networks, prompts=prompts)
            return made

        return MetricInfo(
            direction="maximize",
            version=version,
            description=description,
            axis="text",
            build=build,
            prompts=prompts,
            uses=(needs,) if needs else ("effnet", "text"),
            needs_setting=needs,
            needs_file=_NEEDED.get(needs or ""),
        )

    recombined = info("recombined", f"{description}, on recombinations")
    return (name, info("seen", description)), (f"{name}_recombined", recombined)


_ON_EFFNET = "on EfficientNet-Lite0 features"
_BUILT_IN: dict[str, MetricInfo] = dict(
    [
        _fidelity(
            "kid_effnet",
            "KernelMetric",
            "effnet",
            1,
            f"kernel distance to the train pictures {_ON_EFFNET}, unbiased",
        ),
        _fidelity(
            "fd_effnet",
            "FrechetMetric",
            "effnet",
            2,
            f"Fréchet distance to the train pictures {_ON_EFFNET} (not FID)",
        ),
        _fidelity(
            "precision_effnet",
            "ManifoldMetric",
            "effnet",
            1,
            f"share of pictures within the real ones, {_ON_EFFNET}",
            direction="maximize",
            compare="precision",
        ),
        _fidelity(
            "recall_effnet",
            "ManifoldMetric",
            "effnet",
            1,
            f"share of real pictures within the sampled ones, {_ON_EFFNET}",
            direction="maximize",
            compare="recall",
        ),
        _fidelity(
            "density_effnet",
            "ManifoldMetric",
            "effnet",
            2,
            f"real neighbourhoods a picture lies in, {_ON_EFFNET}",
            direction="maximize",
            compare="density",
            bounds=(0.0, math.inf),
        ),
        _fidelity(
            "coverage_effnet",
            "ManifoldMetric",
            "effnet",
            1,
            f"share of real pictures with a sampled one near, {_ON_EFFNET}",
            direction="maximize",
            compare="coverage",
        ),
        *_text(
            "alignment",
            "Alignment",
            None,
            1,
            "cosine of image and caption under a contrastive model fitted to the train pictures",
        ),
        _fidelity(
            "fid",
            "FrechetMetric",
            "inception",
            2,
            "Fréchet Inception Distance to the train pictures",
        ),
        _fidelity(
            "kid",
            "KernelMetric",
            "inception",
            1,
            "Kernel Inception Distance to the train pictures, unbiased",
        ),
        _fidelity(
            "cmmd",
            "Cmmd",
            "clip",
            1,
            "1000 · kernel distance to the train pictures on CLIP embeddings, unbiased",
        ),
        *_text(
            "clip_score",
            "ClipScore",
            "clip",
            1,
            "100 · cosine of image and caption under CLIP",
        ),
    ]
)

METRICS: dict[str, MetricInfo] = _BUILT_IN | load_plugins(
    "archsearch.metrics", [field.name for field in fields(MetricInfo)], _BUILT_IN
)


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
    check_known(name, METRICS, f"metrics: '{name}' is not known")
    info = METRICS[name]
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
