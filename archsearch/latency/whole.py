"""Whole networks beside the sum of their units, and the correction fitted on them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from archsearch.errors import InputError
from archsearch.latency.paired import Sample
from archsearch.latency.predict import MissingEntryError, predict
from archsearch.latency.progress import AGAIN, FULL, Partial
from archsearch.latency.table import Correction, LatencyTable, Whole
from archsearch.unet.config import UNetConfig


def fit_correction(
    pairs: Sequence[tuple[str, float, float]], with_offset: bool = False
) -> Correction:
    """Fit ``measured = scale * sum (+ offset)`` on whole networks.

    The scale alone minimises the mean absolute relative error, so that one odd measurement does not
    bend it: it is the median of measured/sum, weighted by sum/measured. With an offset the squared
    relative error is minimised.

    Args:
        pairs: Digest, sum of the units' medians in ms and measured ms of each network.
        with_offset: Fit an offset too; takes three networks.

    Raises:
        InputError: Too few networks, or they ask for a scale that is not positive.
    """
    least = 3 if with_offset else 1
    if len(pairs) < least:
        raise InputError(
            f"a correction{' with offset' if with_offset else ''} is fitted on {least} or more "
            f"networks, got {len(pairs)}"
        )
    sums, measured = np.array([pair[1] for pair in pairs]), np.array([pair[2] for pair in pairs])
    if with_offset:
        design = np.stack([sums / measured, 1 / measured], axis=1)  # (networks, 2)
        scale, offset = (
            float(value) for value in np.linalg.lstsq(design, np.ones(len(pairs)), rcond=None)[0]
        )
    else:
        scale, offset = _weighted_median(measured / sums, sums / measured), 0.0
    if scale <= 0:
        raise InputError(
            f"the networks ask for a scale that is not positive ({scale=:.3g}): fit without "
            "offset or measure more"
        )
    return Correction(scale=scale, offset=offset, fitted_on=[digest for digest, _, _ in pairs])


def _weighted_median(
    values: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    weights: "np.ndarray[tuple[int], np.dtype[np.float64]]",
) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    lower = int(np.searchsorted(cumulative, cumulative[-1] / 2))
    return float(values[order][lower])


Named = tuple[str, UNetConfig]


@dataclass(frozen=True)
class WholeNetworks:
    """Networks to measure whole."""

    named: Sequence[Named] = ()
    fit_on: Collection[str] = ()
    """Names of those that the correction is fitted on; the others show how well it predicts."""
    again: int = 0
    """How many of them are measured a second time, later: what lies between the two is the noise of
    measuring.
    """
    full: int = 0
    """How many of them are measured also where the runtime optimises as far as it can."""

    @property
    def distinct(self) -> list[Named]:
        """Each network once, under its first name."""
        found: dict[str, Named] = {}
        for name, config in self.named:
            found.setdefault(config.digest, (name, config))
        return list(found.values())


def samples_of(config: UNetConfig, partial: Partial) -> dict[str, Sample]:
    """What was measured of a network, by variant; nothing where the first measurement is missing."""
    found = {
        variant: sample for variant in ("", AGAIN, FULL) if (sample := partial.get(config, variant))
    }
    return found if "" in found else {}


def whole_line(
    name: str,
    config: UNetConfig,
    samples: dict[str, Sample],
    reference_p50: float,
    predicted: float,
) -> Whole:
    """Line of a network in a table: all samples of its measurements together, but for the fully
    optimised one.
    """
    plain = [sample for variant, sample in samples.items() if variant != FULL]
    medians = [sample.p50(reference_p50) for sample in plain]
    n, p10, p50, p90 = Sample.together(plain).percentiles(reference_p50)
    line = Whole(
        config=config.digest,
        name=name,
        measured=round(float(np.mean(medians)), 6) if len(medians) > 1 else p50,
        predicted=predicted,
        n=n,
        p10=p10,
        p90=p90,
        repeat=round(abs(medians[1] / medians[0] - 1), 5) if len(medians) > 1 else None,
        full=samples[FULL].p50(reference_p50) if FULL in samples else None,
    )
    return line.predicting(predicted)


def with_whole(table: LatencyTable, whole: WholeNetworks, partial: Partial) -> LatencyTable:
    """Add whole networks, measured and predicted; fit the correction first if asked to.

    What stands in the table already keeps what was measured. A network that failed, or a unit of
    it, is left out: the outcome of measuring names it. Where none is left to fit on, the correction
    stays.
    """
    raw = table.replace(correction=Correction())
    known = {line.config: line for line in table.whole}
    lines: dict[str, Whole] = {}
    sums: dict[str, float] = {}
    for name, config in whole.distinct:
        try:
            total = predict(config, raw).latency_ms
        except MissingEntryError:
            continue
        samples = samples_of(config, partial)
        if samples:
            lines[config.digest] = whole_line(
                name, config, samples, table.reference.p50, table.correction.apply(total)
            )
        elif config.digest in known:
            lines[config.digest] = known[config.digest]
        sums[config.digest] = total
    digests = {config.digest for name, config in whole.named if name in whole.fit_on}
    fitted = [
        (digest, sums[digest], line.measured) for digest, line in lines.items() if digest in digests
    ]
    if fitted:
        new, old = fit_correction(fitted), table.correction
        lines = {digest: line.predicting(new.apply(sums[digest])) for digest, line in lines.items()}
        kept = [
            line.predicting(new.apply((line.predicted - old.offset) / old.scale))
            for line in table.whole
        ]
        table = table.replace(correction=new, whole=kept)
    return table.replace(
        whole=[*(line for line in table.whole if line.config not in lines), *lines.values()]
    )
