"""From what a tool timed to samples: ratios to the reference that ran before and after."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from archsearch.errors import InputError
from archsearch.latency.paired import Sample
from archsearch.latency.phone.manifest import REFERENCE_KEY


@dataclass(frozen=True, slots=True)
class Timing:
    """One run of a tool on one model: times in ms, or why there are none."""

    key: str
    times_ms: tuple[float, ...] = ()
    failed: str | None = None


@dataclass
class Returned:
    """What came back from a device, by key."""

    samples: dict[str, Sample] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    version: str | None = None
    """Version of the library there, where the results tell."""
    threads: int | None = None


def read_ms(text: str, path: Path, where: str) -> float:
    """Read a time as a tool wrote it.

    Raises:
        InputError: It is no number; ``where`` in ``path`` says which.
    """
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{path}: {where}: a time was expected, but got {text!r}.") from error


def pair(timings: Sequence[Timing]) -> Returned:
    """Turn timings, in the order of measuring, into samples.

    A thing's times are divided by the mean of two medians: of the reference's last run before it and of its next run after it. What
    has no reference on both sides, as where measuring was cut off, is left out.
    """
    returned = Returned()
    reference = {index: float(np.median(each.times_ms)) for index, each in enumerate(timings) if _is_reference(each)}
    for index, timing in enumerate(timings):
        if timing.key == REFERENCE_KEY:
            continue
        if timing.failed is not None:
            returned.failed[timing.key] = timing.failed
            continue
        before = next((reference[at] for at in range(index, -1, -1) if at in reference), None)
        after = next((reference[at] for at in range(index, len(timings)) if at in reference), None)
        if before is not None and after is not None:
            mean = (before + after) / 2
            returned.samples[timing.key] = Sample(ratios=[ms / mean for ms in timing.times_ms], reference=[before, after])
    return returned


def _is_reference(timing: Timing) -> bool:
    return timing.key == REFERENCE_KEY and timing.failed is None
