"""What a candidate costs at deployment scale: counted, and predicted for every device of the study."""

from collections.abc import Sequence
from dataclasses import dataclass

from archsearch.cost.price import price
from archsearch.study.deployment import Pipeline
from archsearch.study.devices import Device
from archsearch.study.scores import of_device
from archsearch.study.spec import StudySpec
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import plan


@dataclass(frozen=True)
class Costs:
    """Scores of a candidate that need no training."""

    scores: dict[str, float]
    note: str = ""
    """What has to be said of the latencies, by device: ``phone: published estimate; laptop: 3 of its units estimated``."""


def costs_of(config: UNetConfig, spec: StudySpec, devices: Sequence[Device], steps: int | None = None) -> Costs:
    """Count and predict.

    Args:
        config: The candidate, at deployment scale.
        spec: The study.
        devices: Its devices.
        steps: Steps a picture takes; by default as ``deployment.pipeline`` says.

    Raises:
        MissingEntryError: A table lacks one of its units; the message names them.
        OutsideFamilyError: A published table says nothing of networks of this family.
    """
    network = plan(config)
    counted = price(network)
    scores: dict[str, float] = {
        "params": counted.params,
        "macs": counted.macs,
        "peak_activation_bytes": counted.peak_activation_bytes,
    }
    if not devices:
        return Costs(scores)
    found = {device.name: device.predict(network, spec.deployment.on_missing) for device in devices}
    each = {name: prediction.latency_ms for name, prediction in found.items()}
    scores["latency_ms"] = max(each.values())
    # One table's own score says again what latency_ms says: it is there where it is asked for.
    scores |= {of_device(name): ms for name, ms in each.items() if len(each) > 1 or of_device(name) in spec.used}
    marks = [(name, prediction.mark) for name, prediction in found.items()]
    references = {device.name: device.reference for device in devices if device.reference}
    if references:
        scores["latency_ratio"] = max(each[name] / reference.latency_ms for name, reference in references.items())
        marks += [(f"{name}, reference", reference.mark) for name, reference in references.items()]
    if spec.deployment.pipeline:
        scores |= _pipeline(spec.deployment.pipeline, devices, each, steps)
    return Costs(scores, "; ".join(f"{name}: {mark}" for name, mark in marks if mark))


def _pipeline(pipeline: Pipeline, devices: Sequence[Device], each: dict[str, float], steps: int | None) -> dict[str, float]:
    """From prompt to picture, on the slowest device: text encoder + steps x passes x UNet + decoder."""
    passes = (pipeline.steps if steps is None else steps) * pipeline.passes_a_step
    scores = {"pipeline_unet_ms": passes * max(each.values())}
    whole = [device.parts_ms + passes * each[device.name] for device in devices if device.parts_ms is not None]
    return scores | ({"pipeline_ms": max(whole)} if whole else {})
