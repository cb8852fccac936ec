"""The scores a study knows: what can be an objective, a reported column or a limit, and where each comes from."""

import re
from dataclasses import dataclass
from typing import Literal

from archsearch.metrics.registry import METRICS

Source = Literal["counted", "predicted", "trained", "quantised", "sampled"]


@dataclass(frozen=True)
class Score:
    """One number of a candidate.

    ``source`` says how it is had: counted in closed form, predicted from a latency table (both at deployment scale), from
    training the proxy, from the trained proxy in int8, or from sampling it.
    """

    direction: Literal["minimize", "maximize"]
    source: Source
    label: str


_OURS: dict[str, Score] = {
    "params": Score("minimize", "counted", "parameters"),
    "macs": Score("minimize", "counted", "MACs"),
    "peak_activation_bytes": Score("minimize", "counted", "peak activation bytes"),
    "latency_ms": Score("minimize", "predicted", "latency of one UNet pass (ms)"),
    "latency_ratio": Score("minimize", "predicted", "latency against the reference network, worst device"),
    "pipeline_unet_ms": Score("minimize", "predicted", "latency of all UNet passes (ms)"),
    "pipeline_ms": Score("minimize", "predicted", "latency of the pipeline, from prompt to picture (ms)"),
    "val_loss": Score("minimize", "trained", "held-out denoising loss (EMA weights)"),
    "val_loss_fine": Score("minimize", "trained", "held-out denoising loss in the third of least noise"),
    "val_loss_middle": Score("minimize", "trained", "held-out denoising loss in the middle third of noise"),
    "val_loss_coarse": Score("minimize", "trained", "held-out denoising loss in the third of most noise"),
    "val_loss_int8": Score("minimize", "quantised", "held-out denoising loss with int8 weights and activations"),
}

SCORES: dict[str, Score] = _OURS | {
    name: Score(info.direction, "sampled", info.description) for name, info in METRICS.items() if name not in _OURS
}

LATENCY = tuple(name for name, score in SCORES.items() if score.source == "predicted")
LIMITABLE = tuple(name for name, score in SCORES.items() if score.source in ("counted", "predicted"))
SAMPLED = tuple(name for name, score in SCORES.items() if score.source == "sampled")
QUANTISED = tuple(name for name, score in SCORES.items() if score.source == "quantised")
MEASURED = SAMPLED + QUANTISED
"""Scores taken from a trained network, when they are asked for."""
OF_PROXY: tuple[Source, ...] = ("trained", "quantised", "sampled")
"""Sources of quality: they need a training, and belong to proxy scale."""
OF_STEPS = frozenset({"pipeline_unet_ms", "pipeline_ms"})
"""Costs that grow with the number of steps a picture takes."""

_OF_DEVICE = re.compile(r"latency_ms\[(.+)\]")


def of_device(device: str) -> str:
    """Name of the score that is ``latency_ms`` on one device."""
    return f"latency_ms[{device}]"


def device_of(name: str) -> str | None:
    """The device of ``latency_ms[DEVICE]``, or None where ``name`` is not of that form."""
    match = _OF_DEVICE.fullmatch(name)
    return match[1] if match else None


def is_score(name: str) -> bool:
    """Whether ``name`` is that of a score."""
    return name in SCORES or device_of(name) is not None


def score_of(name: str) -> Score:
    """The score called ``name``.

    Raises:
        KeyError: There is none.
    """
    device = device_of(name)
    return SCORES[name] if device is None else Score("minimize", "predicted", f"latency of one UNet pass on {device} (ms)")


def is_marked(name: str, note: str | None) -> bool:
    """Whether the figure of score ``name`` rests on what the latency note of its trial names: estimates, published figures."""
    if not note or not is_score(name) or score_of(name).source != "predicted":
        return False
    device = device_of(name)
    return device is None or any(part.startswith(f"{device}: ") for part in note.split("; "))
