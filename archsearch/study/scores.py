"""The scores a study knows: what can be an objective, a reported column or a limit, and where each comes from."""

from dataclasses import dataclass
from typing import Literal

from archsearch.metrics.registry import METRICS

Source = Literal["counted", "predicted", "trained", "sampled"]


@dataclass(frozen=True)
class Score:
    """One number of a candidate.

    ``source`` says how it is had: counted in closed form, predicted from a latency table (both at deployment scale), from
    training the proxy, or from sampling the trained proxy.
    """

    direction: Literal["minimize", "maximize"]
    source: Source
    label: str


SCORES: dict[str, Score] = {
    "params": Score("minimize", "counted", "parameters"),
    "macs": Score("minimize", "counted", "MACs"),
    "peak_activation_bytes": Score("minimize", "counted", "peak activation bytes"),
    "latency_ms": Score("minimize", "predicted", "latency of one UNet pass (ms)"),
    "pipeline_unet_ms": Score("minimize", "predicted", "latency of all UNet passes (ms)"),
    "val_loss": Score("minimize", "trained", "held-out denoising loss (EMA weights)"),
} | {name: Score(info.direction, "sampled", info.description) for name, info in METRICS.items()}

LATENCY = tuple(name for name, score in SCORES.items() if score.source == "predicted")
LIMITABLE = tuple(name for name, score in SCORES.items() if score.source in ("counted", "predicted"))
SAMPLED = tuple(name for name, score in SCORES.items() if score.source == "sampled")
